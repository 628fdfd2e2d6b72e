"""The schedule of a row reduction for XLA's CPU compiler, of rows that lie whole on one device.

What differs from the default: long rows are summed in pieces; what only confident rows need is computed if there are
any; an entry is fetched, not looked for; results are kept in memory where XLA would compute them again.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.custom_batching import custom_vmap
from jax.sharding import AxisType

from jaxsoftmax._math import softmax
from jaxsoftmax._math.classes import class_numbers
from jaxsoftmax._math.lse_state import CONFIDENT, LseState, exp_shifted, state_of_sums

# Rows from SHORT_ROW on are summed in pieces, if a length near PIECE (in short rows an eighth) divides theirs: XLA CPU
# is slow at long sums, and of a confident row only one piece is summed again.
SHORT_ROW = 1 << 9
PIECE = 1 << 8


def fits(rows: Array) -> bool:
    """Whether the sizes are known, and rows surely lie whole on one device; if not, the default is right."""
    known = all(isinstance(size, int) for size in rows.shape)
    spec = jax.typeof(rows).sharding.spec
    return known and _on_one_device() and not any(axes is not None for axes in spec)


def _on_one_device() -> bool:
    """Inside of a `jax.shard_map` over the whole mesh, or where there is no second CPU device to shard over."""
    mesh = jax.sharding.get_abstract_mesh()
    if not mesh.empty:
        return mesh.size == 1 or all(kind == AxisType.Manual for kind in mesh.axis_types)
    try:
        return jax.device_count("cpu") == 1
    except RuntimeError:  # this process can't run a program for a CPU, only export it
        return False


def lse_state(x: Array, axes: tuple[int, ...]) -> LseState:
    """The state of x over `axes`, which are kept with size 1."""
    maximum = jnp.max(x, axes, keepdims=True, initial=-jnp.inf)
    piece = _piece_of(x.shape[-1]) if axes == (x.ndim - 1,) else None
    total, others = _in_pieces(x, maximum, piece) if piece else _whole(x, maximum, axes)
    others = lax.cond(_anywhere(total < CONFIDENT), others, lambda: total)
    return lax.optimization_barrier(state_of_sums(maximum, total, others))


def less_mean(x: Array, state: LseState, v: Array, axes: tuple[int, ...]) -> Array:
    """v - <s, v> over `axes`, s the softmax of x (M21)."""
    return _centred_if_any_dominant(softmax.centred_less_mean, softmax.less_mean, x, state, v, axes)


def jacobian_product(x: Array, state: LseState, v: Array, axes: tuple[int, ...]) -> Array:
    """J v over `axes`, J the Jacobian of the softmax of x (M21)."""
    return _centred_if_any_dominant(softmax.centred_jacobian_product, softmax.jacobian_product, x, state, v, axes)


def entry_at(rows: Array, index: Array) -> Array:
    """rows[..., index], as [*batch, 1], of rows [*batch or 1s, vocab]; 0 where the index is outside of the row."""
    inside = (index >= 0) & (index < rows.shape[-1])
    index = jnp.where(inside, index, 0)
    if rows.shape[:-1] == index.shape:
        entry = jnp.take_along_axis(rows, index[..., None], -1, mode="promise_in_bounds")
    else:
        entry = rows.reshape(-1)[index][..., None]
    return jnp.where(inside[..., None], entry, jnp.zeros((), rows.dtype))


def in_memory(array: Array) -> Array:
    """The array, which XLA is not to compute as part of what takes it."""
    return lax.optimization_barrier(array)


def flatten_batch(of_rows: Callable[..., Array]) -> Callable[..., Array]:
    """A function of arrays [*batch, ...], the first with one dimension more, as one of arrays [tokens, ...].

    For the gradient of a kernel XLA CPU transposes a gradient [batch, sequence, vocab] of logits. Where each entry is
    formed in that shape it forms them all twice, which takes three times the logits' memory. As [tokens, vocab] they
    are formed once, and copied: twice the memory.
    """

    def of_batch(rows: Array, *others: Any) -> Array:
        batch = rows.shape[:-1]

        def flat(array: Array) -> Array:
            return array.reshape(math.prod(batch), *array.shape[len(batch) :])

        return of_rows(flat(rows), *jax.tree.map(flat, others)).reshape(rows.shape)

    return of_batch


def _centred_if_any_dominant(
    centred: Callable[..., Array],
    plain: Callable[..., Array],
    x: Array,
    state: LseState,
    v: Array,
    axes: tuple[int, ...],
) -> Array:
    of_rows = (partial(of_row, axes=axes) for of_row in (centred, plain))
    return lax.cond(_anywhere(state.remainder < 1), *of_rows, x, state, v)


@custom_vmap
def _anywhere(mask: Array) -> Array:
    """Whether any entry is true, of all batches of a `jax.vmap` together: a choice by it remains one."""
    return jnp.any(mask)


@_anywhere.def_vmap
def _anywhere_of_batches(_axis_size, _in_batched, mask):
    return _anywhere(mask), False


# The sum of all exponentials, and how to sum those but the maximum's in a confident row.
_Sums = tuple[Array, Callable[[], Array]]


def _whole(x: Array, maximum: Array, axes: tuple[int, ...]) -> _Sums:
    def others() -> Array:
        return jnp.sum(_without_maximum(exp_shifted(x, maximum)), axes, keepdims=True)

    return jnp.sum(exp_shifted(x, maximum), axes, keepdims=True), others


def _in_pieces(x: Array, maximum: Array, piece: int) -> _Sums:
    """Only the piece with the maximum is summed again: in a confident row, the one whose sum is the largest."""
    pieces = x.reshape(*x.shape[:-1], x.shape[-1] // piece, piece)
    # Without the barrier XLA makes one sum of all of them.
    sums = lax.optimization_barrier(jnp.sum(exp_shifted(pieces, maximum[..., None]), -1))

    def others() -> Array:
        lead = jnp.argmax(sums, -1, keepdims=True)
        leading = exp_shifted(_slices(x, piece * lead[..., 0], piece), maximum)
        rest = jnp.sum(_without_maximum(leading), -1, keepdims=True)
        return rest + jnp.sum(jnp.where(class_numbers(sums) == lead, 0, sums), -1, keepdims=True)

    return jnp.sum(sums, -1, keepdims=True), others


def _without_maximum(e: Array) -> Array:
    """`lse_state.without_maximum` by rounding: a mask would keep XLA CPU from fusing the exponential and its sum."""
    return e - e * jnp.floor(e + 0.0625)


def _slices(rows: Array, starts: Array, length: int) -> Array:
    """Of each row the entries from its start on; by slices, as XLA CPU would keep a reshaped copy."""
    of_row = partial(lax.dynamic_slice_in_dim, slice_size=length)
    for _ in rows.shape[:-1]:
        of_row = jax.vmap(of_row)
    return of_row(rows, starts)


def _piece_of(length: int) -> int | None:
    """The divisor nearest to PIECE or an eighth of the length, a quarter to 16 times that; None where there is none."""
    if length < SHORT_ROW:
        return None
    aim = min(PIECE, length // 8)
    divisors = [n for n in range(aim // 4, 16 * aim + 1) if length % n == 0 and n < length]
    return min(divisors, key=lambda n: max(n / aim, aim / n), default=None)
