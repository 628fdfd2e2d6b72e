"""The class that a row of logits predicts: the first one of its maximum (M33)."""

import jax
import jax.numpy as jnp
from jax import Array

from jaxsoftmax._math.classes import class_numbers
from jaxsoftmax._reduction import schedules
from jaxsoftmax._sharding import Shards


def predictions(shards: Shards, x: Array) -> Array:
    """The number of the first class of each row's maximum, int32 [*batch]; the first NaN's, where there is one."""
    offset = shards.class_offset(x.shape[-1])
    if shards.unpadded is not None:
        x = jnp.where(offset + class_numbers(x) < shards.unpadded, x, -jnp.inf)
    index = schedules.first_maximum(x)  # (M33)
    if not shards.classes:
        return index
    # By the entry, as on a CPU a maximum may ignore NaN.
    largest = schedules.entry_at(jax.lax.stop_gradient(x), index)
    return shards.first_of_largest(largest[..., 0], index + offset)
