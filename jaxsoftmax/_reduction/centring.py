"""Products with the Jacobian J of softmax that keep their tails: one schedule, on every platform.

J takes the vector of ones to 0, and is its own transpose. So J = J P for (P v)_j = v_j - v_k, with k the dominant entry
of a row. There J v cancels, and of J P v every term is small (M21). J v is formed as J P v, and its transpose of g as
J P g: JAX is given that transpose, as it would form P^T J g.
"""

from collections.abc import Callable

import jax.numpy as jnp
from jax import Array, lax

from jaxsoftmax._math import softmax
from jaxsoftmax._math.lse_state import LseState, is_dominant_probability
from jaxsoftmax._math.precision import accumulation_dtype


def subtract_centre(v: Array, index: Array | None, dominant: Array, axes: tuple[int, ...]) -> Array:
    """v - v_k (P v of M21) for the dominant entry k, in the accumulation dtype; v itself where there is none.

    `index` [*batch, 1] is that of the dominant entry, and -1 where there is none. It is None where rows can't be read
    at an index: then they are read once more, by the mask `dominant`.
    """
    wide = _widen(v)
    if index is None:
        entry = jnp.sum(jnp.where(dominant, wide, 0), axes, keepdims=True)
    else:
        # Of v as it is given: of `wide`, XLA would form an array to read from.
        entry = _widen(jnp.take_along_axis(v, index, -1, mode="clip"))
        entry = jnp.where(index < 0, 0, entry)
    return wide - lax.optimization_barrier(entry)


def centred(v: Array, index: Array | None, dominant: Array, axes: tuple[int, ...]) -> Array:
    """v - v_k (P v of M21), transposed as the identity: correct inside of J P v, where J P = J = J^T."""
    return _with_transpose(lambda h: subtract_centre(h.astype(v.dtype), index, dominant, axes), _unchanged, _widen(v))


def jacobian_product(s: Array, state: LseState, index: Array | None, v: Array, axes: tuple[int, ...]) -> Array:
    """J v over `axes`, J the Jacobian of softmax (M6, M21). A cotangent is first cast to v's dtype."""
    dominant = is_dominant_probability(s, state)
    product = softmax.jacobian_product(s, state, centred(v, index, dominant, axes), axes)
    return _with_transpose(_unchanged, lambda h: subtract_centre(h.astype(v.dtype), index, dominant, axes), product)


def _widen(v: Array) -> Array:
    return v.astype(accumulation_dtype(v.dtype))


def _with_transpose(of: Callable[[Array], Array], transpose: Callable[[Array], Array], v: Array) -> Array:
    """The linear `of(v)`, which JAX transposes to `transpose`; that the whole product is right, the caller sees to.

    `lax.custom_linear_solve`, of the identity here, is what takes a transpose that is given.
    """
    return lax.custom_linear_solve(_unchanged, v, lambda _, b: of(b), lambda _, b: transpose(b))


def _unchanged(array: Array) -> Array:
    return array
