"""Which schedule reduces rows: the choice is made by the platform that the program is lowered for."""

from collections.abc import Callable
from functools import partial
from typing import Any

from jax import Array, lax

from jaxsoftmax._math.lse_state import LseState
from jaxsoftmax._math.token_loss import TargetSums
from jaxsoftmax._reduction import blocked_cpu, one_pass


def lse_state(x: Array, axes: tuple[int, ...]) -> LseState:
    """The state of x over `axes`, which are kept with size 1; without a derivative rule."""
    blocked, default = (partial(schedule.lse_state, axes=axes) for schedule in (blocked_cpu, one_pass))
    return _on_cpu_or_else(blocked, default, x)


def softmax_and_state(x: Array, axes: tuple[int, ...]) -> tuple[Array, LseState]:
    """The softmax of x over `axes`, and the state; without a derivative rule."""
    blocked, default = (partial(schedule.softmax_and_state, axes=axes) for schedule in (blocked_cpu, one_pass))
    return _on_cpu_or_else(blocked, default, x)


def less_mean(x: Array, state: LseState, v: Array, axes: tuple[int, ...]) -> Array:
    """v - <s, v> over `axes`, s the softmax of x; relatively accurate at a dominant entry too (M21)."""
    blocked, default = (partial(schedule.less_mean, axes=axes) for schedule in (blocked_cpu, one_pass))
    return _on_cpu_or_else(blocked, default, x, state, v)


def jacobian_product(s: Array, state: LseState, v: Array, axes: tuple[int, ...]) -> Array:
    """J v over `axes`, J the Jacobian of the softmax s; relatively accurate at a dominant entry too (M21)."""
    blocked, default = (partial(schedule.jacobian_product, axes=axes) for schedule in (blocked_cpu, one_pass))
    return _on_cpu_or_else(blocked, default, s, state, v)


def target_sums(z: Array, state: LseState, targets: Array) -> TargetSums:
    """The sums over rows [*batch, vocab] that losses with float labels are made of."""
    return _on_cpu_or_else(blocked_cpu.target_sums, one_pass.target_sums, z, state, targets)


def entry_at(rows: Array, index: Array) -> Array:
    """rows[..., index], as [*batch, 1], of rows [*batch or 1s, vocab]; 0 where the index is outside of the row."""
    return _on_cpu_or_else(blocked_cpu.entry_at, one_pass.entry_at, rows, index)


def with_entry_at(rows: Array, index: Array, entry: Array) -> Array:
    """Rows [*batch, vocab] with `entry` [*batch, 1] at number index [*batch], where that is inside of the row."""
    return _on_cpu_or_else(blocked_cpu.with_entry_at, one_pass.with_entry_at, rows, index, entry)


def apart(state: LseState) -> LseState:
    """The state, for exponentials to be formed of it again, which XLA's GPU compiler is not to keep from before."""
    return LseState(*(lax.optimization_barrier(number) for number in state))


def over_rows(of_rows: Callable[..., Array], rows: Array, *others: Any) -> Array:
    """`of_rows(rows, *others)`, an array of the shape of rows [*batch, vocab]; all others are arrays [*batch, ...]."""
    return _on_cpu_or_else(blocked_cpu.flatten_batch(of_rows), of_rows, rows, *others)


def before_total(losses: Array) -> Array:
    """Losses to be summed up; XLA CPU would fold that sum into the row reduction, and run both on one thread."""
    return lax.platform_dependent(losses, cpu=blocked_cpu.in_memory, default=_unchanged)


def _on_cpu_or_else(blocked: Callable[..., Any], default: Callable[..., Any], rows: Array, *others: Any) -> Any:
    """`blocked` of rows and other arrays, on a CPU and where it fits them; `default` elsewhere."""
    if not blocked_cpu.fits(rows):
        return default(rows, *others)
    return lax.platform_dependent(rows, *others, cpu=blocked, default=default)


def _unchanged(array: Array) -> Array:
    return array
