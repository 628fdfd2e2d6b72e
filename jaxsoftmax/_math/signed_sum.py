"""The sum Σ_j b_j exp(a_j) with real weights, as b_k exp(a_k) (1 + r) with k the summand of largest size.

Divided by the k-th, the leading summand is exactly 1 and r holds the others, as the state (m, r) does without weights.
Opposite signs may cancel in 1 + r, as they do in the sum. Rows are the last axis.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array


class SignedSum(NamedTuple):
    """The sum is b_k exp(a_k) (1 + r), each [*batch, 1]; a_k is -inf and b_k is 1 for an empty sum, which is 0."""

    exponent: Array  # a_k
    weight: Array  # b_k
    remainder: Array  # r


def relative(a: Array, b: Array, state: SignedSum) -> Array:
    """b_j exp(a_j) / (b_k exp(a_k)), in two halves of which neither overflows before the whole does; 0 where b_j is."""
    half = jnp.exp((a - jnp.where(is_empty(state), 0, state.exponent)) / 2)
    ratio = b / state.weight
    return jnp.where((ratio == 0) | jnp.isneginf(a), 0, ratio * jnp.where(ratio == 0, 1, half) * half)


def log_absolute(state: SignedSum) -> Array:
    """Log of the absolute value of the sum."""
    r = state.remainder
    log_size = jnp.where(r < -0.5, jnp.log(jnp.abs(1 + r)), jnp.log1p(jnp.maximum(r, -0.5)))
    lead = state.exponent + jnp.log(jnp.abs(state.weight))
    return jnp.where(jnp.isinf(lead), lead, lead + log_size)


def sign(state: SignedSum) -> Array:
    """-1, 0 or 1."""
    infinite = jnp.isposinf(state.exponent) | jnp.isinf(state.weight)
    return jnp.sign(state.weight) * jnp.where(infinite, 1, jnp.sign(1 + state.remainder))


def is_empty(state: SignedSum) -> Array:
    """No element, weights of 0 or exponents of -inf alone."""
    return state.exponent == -jnp.inf
