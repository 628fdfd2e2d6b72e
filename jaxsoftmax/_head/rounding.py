"""In which dtype a gradient of the fused head leaves a device, and how float16 keeps it within its range."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from jaxsoftmax._head.problem import GradSpec, GradSpecs, HeadGrads, HeadInputs
from jaxsoftmax._math.precision import accumulation_dtype
from jaxsoftmax._sharding import Shards


def saved_dtypes(wanted: GradSpecs, axes: frozenset[str]) -> HeadGrads:
    """The dtypes of the gradients of inputs that vary over `axes`, before sums over devices and the cotangent.

    They are the arguments', but float32 where more is to come before they are rounded: a sum over devices that share
    the argument; or for float16 the cotangent, which may bring them into its range.
    """

    def saved(spec: GradSpec) -> jnp.dtype:
        final = spec.dtype != jnp.float16 and axes <= spec.axes
        return spec.dtype if final else accumulation_dtype(spec.dtype)

    return HeadGrads(*(None if spec is None else saved(spec) for spec in wanted))


def loss_scale(inputs: HeadInputs, shards: Shards, outputs_bar: Any, class_weights: Array | None) -> Array | None:
    """The inverse loss scale for float16 products, a power of two; None for other dtypes.

    It is about 2^-10 of the gradient's largest entry, which keeps scaled cotangents in float16's range.
    """
    if inputs.product_dtype != jnp.float16:
        return None
    largest = [jnp.stack([_largest(bar) for bar in jax.tree.leaves(outputs_bar)])]
    if class_weights is not None:
        largest.append(_largest(class_weights.astype(inputs.dtype)))
    exponents = (jnp.frexp(shards.pmax(jnp.max(one)))[1] for one in largest)
    return jnp.ldexp(jnp.ones((), inputs.dtype), jnp.clip(sum(exponents) - 10, -100, 100))


def _largest(array: Array) -> Array:
    return lax.stop_gradient(jnp.max(jnp.abs(array), initial=0))


def unscaled(gradient: Array | None, by: Array | None, dtype: jnp.dtype | None) -> Array | None:
    """The gradient without the loss scale, in the dtype that it is saved in; None if it isn't wanted."""
    if gradient is None or dtype is None:
        return None
    return (gradient if by is None else gradient * by).astype(dtype)
