"""v - <s, v> of rows whose classes may be sharded, with the tails of confident rows kept (M21)."""

import jax.numpy as jnp
from jax import Array

from jaxsoftmax._math.lse_state import LseState, is_dominant
from jaxsoftmax._math.softmax import probabilities
from jaxsoftmax._sharding import Shards


def subtract_mean(shards: Shards, z: Array, state: LseState, v: Array) -> Array:
    """v - <s, v>, where s is the softmax of z: as h - <s, h> with h = v - v_k, which is 0 at a dominant entry k."""
    dominant = is_dominant(z, state)
    h = v - shards.psum(jnp.sum(jnp.where(dominant, v, 0), -1, keepdims=True))
    h = jnp.where(dominant, 0, h)
    return h - shards.psum(jnp.sum(probabilities(z, state) * h, -1, keepdims=True))
