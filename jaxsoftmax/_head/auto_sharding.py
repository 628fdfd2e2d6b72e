"""How an array comes to be sharded as another one over Auto axes, whose sharding is not known before compilation."""

import jax.numpy as jnp
from jax import Array, lax


def sharded_like(array: Array, other: Array) -> Array:
    """The array; XLA shards an element-by-element choice between two as they are, and does not see which is taken."""
    always = lax.optimization_barrier(jnp.ones((), bool))
    return jnp.where(always, array, other)
