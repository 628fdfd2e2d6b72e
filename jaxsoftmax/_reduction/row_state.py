"""Log-sum-exp state, softmax and margins of rows: one JVP rule for each, whatever the schedule."""

from functools import partial

import jax
import jax.numpy as jnp
from jax import Array

from jaxsoftmax._math.loss_options import LossOptions, loss_logits
from jaxsoftmax._math.lse_state import LseState, exact_margin, is_dominant, shifted_logits, state_tangent
from jaxsoftmax._math.precision import widen
from jaxsoftmax._math.softmax import exponential_margins
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


@jax.custom_jvp
def margins_at(options: LossOptions, z: Array, x: Array, index: Array, state: LseState) -> Array:
    """m - z[..., index], [*batch, k], where z = loss_logits(x); of an index outside of the row anything."""
    return exact_margin(schedules.margins_at(options, z, x, index, state), state)


@margins_at.defjvp
def _margins_at_jvp(primals, tangents):
    options, _, x, index, state = primals

    def margin(x: Array, state: LseState) -> Array:
        entry = loss_logits(options, widen(schedules.entries_at(x, index)))
        return -shifted_logits(entry, state)

    return margins_at(*primals), jax.jvp(margin, (x, state), (tangents[2], tangents[4]))[1]


@jax.custom_jvp
def margin_sum(z: Array, state: LseState) -> Array:
    """Σ_j e_j (m - z_j), [*batch, 1], of which no term is negative; 0 at a dominant entry (M28)."""
    return schedules.margin_sum(z, state)


@margin_sum.defjvp
def _margin_sum_jvp(primals, tangents):
    def by_definition(z: Array, state: LseState) -> Array:
        return jnp.sum(exponential_margins(z, state), -1, keepdims=True)

    return margin_sum(*primals), jax.jvp(by_definition, primals, tangents)[1]
