"""Directions less their value at a row's dominant entry k, (P v)_j = v_j - v_k: one schedule, on every platform.

The Jacobian J of softmax takes the vector of ones to 0, and is its own transpose: J = J P = P^T J. At k, J cancels; of
J P v every term is small of itself (M21). So J is followed by P^T where it is transposed, and follows P where it isn't.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
from jax import Array, lax

from jaxsoftmax._math.lse_state import LseState
from jaxsoftmax._math.precision import accumulation_dtype
from jaxsoftmax._math.softmax import subtract_mean


class Centre(NamedTuple):
    """Where the dominant entries of rows are: their numbers, int32, or, if rows can't be read at those, a mask of them.

    Reading at a number costs nothing; by the mask a row is read once more.
    """

    place: Array  # [*batch, 1], any number in a row without a dominant entry; or boolean, shaped like the rows
    confident: Array  # whether a row has one


def less_centre(v: Array, centre: Centre, axes: tuple[int, ...]) -> Array:
    """P v in the accumulation dtype; v itself in rows without a dominant entry."""
    wide = _widened(v)
    if centre.place.dtype == bool:
        entry = jnp.sum(jnp.where(centre.place, wide, 0), axes, keepdims=True)
    else:
        # Of v as it is given: of `wide`, XLA would form an array to read from.
        entry = _widened(jnp.take_along_axis(v, centre.place, -1, mode="clip"))
    return wide - lax.optimization_barrier(jnp.where(centre.confident, entry, 0))


def centred(v: Array, centre: Centre, axes: tuple[int, ...]) -> Array:
    """P v, which JAX transposes to v: of J P that makes J."""
    return _with_transpose(lambda h: less_centre(h.astype(v.dtype), centre, axes), _unchanged, _widened(v))


def jacobian_product(s: Array, state: LseState, centre: Centre, v: Array, axes: tuple[int, ...]) -> Array:
    """J v over `axes`, J the Jacobian of the softmax s, as J P v; transposed J P too, of numbers of v's dtype (M21)."""
    product = s * subtract_mean(s, state, centred(v, centre, axes), axes)
    return _with_transpose(_unchanged, lambda h: less_centre(h.astype(v.dtype), centre, axes), product)


def _widened(v: Array) -> Array:
    return v.astype(accumulation_dtype(v.dtype))


def _with_transpose(of: Callable[[Array], Array], transpose: Callable[[Array], Array], v: Array) -> Array:
    """The linear `of(v)`, for whose transpose JAX takes `transpose`, whether it is or not; of constants beside v.

    `lax.custom_linear_solve`, of the identity here, is what takes a transpose that is given.
    """
    return lax.custom_linear_solve(_unchanged, v, lambda _, b: of(b), lambda _, b: transpose(b))


def _unchanged(array: Array) -> Array:
    return array
