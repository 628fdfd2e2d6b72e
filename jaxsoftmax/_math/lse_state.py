"""The state (m, r) of a log-sum-exp, on which every function of this package rests.

For one row x let m = max x and r = Σ_j exp(x_j - m) with ONE maximum left out. Then

    LSE(x)  = m + log1p(r)                        (M18)
    nll_y   = (m - x_y) + log1p(r)                (M19)
    s_j     = e_j / (1 + r),  e_j = exp(x_j - m)
    s_k - 1 = -r / (1 + r)                        (M20)

and each of these is relatively accurate however confident the row is: a tail of 1e-30 survives in r, which
`1 + 1e-30` would absorb. In the last line k is the *dominant* entry, the one with s_k > 1/2, if the row has one:
the only entry for which s - 1 would cancel.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

# Below this sum of exponentials, taking the maximum's own 1 away again would cost bits.
CONFIDENT = 1.875


class LseState(NamedTuple):
    """The pair (m, r), each with the reduced axes of size 1; the state of an empty sum is (-inf, -1)."""

    maximum: Array
    remainder: Array


def state_of_sums(maximum: Array, total: Array, others: Array) -> LseState:
    """The state of rows from Σ_j e_j and, where that is below CONFIDENT, the same sum without the maximum (M18)."""
    remainder = jnp.where(total < CONFIDENT, jnp.where(total == 0, -1, others), total - 1)
    # XLA's maximum over the devices of a CPU leaves NaN out; the sum does not.
    return LseState(jnp.where((maximum == -jnp.inf) & jnp.isnan(total), jnp.nan, maximum), remainder)


def without_maximum(e: Array) -> Array:
    """e, but 0 where that is 15/16 or more: at the maximum alone, in a row whose sum is below CONFIDENT."""
    return jnp.where(e < 0.9375, e, 0)


def shifted(x: Array, maximum: Array) -> Array:
    """x - m; -inf throughout an empty row."""
    return x - jnp.where(maximum == -jnp.inf, 0, maximum)


def exp_shifted(x: Array, maximum: Array) -> Array:
    """exp(x - m); 0 throughout an empty row."""
    return jnp.exp(shifted(x, maximum))


def is_empty(state: LseState) -> Array:
    """Whether a row has no element, or -inf alone."""
    return state.maximum == -jnp.inf


def denominator(state: LseState) -> Array:
    """1 + r, by which exponentials become probabilities; 1 for an empty row, whose probabilities are 0."""
    return jnp.where(is_empty(state), 1, 1 + state.remainder)


def log_denominator(state: LseState) -> Array:
    """log1p(r): the log-sum-exp above the maximum; 0 for an empty row."""
    return jnp.log1p(jnp.where(is_empty(state), 0, state.remainder))


def log_sum_exp(state: LseState) -> Array:
    """m + log1p(r) (M18)."""
    return jnp.where(state.maximum == jnp.inf, jnp.inf, state.maximum + log_denominator(state))


def is_dominant(x: Array, state: LseState) -> Array:
    """Whether the probability of an entry exceeds 1/2: at most one entry of a row.

    XLA may compute x again where it is used, a rounding apart from the x that m was taken of: the dominant entry is
    known by its probability, not by x = m.
    """
    return x > state.maximum + dominance_gap(state)


def dominance_gap(state: LseState) -> Array:
    """What x - m exceeds at the dominant entry alone, log(1 + r) - log 2; inf in a row without one."""
    return jnp.where(state.remainder < 1, log_denominator(state) - jnp.log(2.0).astype(state.remainder.dtype), jnp.inf)


def shifted_logits(x: Array, state: LseState) -> Array:
    """x - m, exactly and constantly 0 at the dominant entry.

    It is not differentiated there as if it varied: a transpose would add and subtract 1 where it should see the tail
    alone.
    """
    return jnp.where(is_dominant(x, state), 0, shifted(x, state.maximum))


@jax.custom_jvp
def exponentials(x: Array, state: LseState) -> Array:
    """e = exp(x - m); 0 throughout an empty row."""
    return exp_shifted(x, state.maximum)


@exponentials.defjvp
def _exponentials_jvp(primals, tangents):
    """e (dx - dm), constant at the dominant entry: there a transpose would add and subtract what absorbs the tail."""
    (x, state), (x_dot, state_dot) = primals, tangents
    e = exponentials(x, state)
    return e, jnp.where(is_dominant(x, state), 0, e * (x_dot - state_dot.maximum))


def state_tangent(x: Array, x_dot: Array, state: LseState, axes: tuple[int, ...]) -> LseState:
    """The derivative of the state of x along x_dot, summed over `axes`.

    Any dm goes with dr = Σ_j e_j (dx_j - dm). At a dominant entry k, dm = dx_k keeps the tail of dr; else dm = 0.
    """
    e = exponentials(x, state)
    leads = is_dominant(x, state)
    maximum_dot = jnp.sum(jnp.where(leads, x_dot, 0), axes, keepdims=True)
    # The select, where the sum is 0 anyway, keeps XLA CPU of jaxlib 0.10.2 from fusing a vmapped sum with what isn't
    # vmapped: it adds up wrong entries then (jax#39103).
    others_dot = jnp.where(is_empty(state), 0, jnp.sum(jnp.where(leads, 0, e) * x_dot, axes, keepdims=True))
    return LseState(maximum_dot, others_dot - state.remainder * maximum_dot)
