"""The state (m, r) of rows, and their softmax, with derivatives: one rule over every schedule."""

from functools import partial

import jax
from jax import Array

from jaxsoftmax._math.lse_state import LseState, exact_margin, is_dominant, shifted_logits, state_tangent
from jaxsoftmax._math.precision import widen
from jaxsoftmax._math.token_loss import LossOptions, softcap
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


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def margin_at(options: LossOptions, z: Array, x: Array, index: Array, state: LseState) -> Array:
    """m - z[..., index] [*batch, 1], where z is x under the soft cap; of an index outside of the row anything."""
    return exact_margin(schedules.margin_at(options, z, x, index, state), state)


@margin_at.defjvp
def _margin_at_jvp(options, primals, tangents):
    _, x, index, state = primals

    def margin(x: Array, state: LseState) -> Array:
        entry = softcap(options, widen(schedules.entry_at(x, index)))
        return -shifted_logits(entry, state)

    return margin_at(options, *primals), jax.jvp(margin, (x, state), (tangents[1], tangents[3]))[1]
