"""One token's loss with a few weighted classes, and its gradient, from the statistics of its row (M11, M24, M31)."""

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array

from jaxsoftmax._math.loss_options import LossOptions
from jaxsoftmax._math.lse_state import (
    LseState,
    denominator,
    exponentials,
    is_confident,
    is_dominant,
    is_empty,
    log_denominator,
)
from jaxsoftmax._math.token_loss import dominant_less_one, finite_log_sum_exp, weighted, z_loss


def regularizer(
    options: LossOptions, state: LseState, weighted_margin: Array | None, total_weight: Array, vocab: int
) -> Array | None:
    """Smoothing and z-loss: (eps / V) Σ_j w_j (L - z_j) + zeta L^2, [*batch, 1]; None without either (M26).

    `weighted_margin` is Σ_j w_j (m - z_j), or None where the labels aren't smoothed; `total_weight` is Σ_j w_j.
    """
    of_lse = z_loss(options, state) if options.has_z_loss else None
    if weighted_margin is None:
        return of_lse
    margin = weighted_margin + total_weight * log_denominator(state)
    smoothed = weighted(options.label_smoothing / vocab, margin)
    return smoothed if of_lse is None else smoothed + of_lse


class SparseGradient(NamedTuple):
    """A row's gradient in z, but for what stands at labels that don't dominate; each [*batch, 1].

    At a dominant entry k it is dominant_coef e_k + dominant_entry - smoothing_coef w_k, and prob_coef e_j -
    smoothing_coef w_j at others.
    """

    prob_coef: Array
    dominant_coef: Array
    dominant_entry: Array
    smoothing_coef: Array


def dominates(state: LseState, margins: Array) -> Array:
    """Which of the entries with margins m - z_c [*batch, k] are the dominant one of their row."""
    return (margins == 0) & is_confident(state)


def sparse_gradient(
    options: LossOptions,
    state: LseState,
    margins: Array,
    terms: Array,
    regularizer_bar: Array | None,
    total_weight: Array,
    vocab: int,
) -> tuple[SparseGradient, Array]:
    """The coefficients of Σ_i t_i (L - z_{c_i}) + rho R, R the `regularizer`, and what is added at c_i.

    With A = Σ_i t_i + rho ((eps / V) Σ_j w_j + 2 zeta L) and rho = `regularizer_bar` the gradient is
    A s_j - Σ_i t_i [c_i = j] - C w_j. At a dominant entry k, which terms t_k name, it is
    (A - t_k) s_k + t_k (s_k - 1) - C w_k, with s_k - 1 = -r / (1 + r) and A - t_k summed without t_k (M20, M31).
    `terms` and `margins` are [*batch, k].
    """
    at_dominant = dominates(state, margins)
    dominant_term, total = (
        jnp.sum(part, -1, keepdims=True)
        for part in (jnp.where(at_dominant, terms, 0), jnp.where(at_dominant, 0, terms))
    )
    smoothing = jnp.zeros_like(total)
    if regularizer_bar is not None and options.smooths:
        smoothing = regularizer_bar * (options.label_smoothing / vocab)
        total += smoothing * total_weight
    if regularizer_bar is not None and options.has_z_loss:
        total += regularizer_bar * (2 * options.z_loss * finite_log_sum_exp(state))
    below = denominator(state)
    coefs = (dominant_term + total) / below, total / below, dominant_term * dominant_less_one(state), smoothing  # (M31)
    empty = is_empty(state)
    gradient = SparseGradient(*(jnp.where(empty, 0, coef) for coef in coefs))
    return gradient, jnp.where(at_dominant | empty, 0, -terms)


def sparse_entries(coefs: SparseGradient, z: Array, state: LseState, class_weights: Array | None) -> Array:
    """The gradient's entries in consecutive z, but for what is added at labels that don't dominate."""
    dominant = is_dominant(z, state)
    entries = jnp.where(dominant, coefs.dominant_coef, coefs.prob_coef) * exponentials(z, state)
    entries += jnp.where(dominant, coefs.dominant_entry, 0)
    return entries - coefs.smoothing_coef * (1 if class_weights is None else class_weights)
