"""The sum Σ_j b_j exp(a_j) of rows with real weights, relative to the size of its largest summand.

Divided by exp(m + d), d near max_j (a_j - m + log |b_j|), no summand exceeds about 1, and one that is larger than all
others together stands apart, as the maximum does in the state (m, r) of a sum without weights (M18). Opposite signs
may cancel in what is left, as they do in the sum. Rows are the last axis.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

_LEAST = -1e4  # of a_j - m: exp of it times any weight, and over any, is 0


class SignedSum(NamedTuple):
    """The sum is exp(m + d) (lead + others), each [*batch, 1]; m is -inf, and the rest is 0, for an empty sum."""

    maximum: Array  # m: of the finite a_j with weights
    log_size: Array  # d
    lead: Array  # the summand that is larger than all others together; 0 if none is
    others: Array


def scale(a: Array, b: Array) -> tuple[Array, Array]:
    """m and d of rows."""
    out = (b == 0) | jnp.isinf(a)
    m = jnp.max(jnp.where(out, -jnp.inf, a), -1, keepdims=True, initial=-jnp.inf)
    log_size = jnp.where(out | jnp.isinf(b), -jnp.inf, _less(a, m)[0] + jnp.log(jnp.abs(b)))
    d = jnp.max(log_size, -1, keepdims=True, initial=-jnp.inf)
    return m, jnp.where(d == -jnp.inf, 0, d)


def split(summands: Array) -> tuple[Array, Array]:
    """The lead, if there is one, and the sum of all others."""
    size = jnp.abs(summands)
    total, large, small, size = (
        jnp.sum(terms, -1, keepdims=True)
        for terms in (summands, jnp.where(size < 0.75, 0, summands), jnp.where(size < 0.75, summands, 0), size)
    )
    leads = size < 1.5
    return jnp.where(leads, large, 0), jnp.where(leads, small, total)


@jax.custom_jvp
def relative(a: Array, b: Array, state: SignedSum) -> tuple[Array, Array]:
    """b_j exp(a_j - m - d), and the same without b_j.

    a_j - m - d is formed in two numbers, as it may be large where b_j is. Its exponential is taken in halves, of which
    none is out of range before the whole is.
    """
    difference, low = _less(a, state.maximum)
    exponent, lower = _less(difference, state.log_size)
    half = jnp.exp(exponent / 2)
    other_half = half * (1 + (low + lower))
    out = (b == 0) | jnp.isneginf(a)
    return jnp.where(out, 0, b * half * other_half), half * other_half


@relative.defjvp
def _relative_jvp(primals, tangents):
    """Of the lead the summand is constant, and d varies with it: its tail would be absorbed otherwise."""
    (a, b, state), (a_dot, b_dot, state_dot) = primals, tangents
    summands, exponentials = relative(a, b, state)
    leads = is_lead(summands, state)
    exponent_dot = jnp.where(leads, -b_dot / jnp.where(leads, b, 1), a_dot - state_dot.log_size)
    exponentials_dot = exponentials * exponent_dot
    summands_dot = jnp.where(leads, 0, summands * exponent_dot + exponentials * b_dot)
    return (summands, exponentials), (summands_dot, exponentials_dot)


def state_tangent(a: Array, b: Array, a_dot: Array, b_dot: Array, state: SignedSum) -> SignedSum:
    """The derivative of the state: that of the lead's size in d, and none in m and in the lead."""
    summands, exponentials = relative(a, b, state)
    leads = is_lead(summands, state)
    total = partial(jnp.sum, axis=-1, keepdims=True)
    log_size_dot = total(jnp.where(leads, a_dot + b_dot / jnp.where(leads, b, 1), 0))
    others_dot = total(jnp.where(leads, 0, summands * a_dot + exponentials * b_dot)) - state.others * log_size_dot
    return SignedSum(jnp.zeros_like(state.maximum), log_size_dot, jnp.zeros_like(state.lead), others_dot)


def is_lead(summands: Array, state: SignedSum) -> Array:
    """Whether a summand is the lead: there all others together are less than 3/4."""
    return (jnp.abs(summands) > 0.75) & (state.lead != 0)


def log_absolute(state: SignedSum) -> Array:
    """Log of the absolute value of the sum, m + d + log |lead| + log1p(others / lead) where there is a lead."""
    lead, total = state.lead, state.lead + state.others
    ratio = jnp.where(lead == 0, 0, state.others / jnp.where(lead == 0, 1, lead))
    cancels = (lead == 0) | (ratio < -0.5)
    log_lead = jnp.log(jnp.abs(jnp.where(cancels, total, lead)))
    m = jnp.where(state.maximum == -jnp.inf, 0, state.maximum)
    return (m + state.log_size) + (log_lead + jnp.log1p(jnp.where(cancels, 0, ratio)))


def sign(state: SignedSum) -> Array:
    """-1, 0 or 1."""
    return jnp.sign(state.lead + state.others)


def is_empty(state: SignedSum) -> Array:
    """No element, weights of 0 or exponents of -inf alone."""
    return (state.maximum == -jnp.inf) & (state.others == 0)


def _less(a: Array, b: Array) -> tuple[Array, Array]:
    """a - b and what rounding took from it; -1e4 at least, and a itself where b is -inf."""
    b = jnp.where(b == -jnp.inf, 0, b)
    difference = a - b
    taken = difference - a
    low = (a - (difference - taken)) - (b + taken)
    low = jnp.where((difference < _LEAST) | jnp.isinf(a), 0, low)
    return jnp.where(difference < _LEAST, _LEAST, difference), low
