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
from jaxsoftmax._math.lse_state import LseState, denominator, finite_maximum, is_confident, is_dominant, shifted_logits
from jaxsoftmax._math.precision import widen
from jaxsoftmax._math.token_loss import TargetSums
from jaxsoftmax._reduction.centring import subtract_centre
from jaxsoftmax._reduction.chosen_rows_cpu import with_rows_replaced
from jaxsoftmax._reduction.remainder_cpu import remainder_of_rows

EXACT_FLOATS = 1 << 24  # classes whose numbers are exact in float32
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

    With `shared`, exponentials of whole rows, which XLA computes once for the state and the gradient; not of several
    batch dimensions, which `over_rows` flattens for the gradient: those would be kept beside it.
    """
    maximum = _maximum(x, axes)
    e = jnp.exp(x - maximum) if shared and x.ndim < 3 else None
    r = remainder_of_rows(x, maximum, axes, e, kept=not _COPIES_OPERANDS)
    return LseState(maximum, lax.optimization_barrier(r))


def softmax_and_state(x: Array, axes: tuple[int, ...]) -> tuple[Array, LseState]:
    """The softmax of x over `axes`, and the state, from exponentials that are formed once and then divided in place."""
    maximum = _maximum(x, axes)
    e = lax.optimization_barrier(jnp.exp(x - maximum))
    state = LseState(maximum, lax.optimization_barrier(remainder_of_rows(x, maximum, axes, e)))
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
            if len(batch) < 2:  # what `jax.vmap` makes of a row has to look like that of its state's exponentials
                return array
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

    def of_rows(indices: Array, rows: Array) -> Array:
        """The numbers of these rows' first maxima, by two passes, which XLA CPU vectorises; an argmax it doesn't."""
        # Kept in memory, because rows that are formed twice may differ by a rounding: no entry would be the maximum.
        block = lax.optimization_barrier(rows[indices])
        numbers = _comparable_numbers(block)
        of_maxima = jnp.where(block == jnp.max(block, -1, keepdims=True), numbers, width)
        # NaN goes before all numbers, as XLA CPU's maximum may ignore it.
        number = jnp.min(jnp.where(jnp.isnan(block), numbers - width, of_maxima), -1)
        return jnp.where(number < 0, number + width, number).astype(jnp.int32)

    return with_rows_replaced(of_rows, chosen, nothing, rows, width=width)


def _maximum(x: Array, axes: tuple[int, ...]) -> Array:
    """`finite_maximum` as one reduction, which XLA CPU fuses with the exponentials of x - m.

    Over a single entry XLA ignores the initial value: there `finite_maximum` is used.
    """
    if math.prod(x.shape[axis] for axis in axes) <= 1:
        return finite_maximum(x, axes)
    lowest = jnp.asarray(jnp.finfo(x.dtype).min, x.dtype)
    return jnp.expand_dims(lax.reduce(x, lowest, lax.max, axes), axes)
