"""The default schedule of a row reduction: after the maximum one pass, in which XLA can fuse all sums.

No slice, loop, branch or reshape of the class axis: it is partitioned with the row, exported with symbolic sizes, and
is what the compilers for TPU and GPU fuse best. Barriers stand on a few numbers a row alone.
"""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jax import Array, lax

from jaxsoftmax._math import softmax, token_loss
from jaxsoftmax._math.classes import class_numbers
from jaxsoftmax._math.lse_state import LseState, finite_maximum, is_confident, is_dominant, near_maximum, plain_state
from jaxsoftmax._math.precision import accumulation_dtype
from jaxsoftmax._math.token_loss import LossOptions, TargetSums
from jaxsoftmax._reduction.centring import centred


def lse_state(x: Array, axes: tuple[int, ...], shared: bool = False) -> LseState:
    """The state of x over `axes`, which are kept with size 1; exponentials are never kept, `shared` or not."""
    return forgotten(plain_state(x, axes))


def softmax_and_state(x: Array, axes: tuple[int, ...]) -> tuple[Array, LseState]:
    """The softmax of x over `axes`, and the state."""
    state = lse_state(x, axes)
    return softmax.probabilities(x, state), state


def dominant_index(x: Array, state: LseState) -> Array:
    """The number of the dominant entry of each row, [*batch, 1]; -1 where there is none."""
    # As floats, and from a maximum without the state's barrier, they are summed in the pass of the exponentials. Above
    # 2^24 a float may name a neighbour: then J is centred at another entry, which is right too, but keeps no tail.
    numbers = class_numbers(x).astype(x.dtype)
    near = near_maximum(x, finite_maximum(x, (x.ndim - 1,)))
    index = jnp.sum(jnp.where(near, numbers, 0), -1, keepdims=True)
    return jnp.where(is_confident(state), index.astype(jnp.int32), -1)


def subtract_mean(x: Array, state: LseState, index: Array | None, v: Array, axes: tuple[int, ...]) -> Array:
    """v - <s, v> over `axes`, s the softmax of x; `index` is that of the dominant entry, or None (M21).

    Transposed it needs no second pass over the cotangent.
    """
    state = forgotten(state)
    return softmax.centred_subtract_mean(x, state, centred(v, index, is_dominant(x, state), axes), axes)


def target_sums(z: Array, state: LseState, targets: Array) -> TargetSums:
    """The sums of a row with float labels.

    The sums without the maximum don't wait for r to say whether they are wanted: all share a pass with those for r.
    """
    near, confident = near_maximum(z, state.maximum), is_confident(state)
    margins = token_loss.target_margins(targets, state.maximum - z)
    margin, other_margin, total, others = (
        jnp.sum(terms, -1, keepdims=True)
        for terms in (margins, jnp.where(near, 0, margins), targets, jnp.where(near, 0, targets))
    )
    return TargetSums(jnp.where(confident, other_margin, margin), total, jnp.where(confident, others, total))


def entry_at(rows: Array, index: Array) -> Array:
    """rows[..., index], as [*batch, 1], of rows [*batch or 1s, vocab]; 0 where the index is outside of the row."""
    here = index[..., None] == class_numbers(rows)
    if rows.dtype == bool:
        return jnp.any(here & rows, -1, keepdims=True)
    wide = rows.astype(accumulation_dtype(rows.dtype))
    return jnp.sum(jnp.where(here, wide, 0), -1, keepdims=True).astype(rows.dtype)


def margin_at(_options: LossOptions, z: Array, _x: Array, index: Array, _state: LseState) -> Array:
    """m - z[..., index], as [*batch, 1], where z is x under the soft cap; 0 where the index is outside of the row."""
    # Of the same differences that the exponentials are formed of, and from a maximum without the state's barrier, the
    # entry is looked for in the pass that sums the exponentials.
    here = index[..., None] == class_numbers(z)
    return jnp.sum(jnp.where(here, finite_maximum(z, (z.ndim - 1,)) - z, 0), -1, keepdims=True)


def with_entry_at(rows: Array, index: Array, entry: Array) -> Array:
    """Rows [*batch, vocab] with `entry` [*batch, 1] at number index [*batch], where that is inside of the row."""
    return jnp.where(index[..., None] == class_numbers(rows), entry, rows)


def over_rows(of_rows: Callable[..., Array]) -> Callable[..., Array]:
    """A function of rows [*batch, vocab] as it is."""
    return of_rows


def unchanged(array: Any) -> Any:
    """The array itself."""
    return array


def forgotten(state: LseState) -> LseState:
    """The state behind barriers, or XLA's compilers would keep the exponentials of a row in memory for their next use.

    Two numbers a row stand behind them, and no row, so that XLA still fuses what is formed of the row.
    """
    return LseState(*(lax.optimization_barrier(number) for number in state))
