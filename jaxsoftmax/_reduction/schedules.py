"""Which schedule reduces rows: a table by the platform that the program is lowered for.

To add a schedule, give it a module beside `one_pass` with the same functions and with `fits`, which says whether it is
right for the rows at hand, and a row here.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
from jax import Array, lax

from jaxsoftmax._math.loss_options import LossOptions
from jaxsoftmax._math.lse_state import LseState
from jaxsoftmax._math.token_loss import TargetSums
from jaxsoftmax._reduction import blocked_cpu, one_pass

BY_PLATFORM = {"cpu": blocked_cpu}


def lse_state(x: Array, axes: tuple[int, ...], shared: bool) -> LseState:
    """The state of x over `axes`, which are kept with size 1; without a derivative rule.

    `shared` says that a gradient is made of the same exponentials: a schedule may form them so that XLA keeps them.
    """
    return _by_platform(lambda schedule: partial(schedule.lse_state, axes=axes, shared=shared), x)


def softmax_and_state(x: Array, axes: tuple[int, ...]) -> tuple[Array, LseState]:
    """The softmax of x over `axes`, and the state; without a derivative rule."""
    return _by_platform(lambda schedule: partial(schedule.softmax_and_state, axes=axes), x)


def for_recomputation(state: LseState) -> LseState:
    """The state of rows whose exponentials are formed again, and not kept in memory: they would double the logits."""
    return one_pass.for_recomputation(state)


def dominant_index(x: Array, state: LseState, axes: tuple[int, ...]) -> Array | None:
    """The number of the dominant entry of each row, [*batch, 1], constant; -1 where there is none.

    None where rows can't be read at a number: of other axes than the last, or where that is sharded over Explicit axes.
    """
    if axes != (x.ndim - 1,) or x.shape[-1] == 0 or jax.typeof(x).sharding.spec[-1] is not None:
        return None
    return _by_platform(lambda schedule: schedule.dominant_index, *lax.stop_gradient((x, state)))


def subtract_mean(x: Array, state: LseState, index: Array | None, v: Array, axes: tuple[int, ...]) -> Array:
    """v - <s, v> over `axes`, s the softmax of x; relatively accurate at the dominant entry, `index`, too (M21)."""
    return _by_platform(lambda schedule: partial(schedule.subtract_mean, axes=axes), x, state, index, v)


def target_sums(z: Array, state: LseState, targets: Array) -> TargetSums:
    """The sums over rows [*batch, vocab] that losses with float labels are made of."""
    return _by_platform(lambda schedule: schedule.target_sums, z, state, targets)


def entries_at(rows: Array, index: Array) -> Array:
    """rows[..., index] for each index [*batch, k] of rows [*batch or 1s, vocab]; 0 where it is outside of the row."""
    return _by_platform(lambda schedule: schedule.entries_at, rows, index)


def entry_at(rows: Array, index: Array) -> Array:
    """rows[..., index], as [*batch, 1], of rows [*batch or 1s, vocab]; 0 where the index is outside of the row."""
    return entries_at(rows, index[..., None])


def margins_at(options: LossOptions, z: Array, x: Array, index: Array, state: LseState) -> Array:
    """m - z[..., index] for each index [*batch, k], where z = loss_logits(x); without a derivative rule."""
    return _by_platform(lambda schedule: schedule.margins_at, z, x, index, state, options)


def margin_sum(z: Array, state: LseState) -> Array:
    """Σ_j e_j (m - z_j), as [*batch, 1]; without a derivative rule."""
    return _by_platform(lambda schedule: schedule.margin_sum, z, state)


def first_maximum(x: Array) -> Array:
    """The index of each row's first maximum, int32 [*batch]; of its first NaN, where there is one."""
    return _by_platform(lambda schedule: schedule.first_maximum, lax.stop_gradient(x))


def is_first_maximum(x: Array, index: Array, margin: Array, state: LseState) -> Array:
    """Whether x[..., index] is the first maximum of its row, [*batch, 1], where its `margin` is m - z[..., index]."""
    return _by_platform(lambda schedule: schedule.is_first_maximum, x, index, margin, state)


def with_entry_at(rows: Array, index: Array, entry: Array) -> Array:
    """Rows [*batch, vocab] with `entry` [*batch, 1] at number index [*batch], where that is inside of the row."""
    return _by_platform(lambda schedule: schedule.with_entry_at, rows, index, entry)


def with_added_at(rows: Array, index: Array, addends: Array) -> Array:
    """Rows [*batch, vocab] with `addends` [*batch, k] added at each index [*batch, k] that is inside of the row."""
    return one_pass.with_added_at(rows, index, addends)


def over_rows(of_rows: Callable[..., Array], rows: Array, *others: Any) -> Array:
    """`of_rows(rows, *others)`, an array of the shape of rows [*batch, vocab]; all others are arrays [*batch, ...].

    A schedule may flatten the batch before, and restore it after.
    """
    return _by_platform(lambda schedule: schedule.over_rows(of_rows), rows, *others)


def before_total(losses: Array) -> Array:
    """Losses to be summed up; XLA CPU would fold that sum into the row reduction, and run both on one thread."""
    return lax.platform_dependent(losses, cpu=blocked_cpu.materialised, default=lambda same: same)


def _by_platform(function_of: Callable[[Any], Callable[..., Any]], rows: Array, *others: Any) -> Any:
    """A function of rows and other arrays by the schedule for the platform, or by the default one."""
    default = function_of(one_pass)
    fitting = {platform: function_of(schedule) for platform, schedule in BY_PLATFORM.items() if schedule.fits(rows)}
    if not fitting:
        return default(rows, *others)
    return lax.platform_dependent(rows, *others, default=default, **fitting)
