"""The sum Σ_j b_j exp(a_j) of rows, with its derivative: one schedule, on every platform."""

import jax
import jax.numpy as jnp
from jax import Array

from jaxsoftmax._math.signed_sum import SignedSum, exponent_shift, scaled_summands, split, state_tangent


@jax.custom_jvp
def signed_state(a: Array, b: Array) -> SignedSum:
    """The sum of `b * exp(a)` over the last axis, both in their accumulation dtype."""
    zero = jnp.zeros((*a.shape[:-1], 1), a.dtype)
    scaled = SignedSum(*exponent_shift(a, b), zero, zero)
    summands, _ = scaled_summands(a, b, scaled)
    lead, others = split(summands)
    return scaled._replace(lead=lead, others=others)


@signed_state.defjvp
def _signed_state_jvp(primals, tangents):
    (a, b), (a_dot, b_dot) = primals, tangents
    state = signed_state(a, b)
    return state, state_tangent(a, b, a_dot, b_dot, state)
