r"""Rows whose classes are spread over the devices of mesh axes, in shards of equal size (M22).

Each device holds the state (m_i, r_i) of its own classes, and sums of gaps \sum_j w_j (m_i - z_j) over them. With
m = max_i m_i those of the whole row are

    r = \sum_{m_i = m} (r_i + 1) - 1 + \sum_{m_i < m} exp(m_i - m) (1 + r_i)
    \sum_j w_j (m - z_j) = \sum_i [\sum_j w_j (m_i - z_j) + (m - m_i) \sum_j w_j]

one maximum and one sum over the axes. Nothing cancels: where a single shard leads, its r_i is added to 1 - 1.
"""

import math
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from jaxsoftmax import _lse_state
from jaxsoftmax._lse_state import LseState


@dataclass(frozen=True)
class Shards:
    """The mesh axes over whose devices the classes are spread; none, if every device has them all."""

    axes: tuple[str, ...] = ()
    classes: int = 0  # V of all shards; those of the columns at hand if 0
    padded: bool = False  # whether the last columns are no classes

    def vocab(self, columns: int) -> int:
        """V, where a device has so many columns."""
        return self.classes or columns

    def first(self, columns: int) -> Array | int:
        """The number of this shard's first class."""
        return lax.axis_index(self.axes) * columns if self.axes else 0

    def sum(self, terms: Array) -> Array:
        """The sum over all shards."""
        return lax.psum(terms, self.axes) if self.axes else terms

    def are_classes(self, first: Array | int, columns: int) -> Array:
        """Whether a column is a class, of those from number `first` on."""
        return first + jnp.arange(columns) < self.classes

    def join(self, state: LseState, gaps: Array, weights: Array) -> tuple[LseState, Array]:
        """The state of whole rows, and sums of w_j (m - z_j), from those of each shard.

        Args:
          state: of this shard's classes, [*batch, 1] each.
          gaps: sums of w_j (m_i - z_j) over them, [*batch, sums].
          weights: the sums of their w_j, which are constants.
        """
        return _joined(self.axes, state, gaps, weights) if self.axes else (state, gaps)


def of_axis(axis_name: Any, columns: int) -> Shards:
    """The shards over a mesh axis, or several, of the `jax.shard_map` around.

    Raises:
      TypeError: not a name, or several.
      ValueError: no such axis; or the gradients would lack a sum, as JAX doesn't track what varies over it.
    """
    if axis_name is None:
        return Shards()
    axes = (axis_name,) if isinstance(axis_name, str) else axis_name
    if not isinstance(axes, tuple) or not axes or not all(isinstance(axis, str) for axis in axes):
        raise TypeError(f"axis_name: expected a mesh axis, or a tuple of them, got {axis_name!r}")
    try:
        index = lax.axis_index(axes)
    except NameError as error:
        raise ValueError(f"axis_name: expected an axis of the jax.shard_map around, got {axis_name!r}") from error
    if not set(axes) <= _varying(index):
        raise ValueError(f"axis_name: expected an axis of a jax.shard_map with check_vma=True, got {axis_name!r}")
    return Shards(axes, columns * math.prod(lax.axis_size(axis) for axis in axes))


def alike(shards: Shards, of_classes: Any, of_tokens: Any) -> tuple[Any, Any]:
    """Both cast to vary over every mesh axis that one of them varies over, but tokens not over those of the classes.

    The transpose of a cast is a sum: so that is where gradients are summed over devices that share an argument.

    Raises:
      ValueError: tokens that differ from shard to shard.
    """
    axes = frozenset().union(*map(_varying, jax.tree.leaves((of_classes, of_tokens))), shards.axes)
    for token in jax.tree.leaves(of_tokens):
        if _varying(token) & set(shards.axes):
            raise ValueError(f"labels and token_weights: expected the same on all of {shards.axes}, got varying ones")
    cast = partial(_cast, axes=axes)
    return jax.tree.map(cast, of_classes), jax.tree.map(partial(_cast, axes=axes - set(shards.axes)), of_tokens)


def _varying(array: Array) -> frozenset[str]:
    return jax.typeof(array).mat.varying


def _cast(array: Array, axes: frozenset[str]) -> Array:
    return lax.pcast(array, tuple(sorted(axes - _varying(array))), to="varying")


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def _joined(axes: tuple[str, ...], state: LseState, gaps: Array, weights: Array) -> tuple[LseState, Array]:
    maximum = lax.pmax(state.maximum, axes)
    leads = state.maximum == maximum
    others = _lse_state.exp_shifted(state.maximum, maximum) * (1 + state.remainder)
    remainder = jnp.where(leads, state.remainder, others)
    gaps += jnp.where(leads | (weights == 0), 0, weights * (maximum - state.maximum))
    sums = lax.psum(jnp.concatenate([remainder, leads.astype(gaps.dtype), gaps], -1), axes)
    remainder, leaders, gaps = sums[..., :1], sums[..., 1:2], sums[..., 2:]
    return LseState(maximum, remainder + (leaders - 1)), gaps


@_joined.defjvp
def _joined_jvp(axes, primals, tangents):
    """As of a whole row: any dm goes with dr = sum_i share_i (dr_i + (1 + r_i)(dm_i - dm)); dm = dm_i of a dominant one.

    Where one entry dominates its shard leads alone and dm_i - dm is 0 there, so the tail of dr is kept.
    """
    (state, gaps, weights), (state_dot, gaps_dot, _) = primals, tangents
    joined, sums = _joined(axes, state, gaps, weights)
    dominates = (state.maximum == joined.maximum) & (joined.remainder < 1)
    maximum_dot = lax.psum(jnp.where(dominates, state_dot.maximum, 0), axes)
    moved = state_dot.maximum - maximum_dot
    share = _lse_state.exp_shifted(state.maximum, joined.maximum)
    remainder_dot = share * (state_dot.remainder + (1 + state.remainder) * moved)
    gaps_dot -= weights * moved
    sums_dot = lax.psum(jnp.concatenate([remainder_dot, gaps_dot], -1), axes)
    return (joined, sums), (LseState(maximum_dot, sums_dot[..., :1]), sums_dot[..., 1:])
