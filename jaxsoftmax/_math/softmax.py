"""Softmax and log-softmax from a row's state, and v - <s, v>, of which their derivatives are made (M4-M6, M10, M21)."""

import jax.numpy as jnp
from jax import Array

from jaxsoftmax._math.lse_state import (
    LseState,
    denominator,
    exponentials,
    is_confident,
    is_dominant_probability,
    is_empty,
    log_denominator,
    near_maximum,
    shifted_logits,
)


def probabilities(x: Array, state: LseState) -> Array:
    """s_j = e_j / (1 + r) (M4)."""
    return exponentials(x, state) / denominator(state)


def log_probabilities(x: Array, state: LseState) -> Array:
    """log s_j = (x_j - m) - log1p(r) (M10, M19)."""
    return shifted_logits(x, state) - log_denominator(state)


def subtract_mean(s: Array, state: LseState, v: Array, axes: tuple[int, ...]) -> Array:
    """v - <s, v>; at a dominant entry of s the difference cancels, unless v is 0 there."""
    return v - _select_to_end_fusion(state, jnp.sum(s * v, axes, keepdims=True))


def centred_subtract_mean(x: Array, state: LseState, v: Array, axes: tuple[int, ...]) -> Array:
    """v - <s, v>, as h - <s, h> where h_j = v_j - v_k is exactly 0 at the dominant entry k, if there is one (M21).

    There 1 - s cancels, and so does v - <s, v>; of h every remaining term is small of itself. As the Jacobian takes
    the vector of ones to 0, centring changes no value. Which entry is the maximum is asked of x and m alone: so the
    sums of the transpose don't wait for r, and can share a pass with those for r.
    """
    near, confident = near_maximum(x, state.maximum), is_confident(state)
    centre, mean = _centre_and_mean(near & confident, probabilities(x, state), state, v, axes)
    return jnp.where(near, jnp.where(confident, 0, v), v - centre) - mean


def centred_jacobian_product(s: Array, state: LseState, v: Array, axes: tuple[int, ...]) -> Array:
    """J v = s (h - <s, h>) with the centred h (M6, M21)."""
    dominant = is_dominant_probability(s, state)
    centre, mean = _centre_and_mean(dominant, s, state, v, axes)
    return s * (jnp.where(dominant, 0, v - centre) - mean)


def _centre_and_mean(
    dominant: Array, s: Array, state: LseState, v: Array, axes: tuple[int, ...]
) -> tuple[Array, Array]:
    """v_k at the dominant entry, or 0, and <s, h> = Σ_{j != k} s_j v_j - v_k r / (1 + r).

    A sum over h itself would wait for v_k: that takes a pass more.
    """
    centre = jnp.sum(jnp.where(dominant, v, 0), axes, keepdims=True)
    others = _select_to_end_fusion(state, jnp.sum(jnp.where(dominant, 0, s * v), axes, keepdims=True))
    return centre, others - centre * (state.remainder / denominator(state))


def _select_to_end_fusion(state: LseState, row_sum: Array) -> Array:
    """A sum, by a select 0 in an empty row, where it is 0 anyway.

    On the CPU jaxlib 0.10.2 adds up wrong entries where a vmapped sum is fused with what isn't vmapped (jax#39103).
    """
    return jnp.where(is_empty(state), 0, row_sum)
