"""The sum Σ_j b_j exp(a_j) of rows, relative to its largest summand."""

import jax.numpy as jnp
from jax import Array

from jaxsoftmax._math.classes import class_numbers
from jaxsoftmax._math.signed_sum import SignedSum, relative
from jaxsoftmax._reduction import schedules


def signed_state(a: Array, b: Array) -> SignedSum:
    """The sum of `b * exp(a)` over the last axis, both in their accumulation dtype."""
    size = jnp.where(b == 0, -jnp.inf, a + jnp.log(jnp.abs(b)))
    lead = jnp.argmax(size, -1).astype(jnp.int32)
    empty = jnp.max(size, -1, keepdims=True) == -jnp.inf
    exponent = jnp.where(empty, -jnp.inf, schedules.entry_at(a, lead))
    weight = jnp.where(empty, 1, schedules.entry_at(b, lead))
    state = SignedSum(exponent, weight, -jnp.ones_like(weight))
    others = jnp.where(class_numbers(a) == lead[..., None], 0, relative(a, b, state))
    return state._replace(remainder=jnp.where(empty, -1, jnp.sum(others, -1, keepdims=True)))
