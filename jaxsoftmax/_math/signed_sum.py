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

_LEAST = -1e4  # exp of it stays 0 in float64 when it is multiplied with any finite weight, or divided by one
_DOMINANT, _CONFIDENT = 0.75, 1.5  # if sizes add up to less than 1.5, at most one exceeds 0.75: the largest, about 1


class Weights(NamedTuple):
    """b = size * unit, where the unit is a power of two that keeps the size from being subnormal, or 1."""

    size: Array
    unit: Array


class SignedSum(NamedTuple):
    """The sum is exp(m + d) (dominant + remainder), each [*batch, 1].

    Of an empty sum m is -inf, and the rest is 0.
    """

    maximum: Array  # m: of the finite a_j with weights
    log_size: Array  # d
    dominant: Array  # the summand that is larger than all others together; 0 if none is
    remainder: Array  # the sum of all others


def exponent_shift(a: Array, b: Weights) -> tuple[Array, Array]:
    """m = max a_j over finite a_j with weights, and d = max (a_j - m + log |b_j|) over finite weights; [*batch, 1]."""
    out = (b.size == 0) | jnp.isinf(a)
    m = jnp.max(jnp.where(out, -jnp.inf, a), -1, keepdims=True, initial=-jnp.inf)
    log_weight = jnp.log(jnp.abs(b.size)) + jnp.log(b.unit)
    log_size = jnp.where(out | jnp.isinf(b.size), -jnp.inf, _difference_with_error(a, m)[0] + log_weight)
    d = jnp.max(log_size, -1, keepdims=True, initial=-jnp.inf)
    return m, jnp.where(d == -jnp.inf, 0, d)


def split(summands: Array) -> tuple[Array, Array]:
    """The dominant summand, or 0 if there is none, and the sum of all others."""
    size = jnp.abs(summands)
    total, large, small, size = (
        jnp.sum(terms, -1, keepdims=True)
        for terms in (
            summands,
            jnp.where(size < _DOMINANT, 0, summands),
            jnp.where(size < _DOMINANT, summands, 0),
            size,
        )
    )
    confident = size < _CONFIDENT
    return jnp.where(confident, large, 0), jnp.where(confident, small, total)


@jax.custom_jvp
def scaled_summands(a: Array, b: Weights, state: SignedSum) -> tuple[Array, tuple[Array, Array]]:
    """b_j exp(a_j - m - d), and exp(a_j - m - d) as a pair of factors, each in range where their product is.

    a_j - m - d is formed in two numbers, as it may be large where b_j is.
    """
    difference, low = _difference_with_error(a, state.maximum)
    exponent, lower = _difference_with_error(difference, state.log_size)
    half = jnp.exp(exponent / 2)
    other_half = half * (1 + (low + lower))
    out = (b.size == 0) | jnp.isneginf(a)
    return jnp.where(out, 0, b.size * half * (b.unit * other_half)), (half, other_half)


@scaled_summands.defjvp
def _scaled_summands_jvp(primals, tangents):
    """The dominant summand is constant, its change goes into d: otherwise reverse mode would round the others away."""
    (a, b, state), (a_dot, b_dot, state_dot) = primals, tangents
    summands, halves = scaled_summands(a, b, state)
    at_dominant = is_dominant(summands, state)
    exponent_dot = jnp.where(at_dominant, -_log_tangent(b, b_dot, at_dominant), a_dot - state_dot.log_size)
    summands_dot = jnp.where(at_dominant, 0, summands * exponent_dot + _by_weights(halves, b, b_dot))
    half, other_half = halves
    halves_dot = half * (exponent_dot / 2), other_half * (exponent_dot / 2)
    return (summands, halves), (summands_dot, halves_dot)


def state_tangent(a: Array, b: Weights, a_dot: Array, b_dot: Weights, state: SignedSum) -> SignedSum:
    """The derivative of the state: d changes as the log of the dominant summand, which is constant, as m is."""
    summands, halves = scaled_summands(a, b, state)
    at_dominant = is_dominant(summands, state)
    total = partial(jnp.sum, axis=-1, keepdims=True)
    log_size_dot = total(jnp.where(at_dominant, a_dot + _log_tangent(b, b_dot, at_dominant), 0))
    remainder_dot = total(jnp.where(at_dominant, 0, summands * a_dot + _by_weights(halves, b, b_dot)))
    remainder_dot -= state.remainder * log_size_dot
    return SignedSum(jnp.zeros_like(state.maximum), log_size_dot, jnp.zeros_like(state.dominant), remainder_dot)


def _by_weights(halves: tuple[Array, Array], b: Weights, b_dot: Weights) -> Array:
    """The change of a summand by that of its weight."""
    return halves[0] * b_dot.size * (b.unit * halves[1])


def _log_tangent(b: Weights, b_dot: Weights, at_dominant: Array) -> Array:
    """The derivative of log |b|, where b's summand dominates; the unit is constant."""
    return b_dot.size / jnp.where(at_dominant, b.size, 1)


def is_dominant(summands: Array, state: SignedSum) -> Array:
    """Whether a summand is the dominant one of its row."""
    return (jnp.abs(summands) > _DOMINANT) & (state.dominant != 0)


def log_absolute(state: SignedSum) -> Array:
    """Log |sum|: m + d + log |dominant| + log1p(remainder / dominant) where a summand dominates."""
    dominant, total = state.dominant, state.dominant + state.remainder
    ratio = jnp.where(dominant == 0, 0, state.remainder / jnp.where(dominant == 0, 1, dominant))
    cancels = (dominant == 0) | (ratio < -0.5)
    log_dominant = jnp.log(jnp.abs(jnp.where(cancels, total, dominant)))
    m = jnp.where(state.maximum == -jnp.inf, 0, state.maximum)
    return (m + state.log_size) + (log_dominant + jnp.log1p(jnp.where(cancels, 0, ratio)))


def sign(state: SignedSum) -> Array:
    """The sign of the sum: -1, 0 or 1."""
    return jnp.sign(state.dominant + state.remainder)


def is_empty(state: SignedSum) -> Array:
    """Whether nothing is summed: no element, or weights of 0 and exponents of -inf alone."""
    return (state.maximum == -jnp.inf) & (state.remainder == 0)


def _difference_with_error(a: Array, b: Array) -> tuple[Array, Array]:
    """a - b, at least -1e4, and its rounding error; a itself where b is -inf."""
    b = jnp.where(b == -jnp.inf, 0, b)
    difference = a - b
    taken = difference - a
    low = (a - (difference - taken)) - (b + taken)
    low = jnp.where((difference < _LEAST) | jnp.isinf(a), 0, low)
    return jnp.where(difference < _LEAST, _LEAST, difference), low
