"""The state (m, r) of rows, and their softmax, with derivatives: one rule over every schedule."""

from functools import partial

import jax
from jax import Array

from jaxsoftmax._math.lse_state import LseState, is_dominant, state_tangent
from jaxsoftmax._reduction import schedules
from jaxsoftmax._reduction.centring import centred, jacobian_product


@partial(jax.custom_jvp, nondiff_argnums=(1, 2))
def lse_state(x: Array, axes: tuple[int, ...], shared: bool = False) -> LseState:
    """The state of x, which is in its accumulation dtype, over `axes`, which are kept with size 1.

    `shared` says that a gradient is made of the same exponentials.
    """
    return schedules.lse_state(x, axes, shared)


@lse_state.defjvp
def _lse_state_jvp(axes, shared, primals, tangents):
    (x,), (x_dot,) = primals, tangents
    state = lse_state(x, axes, shared)
    index = schedules.dominant_index(x, state, axes)
    h = centred(x_dot, index, is_dominant(x, state), axes)
    return state, state_tangent(x, x_dot, h, state, axes)


@partial(jax.custom_jvp, nondiff_argnums=(1,))
def softmax_and_state(x: Array, axes: tuple[int, ...]) -> tuple[Array, LseState]:
    """The softmax of x, which is in its accumulation dtype, over `axes`, and the state (M4)."""
    return schedules.softmax_and_state(x, axes)


@softmax_and_state.defjvp
def _softmax_and_state_jvp(axes, primals, tangents):
    (x,), (x_dot,) = primals, tangents
    s, state = softmax_and_state(x, axes)
    index = schedules.dominant_index(x, state, axes)
    s_dot = jacobian_product(s, state, index, x_dot, axes)  # (M6)
    h = centred(x_dot, index, is_dominant(x, state), axes)
    return (s, state), (s_dot, state_tangent(x, x_dot, h, state, axes))
