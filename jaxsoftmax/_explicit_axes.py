"""Arrays whose types say that they are sharded, over Explicit axes of a mesh."""

from typing import Any

import jax
from jax import Array
from jax.sharding import NamedSharding, PartitionSpec


def is_sharded(array: Array) -> bool:
    """Whether an array is sharded over an Explicit axis."""
    return any(axes is not None for axes in jax.typeof(array).sharding.spec)


def sharded_alike(*arrays: Any) -> tuple[Any, ...]:
    """Arrays of one shape, or None, each sharded over every Explicit axis of a mesh that one of them is sharded over.

    Where two of them are sharded differently, they are left as they are, and JAX says so.
    """
    shardings = [jax.typeof(array).sharding for array in arrays if array is not None]
    dimensions = zip(*(sharding.spec for sharding in shardings), strict=True)
    joint = [{axes for axes in of_dimension if axes is not None} for of_dimension in dimensions]
    mesh = next((jax.typeof(array).sharding.mesh for array in arrays if array is not None and is_sharded(array)), None)
    if mesh is None or any(len(axes) > 1 for axes in joint):
        return arrays
    spec = PartitionSpec(*(next(iter(axes), None) for axes in joint))
    return tuple(None if a is None else jax.sharding.reshard(a, NamedSharding(mesh, spec)) for a in arrays)
