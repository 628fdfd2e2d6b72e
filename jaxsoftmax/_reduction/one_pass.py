"""The default schedule of a row reduction: one pass over the row, with everything that XLA can fuse into it.

No slice, gather, loop, branch or reshape of the class axis: it is partitioned with the row, exported with symbolic
sizes, and is what the compilers for TPU and GPU fuse best.
"""

import jax.numpy as jnp
from jax import Array, lax

from jaxsoftmax._math import softmax, token_loss
from jaxsoftmax._math.classes import class_numbers
from jaxsoftmax._math.lse_state import LseState, finite_maximum, is_confident, near_maximum, remainder, without_maximum
from jaxsoftmax._math.precision import accumulation_dtype
from jaxsoftmax._math.token_loss import TargetSums


def lse_state(x: Array, axes: tuple[int, ...]) -> LseState:
    """The state of x over `axes`, which are kept with size 1."""
    maximum = finite_maximum(x, axes)
    e = jnp.exp(x - maximum)
    total, others = (jnp.sum(terms, axes, keepdims=True) for terms in (e, without_maximum(e)))
    # Apart, or XLA's GPU compiler keeps these exponentials in memory for what is formed of them next.
    return LseState(*(lax.optimization_barrier(number) for number in (maximum, remainder(total, others))))


def softmax_and_state(x: Array, axes: tuple[int, ...]) -> tuple[Array, LseState]:
    """The softmax of x over `axes`, and the state."""
    state = lse_state(x, axes)
    return softmax.probabilities(x, state), state


def less_mean(x: Array, state: LseState, v: Array, axes: tuple[int, ...]) -> Array:
    """v - <s, v> over `axes`, s the softmax of x (M21)."""
    return softmax.centred_less_mean(x, state, v, axes)


def jacobian_product(s: Array, dominant: Array, state: LseState, v: Array, axes: tuple[int, ...]) -> Array:
    """J v over `axes`, J the Jacobian of the softmax s (M21)."""
    return softmax.centred_jacobian_product(s, dominant, state, v, axes)


def target_sums(z: Array, state: LseState, targets: Array) -> TargetSums:
    """The sums of a row with float labels.

    What is near the maximum is summed apart from the rest, and not by r: so they share a pass with the sums for r.
    """
    near = near_maximum(z, state.maximum)
    terms = token_loss.target_margins(targets, state.maximum - z), targets
    (margin, near_margin), (target, near_target) = (
        tuple(jnp.sum(jnp.where(where, term, 0), -1, keepdims=True) for where in (~near, near)) for term in terms
    )
    confident, total = is_confident(state), target + near_target
    return TargetSums(jnp.where(confident, margin, margin + near_margin), total, jnp.where(confident, target, total))


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
