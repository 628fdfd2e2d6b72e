"""The schedule of a row reduction for XLA's CPU compiler, of rows that lie whole on one device.

What differs from the default: long rows are summed in pieces; confident rows alone are summed again without their
maximum; entries are gathered, not found with a one-hot mask; results are kept in memory where XLA would recompute them.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.sharding import AxisType

from jaxsoftmax._explicit_axes import is_sharded
from jaxsoftmax._math import softmax, token_loss
from jaxsoftmax._math.classes import class_numbers
from jaxsoftmax._math.loss_options import LossOptions, loss_logits
from jaxsoftmax._math.lse_state import (
    CONFIDENT,
    NEAR_ONE,
    LseState,
    denominator,
    finite_maximum,
    is_confident,
    is_dominant,
    remainder,
    shifted_logits,
)
from jaxsoftmax._math.precision import widen
from jaxsoftmax._math.token_loss import TargetSums
from jaxsoftmax._reduction.centring import subtract_centre
from jaxsoftmax._reduction.chosen_rows_cpu import with_rows_replaced

SHORT_ROW = 32  # up to here XLA CPU forms two sums at once in the time of one; in longer rows it is slow at that
LONG_ROW = 1 << 12  # from here on sums of pieces cost no more than that of a row, and far less where that is very long
EXACT_FLOATS = 1 << 24  # classes whose numbers are exact in float32
PIECE = 1 << 11  # the length of a piece, or the divisor of the row's length nearest to it
# Whether XLA copies a conditional's operands that are overwritten later.
_COPIES_OPERANDS = jax.__version_info__ < (0, 11)


def fits(rows: Array) -> bool:
    """Whether the sizes are known, and rows surely lie whole on one device; if not, the default is right."""
    known = all(isinstance(size, int) for size in rows.shape)
    return known and _on_one_device() and not is_sharded(rows)


def _on_one_device() -> bool:
    """Inside of a `jax.shard_map` over the whole mesh, or where there is no second CPU device to shard over."""
    mesh = jax.sharding.get_abstract_mesh()
    if not mesh.empty:
        return mesh.size == 1 or all(kind == AxisType.Manual for kind in mesh.axis_types)
    try:
        return jax.device_count("cpu") == 1
    except RuntimeError:  # this process can't run a program for a CPU, only export it
        return False


def lse_state(x: Array, axes: tuple[int, ...], shared: bool) -> LseState:
    """The state of x over `axes`, which are kept with size 1.

    With `shared`, exponentials of whole rows, which XLA computes once for the state and the gradient.
    """
    maximum = _maximum(x, axes)
    e = jnp.exp(x - maximum)
    if shared:
        r = _remainder(e, axes, x if _COPIES_OPERANDS else None)
    else:
        r = _remainder_of_pieces(x, maximum, axes)
        r = _remainder(e, axes, x) if r is None else r
    return LseState(maximum, lax.optimization_barrier(r))


def softmax_and_state(x: Array, axes: tuple[int, ...]) -> tuple[Array, LseState]:
    """The softmax of x over `axes`, and the state, from exponentials that are formed once and then divided in place."""
    maximum = _maximum(x, axes)
    e = lax.optimization_barrier(jnp.exp(x - maximum))
    state = LseState(maximum, lax.optimization_barrier(_remainder(e, axes, x)))
    return lax.optimization_barrier(e / denominator(state)), state


def dominant_index(x: Array, state: LseState) -> Array:
    """The number of the dominant entry of each row, [*batch, 1]; -1 where there is none."""
    return _first_maxima(x, is_confident(state).reshape(-1)).reshape(state.remainder.shape)


def subtract_mean(x: Array, state: LseState, index: Array | None, v: Array, axes: tuple[int, ...]) -> Array:
    """v - <s, v> over `axes`, s the softmax of x; `index` is that of the dominant entry, or None (M21)."""
    s = softmax.probabilities(x, lax.optimization_barrier(state))
    return softmax.subtract_mean(s, state, subtract_centre(v, index, is_dominant(x, state), axes), axes)


def target_sums(z: Array, state: LseState, targets: Array) -> TargetSums:
    """The sums of a row with float labels."""
    margins = token_loss.target_margins(targets, -shifted_logits(z, state))
    others = jnp.where(is_dominant(z, state), 0, targets)
    return TargetSums(*(jnp.sum(terms, -1, keepdims=True) for terms in (margins, targets, others)))


def entries_at(rows: Array, index: Array) -> Array:
    """rows[..., index] for each index [*batch, k] of rows [*batch or 1s, vocab]; 0 where it is outside of the row."""
    inside = (index >= 0) & (index < rows.shape[-1])
    index = jnp.where(inside, index, 0)
    if rows.shape[:-1] == index.shape[:-1]:
        entries = jnp.take_along_axis(rows, index, -1, mode="promise_in_bounds")
    else:
        entries = rows.reshape(-1)[index]
    return jnp.where(inside, entries, jnp.zeros((), rows.dtype))


def margins_at(_z: Array, x: Array, index: Array, state: LseState, options: LossOptions) -> Array:
    """m - z[..., index] for each index [*batch, k], where z = loss_logits(x), of which these entries are formed."""
    return state.maximum - loss_logits(options, widen(entries_at(x, index)))


def margin_sum(z: Array, state: LseState) -> Array:
    """Σ_j e_j (m - z_j), as [*batch, 1]."""
    return jnp.sum(softmax.exponential_margins(z, state), -1, keepdims=True)


def first_maximum(x: Array) -> Array:
    """The index of each row's first maximum, int32 [*batch]; of its first NaN, where there is one."""
    every = jnp.full_like(x[..., 0], True, bool)  # sharded over the axes of a `jax.shard_map` that x is
    return _first_maxima(x, every.reshape(-1)).reshape(x.shape[:-1])


def is_first_maximum(x: Array, index: Array, margin: Array, state: LseState) -> Array:
    """Whether x[..., index] is the first maximum of its row, as [*batch, 1].

    In a confident row the margin m - z[..., index] tells. Other rows are looked through where it is 0, or a few
    roundings: there may be an earlier entry as large.
    """
    confident = is_confident(state)
    near = (margin <= 16 * jnp.finfo(margin.dtype).eps * jnp.abs(state.maximum)) & ~confident
    first = _first_maxima(x, near.reshape(-1)).reshape(index.shape)
    return jnp.where(confident, margin == 0, (first == index)[..., None])


def with_entry_at(rows: Array, index: Array, entry: Array) -> Array:
    """Rows [*batch, vocab] with `entry` [*batch, 1] at number index [*batch], where that is inside of the row.

    A scatter would be as fast, but keeps logits that are formed in the same program beside their gradient.
    """
    numbers = _comparable_numbers(rows)
    return jnp.where(index.astype(numbers.dtype)[..., None] == numbers, entry, rows)


def materialised(array: Array) -> Array:
    """The array in memory: XLA doesn't fuse it into what takes it."""
    return lax.optimization_barrier(array)


def over_rows(of_rows: Callable[..., Array]) -> Callable[..., Array]:
    """Wraps `of_rows`: flattens its arguments' batch to [tokens], and restores the batch in the result.

    For the gradient of a kernel XLA CPU transposes a gradient [batch, sequence, vocab] of logits. Where each entry is
    formed in that shape it forms them all twice, which takes three times the logits' memory. As [tokens, vocab] they
    are formed once, and copied: twice the memory.
    """

    def of_batch(rows: Array, *others: Any) -> Array:
        batch = rows.shape[:-1]

        def flat(array: Array) -> Array:
            return array.reshape(math.prod(batch), *array.shape[len(batch) :])

        def kept(part: Any) -> Any:
            """Puts an argument behind a barrier, or XLA would recompute it for every entry.

            A state gets none: then XLA recognises its exponentials, and computes them once for sum and gradient.
            """
            part = jax.tree.map(flat, part)
            return part if isinstance(part, LseState) else lax.optimization_barrier(part)

        others = jax.tree.map(kept, others, is_leaf=lambda part: isinstance(part, LseState))
        return of_rows(flat(rows), *others).reshape(rows.shape)

    return of_batch


def _comparable_numbers(rows: Array) -> Array:
    """The class numbers as float32, where that is exact, else int32, whose comparisons XLA CPU doesn't vectorise."""
    numbers = class_numbers(rows)
    return numbers.astype(jnp.float32) if rows.shape[-1] <= EXACT_FLOATS else numbers


def _first_maxima(x: Array, chosen: Array) -> Array:
    """The index of the first maximum, or NaN, of each row that is `chosen` [rows]; -1 for the others."""
    nothing, width = jnp.full_like(chosen, -1, jnp.int32), x.shape[-1]
    if not x.size:
        return nothing
    rows = x.reshape(-1, width)

    def of_rows(indices: Array) -> Array:
        """The numbers of these rows' first maxima, by two passes, which XLA CPU vectorises; an argmax it doesn't."""
        # Kept in memory, because rows that are formed twice may differ by a rounding: no entry would be the maximum.
        block = lax.optimization_barrier(rows[indices])
        numbers = _comparable_numbers(block)
        of_maxima = jnp.where(block == jnp.max(block, -1, keepdims=True), numbers, width)
        # NaN goes before all numbers, as XLA CPU's maximum may ignore it.
        number = jnp.min(jnp.where(jnp.isnan(block), numbers - width, of_maxima), -1)
        return jnp.where(number < 0, number + width, number).astype(jnp.int32)

    return with_rows_replaced(of_rows, chosen, nothing, width)


def _maximum(x: Array, axes: tuple[int, ...]) -> Array:
    """`finite_maximum` as one reduction, which XLA CPU fuses with the exponentials of x - m.

    Over a single entry XLA ignores the initial value: there `finite_maximum` is used.
    """
    if math.prod(x.shape[axis] for axis in axes) <= 1:
        return finite_maximum(x, axes)
    lowest = jnp.asarray(jnp.finfo(x.dtype).min, x.dtype)
    return jnp.expand_dims(lax.reduce(x, lowest, lax.max, axes), axes)


def _remainder(e: Array, axes: tuple[int, ...], x: Array | None) -> Array:
    """r of rows over `axes` from their exponentials e.

    Given the logits x, it recomputes e and the maximum for confident rows, so that XLA need not keep them for all rows.
    """
    if axes != (e.ndim - 1,) or not e.size:
        return remainder(*(jnp.sum(terms, axes, keepdims=True) for terms in (e, _without_maximum(e))))
    width = e.shape[-1]
    if width <= SHORT_ROW:
        zero = jnp.zeros((), e.dtype)
        sums, others = lax.reduce((e, _without_maximum(e)), (zero, zero), _add_pairs, (e.ndim - 1,))
        return remainder(sums[..., None], others[..., None])

    def exponentials(indices: Array) -> Array:
        block = (e if x is None else x).reshape(-1, width)[indices]
        return block if x is None else jnp.exp(block - _maximum(block, (1,)))

    total = jnp.sum(e, -1, keepdims=True)
    confident = (total < CONFIDENT) & (total > 0)
    return remainder(total, _with_sums_of_others(total, confident, exponentials, width))


def _remainder_of_pieces(x: Array, maximum: Array, axes: tuple[int, ...]) -> Array | None:
    """r of long rows, cut into pieces of equal length, from sums over these; None for other rows.

    Of a confident row only that piece is summed again that has the maximum: all others add up to less than 0.875.
    """
    width = x.shape[-1] if axes == (x.ndim - 1,) and x.size else 0
    lengths = [n for n in range(PIECE // 2, 4 * PIECE) if width >= LONG_ROW and width % n == 0]
    if not lengths:
        return None
    length = min(lengths, key=lambda n: max(n / PIECE, PIECE / n))
    pieces, maximum = x.reshape(*x.shape[:-1], width // length, length), maximum[..., None]
    # The barrier, as XLA would make one sum of a sum of sums.
    sums = lax.optimization_barrier(jnp.sum(jnp.exp(pieces - maximum), -1, keepdims=True))
    total = jnp.sum(sums, -2)
    with_maximum = (total[..., None] < CONFIDENT) & (sums > NEAR_ONE)

    def exponentials(indices: Array) -> Array:
        of_pieces = jnp.broadcast_to(maximum, sums.shape).reshape(-1, 1)
        return jnp.exp(x.reshape(-1, length)[indices] - of_pieces[indices])

    others = _with_sums_of_others(sums, with_maximum, exponentials, length)
    return remainder(total, jnp.sum(others, -2))


def _with_sums_of_others(sums: Array, confident: Array, exponentials: Callable[[Array], Array], width: int) -> Array:
    """Sums [*batch, 1] of `width` exponentials each; in confident rows without the maximum.

    `exponentials(indices)` returns the rows [len(indices), width].
    """

    def sums_of_others(indices: Array) -> Array:
        return jnp.sum(_without_maximum(exponentials(indices)), -1, keepdims=True)

    others = with_rows_replaced(sums_of_others, confident.reshape(-1), sums.reshape(-1, 1), width)
    return others.reshape(sums.shape)


def _add_pairs(a: tuple[Array, Array], b: tuple[Array, Array]) -> tuple[Array, Array]:
    return a[0] + b[0], a[1] + b[1]


def _without_maximum(e: Array) -> Array:
    """`lse_state.without_maximum` by rounding: a mask would keep XLA CPU from fusing the exponential and its sum."""
    return e - e * jnp.floor(e + (1 - NEAR_ONE))
