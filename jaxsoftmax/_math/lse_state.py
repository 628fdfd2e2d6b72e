"""The state (m, r) of a log-sum-exp, on which all functions but weighted log-sum-exps rest.

For one row x let m = max x and r = Σ_j exp(x_j - m) with ONE maximum left out. Then

    LSE(x)  = m + log1p(r)                        (M18)
    nll_y   = (m - x_y) + log1p(r)                (M19)
    s_j     = e_j / (1 + r),  e_j = exp(x_j - m)
    s_k - 1 = -r / (1 + r)                        (M20)

and each of these is relatively accurate however confident the row is: a tail of 1e-30 survives in r, which
`1 + 1e-30` would absorb. In the last line k is the *dominant* entry of a row, if it has one: the maximum, where all
exponentials add up to less than 1.875. Of no other entry would s - 1 cancel.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

# Below this sum of exponentials, taking the maximum's own 1 away again would cost bits.
CONFIDENT = 1.875
# There every other exponential is below 0.875, so that this tells the maximum from them, whatever rounding does.
NEAR_ONE = 0.9375


class LseState(NamedTuple):
    """The pair (m, r), each with the reduced axes of size 1; r is -1 for an empty sum, and m the lowest number."""

    maximum: Array
    remainder: Array


def remainder(total: Array, others: Array) -> Array:
    """r of rows from Σ_j e_j and, where that is below CONFIDENT, the sum without the maximum (M18)."""
    return jnp.where(total < CONFIDENT, jnp.where(total == 0, -1, others), total - 1)


def joined(one: LseState, other: LseState) -> LseState:
    """The state of two parts of a row together (M22)."""
    maximum = jnp.maximum(one.maximum, other.maximum)
    one_leads = one.maximum >= other.maximum
    leading, added = (
        jnp.where(one_leads, a, b) for a, b in ((one.remainder, other.remainder), (other.remainder, one.remainder))
    )
    drop = jnp.where(one_leads, other.maximum, one.maximum) - maximum
    return LseState(maximum, leading + jnp.exp(drop) * (1 + added))


def without_maximum(e: Array) -> Array:
    """e, but 0 at the maximum of a row whose sum is below CONFIDENT; in other rows its sum means nothing."""
    return jnp.where(e < NEAR_ONE, e, 0)


def finite_maximum(x: Array, axes: tuple[int, ...]) -> Array:
    """m, which is finite for a row of nothing, or of -inf alone, so that x - m is -inf there, and no NaN."""
    return jnp.max(x, axes, keepdims=True, initial=jnp.finfo(x.dtype).min)


def plain_state(x: Array, axes: tuple[int, ...]) -> LseState:
    """The state of x over `axes`, by its definition; without a derivative rule."""
    maximum = finite_maximum(x, axes)
    e = jnp.exp(x - maximum)
    total, others = (jnp.sum(terms, axes, keepdims=True) for terms in (e, without_maximum(e)))
    return LseState(maximum, remainder(total, others))


def is_empty(state: LseState) -> Array:
    """Whether a row has no element, or -inf alone; by r, as XLA's maximum over a CPU's devices leaves NaN out."""
    return state.remainder == -1


def denominator(state: LseState) -> Array:
    """1 + r, by which exponentials become probabilities; 1 for an empty row, whose probabilities are 0."""
    return jnp.where(is_empty(state), 1, 1 + state.remainder)


def log_denominator(state: LseState) -> Array:
    """log1p(r): the log-sum-exp above the maximum; 0 for an empty row."""
    return jnp.log1p(jnp.where(is_empty(state), 0, state.remainder))


def log_sum_exp(state: LseState) -> Array:
    """m + log1p(r) (M18)."""
    return jnp.where(state.maximum == jnp.inf, jnp.inf, state.maximum + jnp.log1p(state.remainder))


def near_maximum(x: Array, maximum: Array) -> Array:
    """Whether an entry is so near the maximum that in a confident row it is the maximum.

    XLA may compute x again where it is used, a rounding apart from the x that m was taken of: hence not x = m.
    """
    return x - maximum > math.log(NEAR_ONE)


def is_confident(state: LseState) -> Array:
    """Whether a row has a dominant entry: its exponentials add up to less than CONFIDENT, and it isn't empty."""
    return jnp.abs(state.remainder) < CONFIDENT - 1


def is_dominant(x: Array, state: LseState) -> Array:
    """Whether an entry is the dominant one of its row: the maximum, if the row is confident."""
    return _is_dominant_shift(x - state.maximum, state)


def _is_dominant_shift(shift: Array, state: LseState) -> Array:
    """Whether an entry is the dominant one, by x - m."""
    return shift > jnp.where(is_confident(state), math.log(NEAR_ONE), jnp.inf)


def is_dominant_probability(s: Array, state: LseState) -> Array:
    """`is_dominant` of a probability: in a confident row that of the maximum exceeds 8/15, and no other 7/15."""
    return s > jnp.where(is_confident(state), 0.5, jnp.inf)


def shifted_logits(x: Array, state: LseState) -> Array:
    """x - m, exactly and constantly 0 at the dominant entry.

    Differentiated there as x_k less m, it would have reverse mode add a cotangent and take it away again, and round
    the tail away between the two.
    """
    return jnp.where(is_dominant(x, state), 0, x - state.maximum)


def exact_margin(margin: Array, state: LseState) -> Array:
    """The margin m - x of an entry, but exactly 0 for the dominant one, of which XLA may have formed x again."""
    return jnp.where(_is_dominant_shift(-margin, state), 0, margin)


@jax.custom_jvp
def exponentials(x: Array, state: LseState) -> Array:
    """e = exp(x - m); 0 throughout an empty row."""
    return jnp.exp(x - state.maximum)


@exponentials.defjvp
def _exponentials_jvp(primals, tangents):
    """e (dx - dm), and 0 at the dominant entry, where x - m is constant: see `shifted_logits`."""
    (x, state), (x_dot, state_dot) = primals, tangents
    e = exponentials(x, state)
    return e, jnp.where(is_dominant(x, state), 0, e * (x_dot - state_dot.maximum))


def shifted_tangent(x: Array, x_dot: Array, state: LseState, state_dot: LseState) -> Array:
    """The derivative of x - L along x_dot, from that of the state: at the dominant entry x - m is constant."""
    shifted_dot = jnp.where(is_dominant(x, state), 0, x_dot - state_dot.maximum)
    return shifted_dot - state_dot.remainder / denominator(state)


def state_tangent(x: Array, x_dot: Array, centred: Array, state: LseState, axes: tuple[int, ...]) -> LseState:
    """The derivative of the state of x along x_dot, summed over `axes`.

    For any dm, dr = Σ_j e_j (dx_j - dm) gives the right derivative of m + log1p(r). Where an entry k is dominant,
    dm = dx_k keeps the tail of dr; else dm = 0. `centred` is x_dot less dx_k there: r times its own entry at k, which
    is 0, makes the transpose right.
    """
    e = exponentials(x, state)
    dominant = is_dominant(x, state)
    maximum_dot, centre = (jnp.sum(jnp.where(dominant, v, 0), axes, keepdims=True) for v in (x_dot, centred))
    # The select, where the sum is 0 anyway, keeps XLA CPU of jaxlib 0.10.2 from fusing a vmapped sum with what isn't
    # vmapped: it adds up wrong entries then (jax#39103).
    others_dot = jnp.where(is_empty(state), 0, jnp.sum(jnp.where(dominant, 0, e) * centred, axes, keepdims=True))
    return LseState(maximum_dot, others_dot - state.remainder * centre)
