"""Softmax and log-softmax from a row's state, and v - <s, v>, of which their derivatives are made (M4-M6, M10, M21)."""

import jax.numpy as jnp
from jax import Array

from jaxsoftmax._math.lse_state import (
    LseState,
    denominator,
    exponentials,
    is_confident,
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


def exponential_margins(x: Array, state: LseState) -> Array:
    """e_j (m - x_j), of which none is negative; 0 where e_j is 0, even at x_j = -inf (M28)."""
    e = exponentials(x, state)
    none = e == 0
    return jnp.where(none, 0, e * jnp.where(none, 0, -shifted_logits(x, state)))


def subtract_mean(s: Array, state: LseState, v: Array, axes: tuple[int, ...]) -> Array:
    """v - <s, v>; at a dominant entry of s the difference cancels, unless v is 0 there."""
    return v - _select_to_end_fusion(state, jnp.sum(s * v, axes, keepdims=True))


def jacobian_product(s: Array, state: LseState, v: Array, axes: tuple[int, ...]) -> Array:
    """J v = s (v - <s, v>) (M5, M6)."""
    return s * subtract_mean(s, state, v, axes)


def centred_subtract_mean(x: Array, state: LseState, v: Array, axes: tuple[int, ...]) -> Array:
    """v - <s, v> for v that is 0 at the dominant entry k of x; the transpose is right for any cotangent (M21).

    At k it equals -<s, v>, with <s, v> = Σ_{j != k} s_j v_j - v_k r / (1 + r). k is found from x and m alone, so the
    transpose's sums can share a pass with the sum for r.
    """
    near, confident = near_maximum(x, state.maximum), is_confident(state)
    dominant = near & confident
    centre = jnp.sum(jnp.where(dominant, v, 0), axes, keepdims=True)
    others = _select_to_end_fusion(
        state, jnp.sum(jnp.where(dominant, 0, probabilities(x, state) * v), axes, keepdims=True)
    )
    mean = others - centre * (state.remainder / denominator(state))
    return jnp.where(near, jnp.where(confident, 0, v), v - centre) - mean


def _select_to_end_fusion(state: LseState, row_sum: Array) -> Array:
    """A sum, by a select 0 in an empty row, where it is 0 anyway.

    On the CPU jaxlib 0.10.2 adds up wrong entries where a vmapped sum is fused with what isn't vmapped (jax#39103).
    """
    return jnp.where(is_empty(state), 0, row_sum)
