"""The default schedule of a row reduction: one pass over the row, with everything that XLA can fuse into it.

No slice, gather, loop, branch or reshape of the class axis: it is partitioned with the row, exported with symbolic
sizes, and is what the compilers for TPU and GPU fuse best.
"""

import jax.numpy as jnp
from jax import Array

from jaxsoftmax._math import softmax
from jaxsoftmax._math.classes import class_numbers
from jaxsoftmax._math.lse_state import LseState, exp_shifted, state_of_sums, without_maximum
from jaxsoftmax._math.precision import accumulation_dtype


def lse_state(x: Array, axes: tuple[int, ...]) -> LseState:
    """The state of x over `axes`, which are kept with size 1."""
    maximum = jnp.max(x, axes, keepdims=True, initial=-jnp.inf)
    e = exp_shifted(x, maximum)
    total, others = (jnp.sum(terms, axes, keepdims=True) for terms in (e, without_maximum(e)))
    return state_of_sums(maximum, total, others)


def less_mean(x: Array, state: LseState, v: Array, axes: tuple[int, ...]) -> Array:
    """v - <s, v> over `axes`, s the softmax of x (M21)."""
    return softmax.centred_less_mean(x, state, v, axes)


def jacobian_product(x: Array, state: LseState, v: Array, axes: tuple[int, ...]) -> Array:
    """J v over `axes`, J the Jacobian of the softmax of x (M21)."""
    return softmax.centred_jacobian_product(x, state, v, axes)


def entry_at(rows: Array, index: Array) -> Array:
    """rows[..., index], as [*batch, 1], of rows [*batch or 1s, vocab]; 0 where the index is outside of the row."""
    here = index[..., None] == class_numbers(rows)
    if rows.dtype == bool:
        return jnp.any(here & rows, -1, keepdims=True)
    wide = rows.astype(accumulation_dtype(rows.dtype))
    return jnp.sum(jnp.where(here, wide, 0), -1, keepdims=True).astype(rows.dtype)


def with_entry_at(rows: Array, index: Array, entry: Array) -> Array:
    """Rows [*batch, vocab] with `entry` [*batch, 1] at number index [*batch], where that is inside of the row."""
    return jnp.where(index[..., None] == class_numbers(rows), entry, rows)
