"""Which schedule reduces rows: the choice is made by the platform that the program is lowered for."""

from collections.abc import Callable
from functools import partial
from typing import Any

from jax import Array, lax

from jaxsoftmax._math.lse_state import LseState
from jaxsoftmax._reduction import blocked_cpu, one_pass


def lse_state(x: Array, axes: tuple[int, ...]) -> LseState:
    """The state of x over `axes`, which are kept with size 1; without a derivative rule."""
    if not blocked_cpu.fits(x):
        return one_pass.lse_state(x, axes)
    of_rows = (partial(schedule.lse_state, axes=axes) for schedule in (blocked_cpu, one_pass))
    return _on_cpu_or_else(*of_rows, x)


def less_mean(x: Array, state: LseState, v: Array, axes: tuple[int, ...]) -> Array:
    """v - <s, v> over `axes`, s the softmax of x; relatively accurate at a dominant entry too (M21)."""
    if not blocked_cpu.fits(x):
        return one_pass.less_mean(x, state, v, axes)
    of_rows = (partial(schedule.less_mean, axes=axes) for schedule in (blocked_cpu, one_pass))
    return _on_cpu_or_else(*of_rows, x, state, v)


def jacobian_product(x: Array, state: LseState, v: Array, axes: tuple[int, ...]) -> Array:
    """J v over `axes`, J the Jacobian of the softmax of x; relatively accurate at a dominant entry too (M21)."""
    if not blocked_cpu.fits(x):
        return one_pass.jacobian_product(x, state, v, axes)
    of_rows = (partial(schedule.jacobian_product, axes=axes) for schedule in (blocked_cpu, one_pass))
    return _on_cpu_or_else(*of_rows, x, state, v)


def entry_at(rows: Array, index: Array) -> Array:
    """rows[..., index], as [*batch, 1], of rows [*batch or 1s, vocab]; 0 where the index is outside of the row."""
    if not blocked_cpu.fits(rows):
        return one_pass.entry_at(rows, index)
    return _on_cpu_or_else(blocked_cpu.entry_at, one_pass.entry_at, rows, index)


def over_rows(of_rows: Callable[..., Array], rows: Array, *others: Any) -> Array:
    """`of_rows(rows, *others)`, an array of the shape of rows [*batch, vocab]; all others are arrays [*batch, ...]."""
    if rows.ndim < 3 or not blocked_cpu.fits(rows):
        return of_rows(rows, *others)
    return _on_cpu_or_else(blocked_cpu.flatten_batch(of_rows), of_rows, rows, *others)


def before_total(losses: Array) -> Array:
    """Losses to be summed up; XLA CPU would fold that sum into the row reduction, and run both on one thread."""
    return _on_cpu_or_else(blocked_cpu.in_memory, _unchanged, losses)


def _on_cpu_or_else(cpu: Callable[..., Any], default: Callable[..., Any], *arrays: Any) -> Any:
    return lax.platform_dependent(*arrays, cpu=cpu, default=default)


def _unchanged(array: Array) -> Array:
    return array
