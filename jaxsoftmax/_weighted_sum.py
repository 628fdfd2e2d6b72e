r"""The sum \sum_j b_j exp(a_j) as lead * exp(m) * (1 + r): the state (m, r) of a sum with real weights.

The lead is the summand of largest size, b_k exp(a_k - m), sign included. Divided by it, the leading summand is exactly
1, and r holds the others, as it does without weights. Opposite signs may cancel in 1 + r, as they do in the sum.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array

from jaxsoftmax import _lse_state
from jaxsoftmax._lse_state import LseState


class WeightedState(NamedTuple):
    """The sum is lead * exp(m) * (1 + r)."""

    lse: LseState
    lead: Array


def of_array(a: Array, b: Array, axes: tuple[int, ...]) -> WeightedState:
    """The state of `b * exp(a)` over `axes`, which are kept with size 1; `a` is -inf wherever `b` is 0."""
    maximum = jnp.max(a, axes, keepdims=True, initial=-jnp.inf)
    summands = b * _lse_state.exp_shifted(a, maximum)
    high = jnp.max(summands, axes, keepdims=True, initial=0)
    low = jnp.min(summands, axes, keepdims=True, initial=0)
    lead = jnp.where(high >= -low, high, low)
    lead = jnp.where(lead == 0, 1, lead)
    relative = summands / lead
    leaders = jnp.trunc(relative)
    rest = jnp.sum(relative - leaders, axes, keepdims=True)
    remainder = rest + (jnp.sum(leaders, axes, keepdims=True) - 1)
    return WeightedState(LseState(maximum, remainder), lead)


def log_absolute(state: WeightedState) -> Array:
    """Log of the absolute value of the sum."""
    m, r = state.lse
    log_size = jnp.where(r < -0.5, jnp.log(jnp.abs(1 + r)), jnp.log1p(jnp.maximum(r, -0.5)))
    return jnp.where(_lse_state.is_empty(state.lse), m, (m + log_size) + jnp.log(jnp.abs(state.lead)))


def sign(state: WeightedState) -> Array:
    """-1, 0 or 1."""
    return jnp.sign(state.lead) * jnp.sign(1 + state.lse.remainder)


def denominator(state: WeightedState) -> Array:
    """The sum over exp(m), by which weighted exponentials are divided; NaN for an empty sum."""
    return jnp.where(_lse_state.is_empty(state.lse), jnp.nan, state.lead * (1 + state.lse.remainder))
