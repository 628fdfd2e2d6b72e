"""How an array comes to be sharded as another one over Auto axes, whose sharding is not known before compilation."""

import jax
import jax.numpy as jnp
from jax import Array, lax


@jax.custom_vjp
def sharded_as_given(argument: Array) -> Array:
    """The argument, whose gradient comes back sharded as the argument is."""
    return argument


def _fwd(argument):
    return argument, argument


def _bwd(argument, argument_bar):
    return (_sharded_like(argument_bar, argument),)


sharded_as_given.defvjp(_fwd, _bwd)


def _sharded_like(array: Array, other: Array) -> Array:
    """The array; XLA shards an element-by-element choice between two as they are, and does not see which is taken."""
    always = lax.optimization_barrier(jnp.ones((), bool))
    return jnp.where(always, array, other)
