"""Rows whose classes are spread over the devices of a mesh, in shards of equal size (M22).

Each device holds the state (m_i, r_i) of its own classes, and sums of gaps Σ_j w_j (m_i - z_j) over them. With
m = max_i m_i those of the whole row are

    r = Σ_{m_i = m} (r_i + 1) - 1 + Σ_{m_i < m} exp(m_i - m) (1 + r_i)
    Σ_j w_j (m - z_j) = Σ_i [Σ_j w_j (m_i - z_j) + (m - m_i) Σ_j w_j]

one maximum and one sum over the devices. Nothing cancels: where a single shard leads, its r_i is added to 1 - 1.
"""

import math
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from jaxsoftmax import _checks, _lse_state
from jaxsoftmax._lse_state import LseState


@dataclass(frozen=True)
class Shards:
    """The mesh axes over whose devices classes and tokens are spread; none where every device has them all."""

    classes: tuple[str, ...] = ()
    tokens: tuple[str, ...] = ()
    unpadded: int | None = None  # V, where the last columns of the last shards are no classes

    def vocab(self, columns: int) -> int:
        """V, where a shard has so many columns."""
        return self.unpadded or columns * math.prod(lax.axis_size(axis) for axis in self.classes)

    def first(self, columns: int) -> Array | int:
        """The number of this shard's first class."""
        return lax.axis_index(self.classes) * columns if self.classes else 0

    def sum(self, terms: Any) -> Any:
        """The sum over the classes' shards, of an array or of several of one shape."""
        return _summed(terms, self.classes) if self.classes else terms

    def maximum(self, number: Array) -> Array:
        """The largest of the classes' shards."""
        return lax.pmax(number, self.classes) if self.classes else number

    def sum_of_tokens(self, terms: Array) -> Array:
        """The sum over the tokens' shards."""
        return lax.psum(terms, self.tokens) if self.tokens else terms

    def join(
        self, state: LseState, gaps: tuple[Any, ...] = (), weights: tuple[Any, ...] = ()
    ) -> tuple[LseState, tuple[Any, ...]]:
        """The state of whole rows, and sums of w_j (m - z_j) for each of several w, from those of this shard.

        Args:
          state: of this shard's classes.
          gaps: sums of w_j (m_i - z_j) over them, shaped as the state; or None.
          weights: the sums of their w_j, which are constants; None where the gaps are.
        """
        return _joined(self.classes, state, gaps, weights) if self.classes else (state, gaps)


def of_axis(axis_name: Any) -> Shards:
    """Classes spread over a mesh axis, or several, of the `jax.shard_map` around.

    Raises:
      TypeError: not a name, or several.
      ValueError: no such axis; or the gradients would lack a sum, as JAX doesn't track what varies over it.
    """
    axes = _checks.as_axis_names("axis_name", axis_name)
    if not axes:
        return NOT_SHARDED
    try:
        index = lax.axis_index(axes)
    except NameError as error:
        raise ValueError(f"axis_name: expected an axis of the jax.shard_map around, got {axis_name!r}") from error
    if not set(axes) <= varying(index):
        raise ValueError(f"axis_name: expected an axis of a jax.shard_map with check_vma=True, got {axis_name!r}")
    return Shards(axes)


def varying(arrays: Any) -> frozenset[str]:
    """The mesh axes of a `jax.shard_map` around over which some of the arrays differ from device to device."""
    return frozenset().union(*(jax.typeof(array).mat.varying for array in jax.tree.leaves(arrays)))


def cast(arrays: Any, axes: frozenset[str]) -> Any:
    """The arrays, each to be seen as varying over these axes too: the transpose is a sum over them."""

    def of_one(array: Array) -> Array:
        missing = tuple(sorted(axes - varying(array)))
        return lax.pcast(array, missing, to="varying") if missing else array

    return jax.tree.map(of_one, arrays)


def require_spread(shards: Shards, name: str, array: Array) -> None:
    """ValueError unless an array over classes varies over their axes: else every class would count once a device."""
    if not set(shards.classes) <= varying(array):
        raise ValueError(
            f"{name}: expected this device's shard along axis_name={shards.classes}, got the same on all its devices"
        )


def alike(shards: Shards, of_classes: Any, of_tokens: Any) -> tuple[Any, Any]:
    """Both cast to vary over every axis that one of them varies over, but tokens not over those of the classes.

    Raises:
      ValueError: tokens that differ from shard to shard.
    """
    if varying(of_tokens) & set(shards.classes):
        raise ValueError(
            f"labels and token_weights: expected the same on all devices of axis_name={shards.classes}, got ones that "
            f"vary over {tuple(sorted(varying(of_tokens)))}; where tokens are spread over it, gather them all, hidden "
            "states or logits too, and then say with jax.lax.pmax of the labels that they are equal"
        )
    axes = varying((of_classes, of_tokens)).union(shards.classes)
    return cast(of_classes, axes), cast(of_tokens, axes - set(shards.classes))


def summed_to(axes: frozenset[str], gradient: Array) -> Array:
    """The gradient in an argument that varies over `axes`: summed over all devices that share the argument."""
    shared = tuple(sorted(varying(gradient) - axes))
    return cast(lax.psum(gradient, shared) if shared else gradient, axes)


NOT_SHARDED = Shards()


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def _joined(
    axes: tuple[str, ...], state: LseState, gaps: tuple[Any, ...], weights: tuple[Any, ...]
) -> tuple[LseState, tuple[Any, ...]]:
    # Right without the rule below too, which JAX 0.10 leaves out in forward mode over the reverse mode of a scan:
    # hence a maximum that is constant, and a drop of 0 whose derivative isn't.
    maximum = lax.pmax(lax.stop_gradient(state.maximum), axes)
    leads = state.maximum == maximum
    drop = jnp.where(leads & jnp.isinf(maximum), 0, maximum - state.maximum)
    total = 1 + state.remainder
    remainder = jnp.where(leads, state.remainder - drop * total, jnp.exp(-drop) * total)
    gaps = jax.tree.map(lambda gap, weight: gap + jnp.where(weight == 0, 0, weight * drop), gaps, weights)
    remainder, leaders, gaps = _summed((remainder, leads.astype(remainder.dtype), gaps), axes)
    # XLA CPU leaves NaN out of a maximum over devices: where all are NaN, -inf remains.
    maximum = jnp.where((maximum == -jnp.inf) & jnp.isnan(remainder), jnp.nan, maximum)
    return LseState(maximum, remainder + (leaders - 1)), gaps


@_joined.defjvp
def _joined_jvp(axes, primals, tangents):
    """As of an array: any dm goes with dr = sum_i share_i (dr_i + (1 + r_i)(dm_i - dm)).

    Where one entry dominates its shard leads alone, and dm is its dm_i: then the tail of dr_i is kept. Else dm = 0.
    """
    (state, gaps, weights), (state_dot, gaps_dot, _) = primals, tangents
    joined, sums = _joined(axes, state, gaps, weights)
    dominates = (state.maximum == joined.maximum) & (joined.remainder < 1)
    maximum_dot = lax.psum(jnp.where(dominates, state_dot.maximum, 0), axes)
    moved = state_dot.maximum - maximum_dot
    share = _lse_state.exp_shifted(state.maximum, joined.maximum)
    remainder_dot = share * (state_dot.remainder + (1 + state.remainder) * moved)
    gaps_dot = jax.tree.map(lambda gap_dot, weight: gap_dot - weight * moved, gaps_dot, weights)
    remainder_dot, gaps_dot = _summed((remainder_dot, gaps_dot), axes)
    return (joined, sums), (LseState(maximum_dot, remainder_dot), gaps_dot)


def _summed(terms: Any, axes: tuple[str, ...]) -> Any:
    """Arrays of one shape, each summed over the devices, in one collective."""
    leaves, tree = jax.tree.flatten(terms)
    return jax.tree.unflatten(tree, lax.psum(jnp.stack(leaves), axes))
