"""The state (m, r) of rows, with its derivative: one rule over every schedule."""

from functools import partial

import jax
from jax import Array

from jaxsoftmax._math.lse_state import LseState, state_tangent
from jaxsoftmax._reduction import schedules


@partial(jax.custom_jvp, nondiff_argnums=(1,))
def lse_state(x: Array, axes: tuple[int, ...]) -> LseState:
    """The state of x, which is in its accumulation dtype, over `axes`, which are kept with size 1."""
    return schedules.lse_state(x, axes)


@lse_state.defjvp
def _lse_state_jvp(axes, primals, tangents):
    (x,), (x_dot,) = primals, tangents
    state = lse_state(x, axes)
    return state, state_tangent(x, x_dot, state, axes)
