"""The default schedule of a row reduction: after the maximum one pass, in which XLA can fuse all sums.

No slice, loop, branch or reshape of the class axis: it is partitioned with the row, exported with symbolic sizes, and
is what the compilers for TPU and GPU fuse best. Barriers stand on a few numbers a row alone.
"""

from collections.abc import Callable

import jax.numpy as jnp
from jax import Array, lax

from jaxsoftmax._explicit_axes import is_sharded
from jaxsoftmax._math import softmax, token_loss
from jaxsoftmax._math.classes import class_numbers
from jaxsoftmax._math.loss_options import LossOptions
from jaxsoftmax._math.lse_state import LseState, finite_maximum, is_confident, is_dominant, near_maximum, plain_state
from jaxsoftmax._math.precision import accumulation_dtype
from jaxsoftmax._math.token_loss import TargetSums
from jaxsoftmax._reduction.centring import centred

FEW = 8  # indices a row: so many by a one-hot mask, more by gather and scatter


def lse_state(x: Array, axes: tuple[int, ...], shared: bool = False) -> LseState:
    """The state of x over `axes`, which are kept with size 1; exponentials are never kept, `shared` or not."""
    return for_recomputation(plain_state(x, axes))


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
    state = for_recomputation(state)
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


def entries_at(rows: Array, index: Array) -> Array:
    """rows[..., index] for each index [*batch, k] of rows [*batch or 1s, vocab]; 0 where it is outside of the row."""
    if rows.dtype == bool:
        return entries_at(rows.astype(jnp.float32), index) != 0
    return _each(rows.astype(accumulation_dtype(rows.dtype)), index).astype(rows.dtype)


def margins_at(z: Array, _x: Array, index: Array, _state: LseState, _options: LossOptions) -> Array:
    """m - z[..., index] for each index [*batch, k], where z = loss_logits(x); 0 where it is outside of the row."""
    # From the differences of the exponentials, and a maximum outside of the state's barrier: XLA fuses it with the sum.
    return _each(finite_maximum(z, (z.ndim - 1,)) - z, index)


def _each(rows: Array, index: Array) -> Array:
    """rows[..., index], 0 where it is outside of the row; a few by a one-hot mask, more by gather.

    Over Explicit axes of a mesh JAX can't always tell how a gather is sharded.
    """
    numbers = class_numbers(rows)
    if index.shape[-1] <= FEW:
        columns = (index[..., i : i + 1] == numbers for i in range(index.shape[-1]))
        found = [jnp.sum(jnp.where(here, rows, 0), -1, keepdims=True) for here in columns]
        return jnp.concatenate(found, -1) if len(found) != 1 else found[0]
    if is_sharded(rows):
        return jnp.sum(jnp.where(index[..., None] == numbers, rows[..., None, :], 0), -1)
    inside = (index >= 0) & (index < rows.shape[-1])
    rows = jnp.broadcast_to(rows, (*index.shape[:-1], rows.shape[-1]))
    return jnp.where(inside, jnp.take_along_axis(rows, jnp.where(inside, index, 0), -1), 0)


def margin_sum(z: Array, state: LseState) -> Array:
    """Σ_j e_j (m - z_j), as [*batch, 1]."""
    # Both sums, with and without the maximum, share the pass of those for r: see `target_sums`.
    maximum = finite_maximum(z, (z.ndim - 1,))
    e = jnp.exp(z - maximum)
    margins = jnp.where(e == 0, 0, e * (maximum - z))
    near = near_maximum(z, maximum)
    every, others = (jnp.sum(terms, -1, keepdims=True) for terms in (margins, jnp.where(near, 0, margins)))
    return jnp.where(is_confident(state), others, every)


def first_maximum(x: Array) -> Array:
    """The index of each row's first maximum, int32 [*batch]; of its first NaN, where there is one."""
    return jnp.argmax(x, -1).astype(jnp.int32)


def is_first_maximum(x: Array, index: Array, margin: Array, _state: LseState) -> Array:
    """Whether x[..., index] is the first maximum of its row, as [*batch, 1]."""
    # A sum of exponentials can share its pass with a minimum, not with an argmax. If XLA rounds x differently when it
    # recomputes it, perhaps no entry equals the maximum: then a label within that rounding counts.
    vocab, maximum = x.shape[-1], finite_maximum(x, (x.ndim - 1,))
    numbers = class_numbers(x)
    if isinstance(vocab, int) and vocab <= 1 << 24:
        numbers = numbers.astype(jnp.float32)
    first = jnp.min(jnp.where(x == maximum, numbers, vocab), -1, keepdims=True, initial=vocab)
    near = margin <= 4 * jnp.finfo(margin.dtype).eps * jnp.abs(maximum).astype(margin.dtype)
    return jnp.where(first == vocab, near, first == index[..., None].astype(first.dtype))


def with_entry_at(rows: Array, index: Array, entry: Array) -> Array:
    """Rows [*batch, vocab] with `entry` [*batch, 1] at number index [*batch], where that is inside of the row."""
    return jnp.where(index[..., None] == class_numbers(rows), entry, rows)


def with_added_at(rows: Array, index: Array, addends: Array) -> Array:
    """Rows [*batch, vocab] with `addends` added at each index [*batch, k] inside of the row."""
    if index.shape[-1] <= FEW:
        numbers = class_numbers(rows)
        for i in range(index.shape[-1]):
            rows += jnp.where(index[..., i : i + 1] == numbers, addends[..., i : i + 1], 0)
        return rows
    if is_sharded(rows):
        return rows + jnp.sum(jnp.where(index[..., None] == class_numbers(rows), addends[..., None], 0), -2)
    index = jnp.where((index >= 0) & (index < rows.shape[-1]), index, rows.shape[-1])
    batch = (lax.broadcasted_iota(jnp.int32, index.shape, axis) for axis in range(index.ndim - 1))
    return rows.at[(*batch, index)].add(addends, mode="drop")


def over_rows(of_rows: Callable[..., Array]) -> Callable[..., Array]:
    """`of_rows` itself: this schedule doesn't flatten the batch."""
    return of_rows


def for_recomputation(state: LseState) -> LseState:
    """The state behind barriers, or XLA's compilers would keep the exponentials of a row in memory for their next use.

    Two numbers a row stand behind them, and no row, so that XLA still fuses what is formed of the row.
    """
    return LseState(*(lax.optimization_barrier(number) for number in state))
