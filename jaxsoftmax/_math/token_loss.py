"""One token's loss and its gradient from the statistics of its row (M24-M26), and the reductions over tokens (M27).

Nothing here knows where the logits come from. The input is the row's state (m, r), the margin m - z_y or sums over the
targets, and class weights, so a head that never holds a whole row can use the same equations block by block.
"""

from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array

from jaxsoftmax._math.loss_options import LossOptions
from jaxsoftmax._math.lse_state import (
    LseState,
    denominator,
    exponentials,
    is_dominant,
    is_dominant_probability,
    is_empty,
    log_denominator,
    log_sum_exp,
)

REDUCTIONS = ("mean", "sum", "none")


class RowStats(NamedTuple):
    """Statistics of rows with integer labels."""

    state: LseState  # [*batch, 1] twice
    label_margin: Array  # m - z_y, [*batch, 1]
    label_weight: Array  # w_y, [*batch, 1]
    total_weight: Array  # Σ_j w_j, a scalar


def negative_log_likelihood(state: LseState, margin: Array) -> Array:
    """(m - z) + log1p(r), two terms of which neither is negative, unless z is masked (M19).

    +inf in an empty row, and where a logit other than z is +inf; NaN where z is.
    """
    return jnp.where(state.maximum == jnp.inf, margin, margin + log_denominator(state))


def integer_label_loss(options: LossOptions, stats: RowStats, weighted_margin: Array | None, vocab: int) -> Array:
    """(1 - eps) w_y nll_y + (eps / V) Σ_j w_j (L - z_j) + zeta w_y L^2 (M24).

    `weighted_margin` is Σ_j w_j (m - z_j), or None where the labels aren't smoothed.
    """
    smoothing = options.label_smoothing
    loss = label_nll(stats, (1 - smoothing) * stats.label_weight)
    if weighted_margin is not None:
        loss += weighted(smoothing / vocab, weighted_margin + stats.total_weight * log_denominator(stats.state))
    return loss + integer_label_z_loss(options, stats) if options.has_z_loss else loss


def label_nll(stats: RowStats, weight: Array) -> Array:
    """`weight` times the label's negative log-likelihood.

    A label at -inf with weight 0 adds nothing. A row with +inf gives NaN under weight 0, as its gradient is. A row with
    NaN gives NaN, even where XLA's maximum over devices drops the NaN.
    """
    nll = negative_log_likelihood(stats.state, stats.label_margin)
    drops_out = (weight == 0) & (nll == jnp.inf) & (stats.state.maximum < jnp.inf)
    return jnp.where(drops_out, 0, weight * nll)


def integer_label_z_loss(options: LossOptions, stats: RowStats) -> Array:
    """zeta w_y L^2 (M24)."""
    return weighted(options.z_loss * stats.label_weight, jnp.square(log_sum_exp(stats.state)))


def z_loss(options: LossOptions, state: LseState) -> Array:
    """zeta L^2, [*batch, 1], of labels that are weights (M26)."""
    return weighted(options.z_loss, jnp.square(log_sum_exp(state)))


class LabelGradient(NamedTuple):
    """A row's gradient in z, prob_coef e_j - smoothing_coef w_j, except at the label; each [*batch, 1]."""

    prob_coef: Array  # A / (1 + r)
    smoothing_coef: Array  # eps / V, so that C_j = smoothing_coef w_j
    label_entry: Array  # the gradient at the label, B (s_y - 1) + (A - B) s_y - C_y


def integer_label_gradient(options: LossOptions, stats: RowStats, label_exp: Array, vocab: int) -> LabelGradient:
    """A s_j - B [j = y] - C_j, as B (s_j - [j = y]) + (A - B) s_j - C_j (M25).

    With eps = label_smoothing and zeta = z_loss: B = (1 - eps) w_y, C_j = eps w_j / V and
    A = B + (eps / V) Σ_j w_j + 2 zeta w_y L. Neither A - B nor s_y - 1 is formed by subtraction (M20). `label_exp` is
    exp(z_y - m).
    """
    state, _, label_weight, total_weight = stats
    label_prob = label_exp / denominator(state)
    leads = is_dominant_probability(label_prob, state)
    label_prob_less_one = jnp.where(leads, dominant_less_one(state), label_prob - 1)
    smoothing_coef = jnp.where(is_empty(state), 0.0, options.label_smoothing / vocab)
    b = (1 - options.label_smoothing) * label_weight
    a_less_b = 2 * options.z_loss * label_weight * finite_log_sum_exp(state) if options.has_z_loss else 0.0
    if options.smooths:
        a_less_b += smoothing_coef * total_weight
    label_entry = b * label_prob_less_one + a_less_b * label_prob - smoothing_coef * label_weight
    label_entry = jnp.where(is_empty(state), 0, label_entry)
    return LabelGradient((b + a_less_b) / denominator(state), smoothing_coef, label_entry)


def float_label_targets(options: LossOptions, labels: Array, class_weights: Array | None, vocab: int) -> Array:
    """t_j = w_j p'_j with p' = (1 - eps) p + eps / V (M26)."""
    smoothing = options.label_smoothing
    smoothed = (1 - smoothing) * labels + smoothing / max(vocab, 1) if options.smooths else labels
    return smoothed if class_weights is None else class_weights * smoothed


class TargetSums(NamedTuple):
    """Sums over a row with float labels, each [*batch, 1]."""

    margin: Any  # Σ_j t_j (m - z_j); None for the gradient, which has no use for it
    all: Array  # T = Σ_j t_j
    others: Array  # T - t_k summed without the dominant entry k; T where there is none


def float_label_loss(options: LossOptions, state: LseState, sums: TargetSums) -> Array:
    """Σ_j t_j (m - z_j) + T log1p(r) + zeta L^2 (M26)."""
    loss = sums.margin + sums.all * log_denominator(state)
    return loss + z_loss(options, state) if options.has_z_loss else loss


def target_margins(targets: Array, margins: Array) -> Array:
    """t_j (m - z_j); a target 0 is left out, even of an infinite logit."""
    return jnp.where(targets == 0, 0, targets * margins)


def float_label_gradient(
    options: LossOptions, state: LseState, targets: Array, sums: TargetSums, logits: Array
) -> Array:
    """(T + 2 zeta L) s_j - t_j (M26), as t_k (s_k - 1) + s_k (T - t_k) at a dominant entry (M20)."""
    probs = exponentials(logits, state) / denominator(state)
    centred = targets * dominant_less_one(state) + probs * sums.others
    gradient = jnp.where(is_dominant(logits, state), centred, sums.all * probs - targets)
    if options.has_z_loss:
        gradient += 2 * options.z_loss * finite_log_sum_exp(state) * probs
    return jnp.where(is_empty(state), 0, gradient)


def dominant_less_one(state: LseState) -> Array:
    """s_k - 1 = -r / (1 + r) for the dominant entry k (M20)."""
    return -state.remainder / denominator(state)


def finite_log_sum_exp(state: LseState) -> Array:
    """L; 0 in an empty row, where -inf times a probability of 0 would be NaN."""
    return jnp.where(is_empty(state), 0, log_sum_exp(state))


def weighted(weights: Array | float, losses: Array) -> Array:
    """u_t l_t; an infinite loss of weight 0 adds nothing."""
    return weights * drop_infinite_if_unweighted(weights, losses)


def drop_infinite_if_unweighted(weights: Array | float, losses: Array) -> Array:
    """l_t, but 0 for an infinite loss of weight 0."""
    return jnp.where((weights == 0) & jnp.isinf(losses), 0, losses)


def mean_weights(token_weights: Array, normalizer: Array) -> Array:
    """v_t with mean = Σ_t v_t l_t: u_t / Σ_t u_t n_t, or 0 for an empty sum (M27); `normalizer` is that sum."""
    nothing = normalizer == 0
    return jnp.where(nothing, 0, token_weights / jnp.where(nothing, 1, normalizer))


def mean(total: Array, normalizer: Array) -> Array:
    """Σ_t u_t l_t / Σ_t u_t n_t (M27), from the two sums; 0 for an empty sum, NaN if the total is NaN."""
    nothing = normalizer == 0
    return jnp.where(nothing & ~jnp.isnan(total), 0, total / jnp.where(nothing, 1, normalizer))
