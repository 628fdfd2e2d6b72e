"""In which dtype a gradient of the fused head is multiplied and leaves a device, and how float16 keeps its range."""

import jax.numpy as jnp
from jax import Array, lax

from jaxsoftmax._head.problem import GradSpec, GradSpecs, HeadGrads
from jaxsoftmax._math.precision import accumulation_dtype


def saved_dtypes(wanted: GradSpecs, axes: frozenset[str]) -> HeadGrads:
    """The dtypes of the gradients of inputs that vary over `axes`, before sums over devices and the cotangent.

    They are the arguments', but float32 where more is to come before they are rounded: a sum over devices that share
    the argument; or for float16 the cotangent, which may bring them into its range.
    """

    def saved(spec: GradSpec) -> jnp.dtype:
        final = spec.dtype != jnp.float16 and axes <= spec.axes
        return spec.dtype if final else accumulation_dtype(spec.dtype)

    return HeadGrads(*(None if spec is None else saved(spec) for spec in wanted))


def as_operand(g: Array, dtype: jnp.dtype) -> tuple[Array, Array | None]:
    """The logits' gradient G in the dtype of the products, and what these are to be multiplied by; None for 1.

    float16 numbers are kept in range by a power of two, so that the largest entry of G is about 2^10 in a product.
    """
    if dtype != jnp.float16:
        return g.astype(dtype), None
    largest = lax.stop_gradient(jnp.max(jnp.where(jnp.isfinite(g), jnp.abs(g), 0), initial=0))
    scale = jnp.ldexp(jnp.ones((), g.dtype), jnp.clip(jnp.frexp(largest)[1] - 10, -100, 100))
    return (g / scale).astype(dtype), scale


def rescaled(product: Array, scale: Array | None) -> Array:
    """A product of `as_operand`'s array, times its scale."""
    return product if scale is None else product * scale


def as_saved(gradient: Array | None, dtype: jnp.dtype | None) -> Array | None:
    """The gradient in the dtype that it is saved in; None if it isn't wanted."""
    return None if gradient is None or dtype is None else gradient.astype(dtype)
