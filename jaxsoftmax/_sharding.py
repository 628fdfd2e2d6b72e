"""Rows whose classes are sharded over the devices of a mesh, in shards of equal size (M22).

Each device holds the state (m_i, r_i) of its own classes, and sums of margins Σ_j w_j (m_i - z_j) over them. With
m = max_i m_i those of the whole row are

    r = Σ_{m_i = m} (r_i + 1) - 1 + Σ_{m_i < m} exp(m_i - m) (1 + r_i)
    Σ_j w_j (m - z_j) = Σ_i [Σ_j w_j (m_i - z_j) + (m - m_i) Σ_j w_j]

one maximum and one sum over the devices. Nothing cancels: where a single shard has the maximum, its r_i is added to
1 - 1.
"""

import math
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from jaxsoftmax import _checks
from jaxsoftmax._explicit_axes import is_sharded
from jaxsoftmax._math.lse_state import LseState, is_confident


@dataclass(frozen=True)
class Shards:
    """The mesh axes over which classes and tokens are sharded; none where every device has them all."""

    classes: tuple[str, ...] = ()
    tokens: tuple[str, ...] = ()
    unpadded: int | None = None  # V, where the last columns of the last shards are no classes

    def vocab(self, local_vocab: int) -> int:
        """V, where each shard has `local_vocab` columns."""
        if not self.classes:
            return local_vocab
        return self.unpadded or local_vocab * math.prod(lax.axis_size(axis) for axis in self.classes)

    def class_offset(self, local_vocab: int) -> Array | int:
        """The number of this shard's first class."""
        return lax.axis_index(self.classes) * local_vocab if self.classes else 0

    def psum(self, terms: Any) -> Any:
        """The sum over the classes' shards, of an array or of several of one shape."""
        return _summed(terms, self.classes) if self.classes else terms

    def pmax(self, number: Array) -> Array:
        """The largest value on the classes' shards."""
        return lax.pmax(number, self.classes) if self.classes else number

    def merge_margin_sum(self, whole: LseState, own: LseState, margin_sum: Array) -> Array:
        """Σ_j exp(z_j - m) (m - z_j) of whole rows, as Σ_i exp(m_i - m) (S_i + (m - m_i) (1 + r_i)) over the shards.

        S_i is the shard's own sum, about its own maximum m_i.
        """
        if not self.classes:
            return margin_sum
        drop = whole.maximum - own.maximum
        share = jnp.exp(-drop)
        moved = jnp.where(share == 0, 0, share * (margin_sum + jnp.where(share == 0, 0, drop) * (1 + own.remainder)))
        return lax.psum(moved, self.classes)

    def first_of_largest(self, values: Array, numbers: Array) -> Array:
        """The smallest of `numbers` over the shards with the largest value; NaN counts as the largest."""
        nan = jnp.isnan(values)  # which XLA's maximum over a CPU's devices leaves out
        any_nan = lax.pmax(nan.astype(numbers.dtype), self.classes) > 0
        at_maximum = jnp.where(any_nan, nan, values == lax.pmax(values, self.classes))
        return lax.pmin(jnp.where(at_maximum, numbers, jnp.iinfo(numbers.dtype).max), self.classes)

    def psum_over_tokens(self, terms: Array) -> Array:
        """The sum over the tokens' shards."""
        return lax.psum(terms, self.tokens) if self.tokens else terms

    def merge_lse(
        self, state: LseState, margins: tuple[Any, ...] = (), weights: tuple[Any, ...] = ()
    ) -> tuple[LseState, tuple[Any, ...]]:
        """The state of whole rows, and sums of w_j (m - z_j) for each of several w, from those of this shard (M22).

        Args:
          state: of this shard's classes.
          margins: sums of w_j (m_i - z_j) over this shard's classes, shaped as the state; or None.
          weights: the sums of their w_j, which are constants; None where the margins are.
        """
        return _merged(self.classes, state, margins, weights) if self.classes else (state, margins)


NOT_SHARDED = Shards()


def merge_stacked(
    state: LseState, margins: tuple[Any, ...] = (), weights: tuple[Any, ...] = ()
) -> tuple[LseState, tuple[Any, ...]]:
    """`Shards.merge_lse` of arrays whose first axis is over parts of a row, all of them on this device."""
    return jax.tree.map(lambda array: array[0], _merged(None, state, margins, weights))


def shards_of_axis(axis_name: Any) -> Shards:
    """Classes sharded over a mesh axis, or several, of the `jax.shard_map` around.

    Raises:
      TypeError: `axis_name` is not a name, or several.
      ValueError: there is no such axis; or gradients would lack a sum, as JAX doesn't track what varies over it.
    """
    axes = _checks.as_axis_names("axis_name", axis_name)
    if not axes:
        return NOT_SHARDED
    try:
        index = lax.axis_index(axes)
    except NameError as error:
        raise ValueError(f"axis_name: expected an axis of the jax.shard_map around, got {axis_name!r}") from error
    if not set(axes) <= vma_of(index):
        raise ValueError(f"axis_name: expected an axis of a jax.shard_map with check_vma=True, got {axis_name!r}")
    return Shards(axes)


def vma_of(arrays: Any) -> frozenset[str]:
    """The manual mesh axes over which some of the arrays differ from device to device (JAX's "varying manual axes")."""
    return frozenset().union(*(jax.typeof(array).mat.varying for array in jax.tree.leaves(arrays)))


def pvary(arrays: Any, axes: frozenset[str]) -> Any:
    """The arrays, each typed as varying over these axes too; the transpose is a sum over them."""

    def of_one(array: Array) -> Array:
        missing = tuple(sorted(axes - vma_of(array)))
        return lax.pcast(array, missing, to="varying") if missing else array

    return jax.tree.map(of_one, arrays)


def pvary_with(shards: Shards, arrays: Any, others: Any) -> Any:
    """`arrays`, typed as varying over the class axes and every axis that an array of either argument varies over."""
    return pvary(arrays, vma_of((arrays, others)).union(shards.classes))


def require_sharded(shards: Shards, name: str, array: Array) -> None:
    """ValueError unless an array over classes varies over their axes: else every class would count once a device."""
    if not set(shards.classes) <= vma_of(array):
        raise ValueError(
            f"{name}: expected this device's shard along axis_name={shards.classes}, got the same on all its devices"
        )


def require_unsharded(arrays: Any, instead: str) -> None:
    """ValueError if the type of an array says that it is sharded, over an Explicit axis of a mesh.

    `arrays` is a NamedTuple of arguments; the error names its field.
    """
    for path, array in jax.tree_util.tree_leaves_with_path(arrays):
        if is_sharded(array):
            name = jax.tree_util.keystr(path, simple=True, separator=".")
            got = f"{jax.typeof(array)}: use {instead}"
            raise ValueError(f"{name}: expected an array that isn't sharded over Explicit axes, got {got}")


def match_vma(shards: Shards, of_classes: Any, of_tokens: Any) -> tuple[Any, Any]:
    """Types arrays as varying over every axis that one of them varies over; tokens not over the class axes.

    Raises:
      ValueError: the tokens differ from shard to shard of the classes.
    """
    if vma_of(of_tokens) & set(shards.classes):
        raise ValueError(
            f"labels and token_weights: expected the same on all devices of axis_name={shards.classes}, got ones that "
            f"vary over {tuple(sorted(vma_of(of_tokens)))}; where tokens are sharded over it, gather them all, hidden "
            "states or logits too, and then say with jax.lax.pmax of the labels that they are equal"
        )
    axes = vma_of((of_classes, of_tokens)).union(shards.classes)
    return pvary(of_classes, axes), pvary(of_tokens, axes - set(shards.classes))


def psum_to_vma(axes: frozenset[str], gradient: Array) -> Array:
    """The gradient in an argument that varies over `axes`: summed over all devices that share the argument."""
    shared = tuple(sorted(vma_of(gradient) - axes))
    return pvary(lax.psum(gradient, shared) if shared else gradient, axes)


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def _merged(
    axes: tuple[str, ...] | None, state: LseState, margins: tuple[Any, ...], weights: tuple[Any, ...]
) -> tuple[LseState, tuple[Any, ...]]:
    # Must differentiate correctly without the rule below: JAX 0.10 skips it in forward mode over a scan's reverse mode.
    # So the maximum is a constant, and a drop of 0 still has a derivative.
    maximum = _largest(lax.stop_gradient(state.maximum), axes)
    at_maximum = state.maximum == maximum
    drop = jnp.where(at_maximum & jnp.isinf(maximum), 0, maximum - state.maximum)
    total = 1 + state.remainder
    remainder = jnp.where(at_maximum, state.remainder - drop * total, jnp.exp(-drop) * total)
    margins = jax.tree.map(lambda margin, w: margin + jnp.where(w == 0, 0, w * drop), margins, weights)
    remainder, holders, margins = _summed((remainder, at_maximum.astype(remainder.dtype), margins), axes)
    return LseState(maximum, remainder + (holders - 1)), margins


@_merged.defjvp
def _merged_jvp(axes, primals, tangents):
    """Any dm goes with dr = Σ_i share_i (dr_i + (1 + r_i)(dm_i - dm)), where share_i = exp(m_i - m).

    Where one entry dominates, its shard alone has the maximum, and dm is its dm_i: then the tail of dr_i is kept.
    Else dm = 0.
    """
    (state, margins, weights), (state_dot, margins_dot, _) = primals, tangents
    merged, sums = _merged(axes, state, margins, weights)
    dominates = (state.maximum == merged.maximum) & is_confident(merged)
    maximum_dot = _summed(jnp.where(dominates, state_dot.maximum, 0), axes)
    moved = state_dot.maximum - maximum_dot
    share = jnp.exp(state.maximum - merged.maximum)
    remainder_dot = share * (state_dot.remainder + (1 + state.remainder) * moved)
    margins_dot = jax.tree.map(lambda margin_dot, w: margin_dot - w * moved, margins_dot, weights)
    remainder_dot, margins_dot = _summed((remainder_dot, margins_dot), axes)
    return (merged, sums), (LseState(maximum_dot, remainder_dot), margins_dot)


def _largest(array: Array, axes: tuple[str, ...] | None) -> Array:
    """The largest on all devices; without axes, over the first axis of the array."""
    return jnp.max(array, 0, keepdims=True) if axes is None else lax.pmax(array, axes)


def _summed(terms: Any, axes: tuple[str, ...] | None) -> Any:
    """Arrays of one shape, each summed over the devices, in one collective; without axes, over their first axis."""
    if axes is None:
        return jax.tree.map(lambda array: jnp.sum(array, 0, keepdims=True), terms)
    leaves, tree = jax.tree.flatten(terms)
    return jax.tree.unflatten(tree, lax.psum(jnp.stack(leaves), axes))
