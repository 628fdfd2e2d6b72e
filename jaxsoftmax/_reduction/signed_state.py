"""The sum Σ_j b_j exp(a_j) of rows, with its derivative: one schedule, on every platform."""

import jax
import jax.numpy as jnp
from jax import Array, lax

from jaxsoftmax._math.signed_sum import SignedSum, Weights, exponent_shift, scaled_summands, split, state_tangent

_UNIT = 2.0**-64


@jax.custom_jvp
def weights_in_units(b: Array) -> Weights:
    """Weights of any size; subnormals are decoded from their bits, as XLA on CPU and TPU flushes them to zero."""
    info = jnp.finfo(b.dtype)
    bits = lax.bitcast_convert_type(b, f"uint{info.bits}")
    is_negative, exponent, mantissa = (
        bits >> (info.bits - 1) == 1,
        bits << 1 >> (info.nmant + 1),
        bits & ((1 << info.nmant) - 1),
    )
    size = mantissa.astype(b.dtype) * (float(info.smallest_subnormal) / _UNIT)
    size = jnp.where(is_negative, -size, size)
    subnormal = (exponent == 0) & (mantissa != 0)
    return Weights(jnp.where(subnormal, size, b), jnp.where(subnormal, jnp.asarray(_UNIT, b.dtype), 1))


@weights_in_units.defjvp
def _weights_in_units_jvp(primals, tangents):
    (b,), (b_dot,) = primals, tangents
    weights = weights_in_units(b)
    return weights, Weights(b_dot / weights.unit, jnp.zeros_like(b))


@jax.custom_jvp
def signed_state(a: Array, b: Weights) -> SignedSum:
    """The sum of `b * exp(a)` over the last axis, both in their accumulation dtype."""
    zero = jnp.zeros((*a.shape[:-1], 1), a.dtype)
    scaled = SignedSum(*exponent_shift(a, b), zero, zero)
    summands, _ = scaled_summands(a, b, scaled)
    dominant, remainder = split(summands)
    return scaled._replace(dominant=dominant, remainder=remainder)


@signed_state.defjvp
def _signed_state_jvp(primals, tangents):
    (a, b), (a_dot, b_dot) = primals, tangents
    state = signed_state(a, b)
    return state, state_tangent(a, b, a_dot, b_dot, state)
