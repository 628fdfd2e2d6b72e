"""Log-probability, entropy and log-sum-exp of a row, and their gradient, from the row's state (M28, M32, M33)."""

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array

from jaxsoftmax._math.lse_state import (
    LseState,
    denominator,
    exponentials,
    is_dominant_probability,
    is_empty,
    log_denominator,
)
from jaxsoftmax._math.softmax import exponential_margins


def mean_margin(state: LseState, margin_sum: Array) -> Array:
    """S = Σ_j s_j (m - z_j), from Σ_j e_j (m - z_j)."""
    return margin_sum / denominator(state)


def entropy(state: LseState, mean_margin: Array) -> Array:
    """H = log1p(r) + S, a sum of terms of which none is negative (M28)."""
    return log_denominator(state) + mean_margin  # (M28)


class StatsGradient(NamedTuple):
    """A row's gradient in z, (prob_coef + margin_coef (m - z_j)) e_j, except at the label; each [*batch, 1]."""

    prob_coef: Array
    margin_coef: Array | None  # None without a gradient of the entropy
    label_entry: Array


def stats_gradient(
    state: LseState,
    label_margin: Array,
    mean_margin: Array,
    log_prob_bar: Array,
    entropy_bar: Array | None,
    lse_bar: Array,
) -> StatsGradient:
    """The gradient of a log s_y + b H + c L: s_j (c - a + b ((m - z_j) - S)) + a [j = y] (M28).

    For dH/dz_j = -s_j (log s_j + H) = s_j ((m - z_j) - S). At the label a (1 - s_y) stands apart, and 1 - s_y is
    r / (1 + r) where the label dominates (M20).
    """
    label_prob = jnp.exp(-label_margin) / denominator(state)
    less_than_one = jnp.where(
        is_dominant_probability(label_prob, state), state.remainder / denominator(state), 1 - label_prob
    )
    label_entry = log_prob_bar * less_than_one + lse_bar * label_prob
    prob_coef, margin_coef = lse_bar - log_prob_bar, None
    if entropy_bar is not None:
        margin = jnp.where(label_prob == 0, 0, label_margin)
        label_entry += entropy_bar * (label_prob * (margin - mean_margin))  # (M28)
        prob_coef -= entropy_bar * mean_margin
        margin_coef = jnp.where(is_empty(state), 0, entropy_bar / denominator(state))
    prob_coef, label_entry = (jnp.where(is_empty(state), 0, coef) for coef in (prob_coef, label_entry))
    return StatsGradient(prob_coef / denominator(state), margin_coef, label_entry)


def stats_entries(coefs: StatsGradient, z: Array, state: LseState) -> Array:
    """The gradient's entries in consecutive z, but for that at the label."""
    entries = coefs.prob_coef * exponentials(z, state)
    return entries if coefs.margin_coef is None else entries + coefs.margin_coef * exponential_margins(z, state)
