"""Directional derivatives in forward-mode rules, where a tangent may be symbolically zero."""

from typing import Any

import jax.numpy as jnp
from jax import Array
from jax.custom_derivatives import SymbolicZero


def inner(gradient: Array, tangent: Any, axes: int | tuple[int, ...]) -> Array:
    """<gradient, tangent>, formed at the gradient's precision; 0 for an argument that isn't differentiated."""
    if isinstance(tangent, SymbolicZero):
        return jnp.zeros((1,) * gradient.ndim, gradient.dtype)
    return jnp.sum(gradient * tangent.astype(gradient.dtype), axes, keepdims=True)
