"""One token's loss and its gradient from row statistics (M24-M26), and the reductions over tokens (M27).

Nothing here knows where the logits come from: the row statistics are the state (m, r), the label's logit, and at most
one weighted sum, so a head that never holds a whole row can use the same equations block by block.
"""

from dataclasses import dataclass
from typing import NamedTuple

import jax.numpy as jnp
from jax import Array, lax

from jaxsoftmax import _lse_state
from jaxsoftmax._lse_state import LseState
from jaxsoftmax._shards import NOT_SHARDED, Shards

REDUCTIONS = ("mean", "sum", "none")


@dataclass(frozen=True)
class LossOptions:
    """The static part of a loss; the defaults are the plain negative log-likelihood."""

    ignore_index: int | None = None
    label_smoothing: float = 0.0
    z_loss: float = 0.0
    logit_softcap: float | None = None
    shards: Shards = NOT_SHARDED


def softcap(options: LossOptions, logits: Array) -> Array:
    """z = c tanh(x / c), or x itself."""
    cap = options.logit_softcap
    return logits if cap is None else cap * jnp.tanh(logits / cap)


def softcap_slope(options: LossOptions, logits: Array) -> Array | float:
    """dz/dx = sech^2(x / c) = 4q / (1 + q)^2 with q = exp(-2|x| / c), which never cancels (M23)."""
    cap = options.logit_softcap
    if cap is None:
        return 1.0
    q = jnp.exp(-2 * jnp.abs(logits) / cap)
    return 4 * q / jnp.square(1 + q)


class IntegerRow(NamedTuple):
    """Statistics of rows with integer labels, each [*batch, 1]."""

    state: LseState
    label_weight: Array  # w_y
    total_weight: Array | float  # sum_j w_j


def negative_log_likelihood(state: LseState, gap: Array) -> Array:
    """(m - z) + log1p(r), two terms that are never negative (M19); +inf throughout an empty row."""
    return gap + _lse_state.log_denominator(state)


def _unless_zero(weight: Array | float, term: Array) -> Array:
    """Weight times term, and 0 where the weight is, even if the term is infinite."""
    return jnp.where(weight == 0, 0, weight * term)


def integer_label_loss(
    options: LossOptions, row: IntegerRow, label_gap: Array, weighted_gap: Array | None, vocab: int
) -> Array:
    """(1 - eps) w_y nll_y + (eps / V) sum_j w_j (L - z_j) + zeta w_y L^2 (M24).

    `label_gap` is m - z_y; `weighted_gap` is sum_j w_j (m - z_j), or None where the labels aren't smoothed.
    """
    smoothing = options.label_smoothing
    nll = negative_log_likelihood(row.state, label_gap)
    loss = _unless_zero((1 - smoothing) * row.label_weight, nll)
    if weighted_gap is not None:
        spread = weighted_gap + row.total_weight * _lse_state.log_denominator(row.state)
        loss += smoothing / vocab * spread
    if options.z_loss:
        loss += _unless_zero(options.z_loss * row.label_weight, jnp.square(_lse_state.log_sum_exp(row.state)))
    return loss


class IntegerLabelGradient(NamedTuple):
    """The gradient of rows, in coefficients [*batch, 1]: at_label at the label, share e_j - spread w_j elsewhere."""

    share: Array  # A / (1 + r)
    spread: Array  # eps / V
    at_label: Array  # B (s_y - 1) + (A - B) s_y - C_y


def integer_label_gradient(
    options: LossOptions, row: IntegerRow, label_exponential: Array, vocab: int
) -> IntegerLabelGradient:
    """B (s_j - [j = y]) + (A - B) s_j - C_j, where A - B cancels nothing and B meets s_y - 1 whole (M25)."""
    below = _lse_state.denominator(row.state)
    prob = label_exponential / below
    less_one = jnp.where(_lse_state.dominant(label_exponential, row.state), _dominant_less_one(row.state), prob - 1)
    by_label = (1 - options.label_smoothing) * row.label_weight  # B
    others = 2 * options.z_loss * row.label_weight * _finite_log_sum_exp(row.state) if options.z_loss else 0.0  # A - B
    spread = jnp.where(_lse_state.is_empty(row.state), 0.0, options.label_smoothing / vocab)
    others += spread * row.total_weight
    at_label = by_label * less_one + others * prob - spread * row.label_weight  # (M20)
    at_label = jnp.where(_lse_state.is_empty(row.state), 0, at_label)
    return IntegerLabelGradient((by_label + others) / below, spread, at_label)


def float_label_targets(options: LossOptions, labels: Array, class_weights: Array | None, vocab: int) -> Array:
    """t_j = w_j p'_j with p' = (1 - eps) p + eps / V (M26)."""
    smoothing = options.label_smoothing
    smoothed = (1 - smoothing) * labels + smoothing / max(vocab, 1) if smoothing else labels
    return smoothed if class_weights is None else class_weights * smoothed


def float_label_loss(options: LossOptions, state: LseState, targets: Array, logits: Array) -> Array:
    """sum_j t_j (L - z_j) + zeta L^2 (M26); a target 0 is left out, even of an infinite logit."""
    terms = _unless_zero(targets, negative_log_likelihood(state, -_lse_state.gaps(logits, state)))
    loss = options.shards.sum(jnp.sum(terms, -1, keepdims=True))
    if options.z_loss:
        loss += options.z_loss * jnp.square(_lse_state.log_sum_exp(state))
    return loss


class TargetTotals(NamedTuple):
    """Sums of a row's targets, each [*batch, 1]."""

    all: Array  # T = sum_j t_j
    others: Array  # T - t_k summed without the dominant entry k; T where there is none


def target_totals(options: LossOptions, state: LseState, targets: Array, logits: Array) -> TargetTotals:
    """T, and T without the dominant entry's target, which may absorb the others."""
    leads = _lse_state.dominant(_lse_state.exponentials(logits, state), state)
    total, others = (jnp.sum(t, -1, keepdims=True) for t in (targets, jnp.where(leads, 0, targets)))
    return options.shards.sum(TargetTotals(total, others))


def float_label_gradient(
    options: LossOptions, state: LseState, targets: Array, totals: TargetTotals, e: Array
) -> Array:
    """(T + 2 zeta L) s_j - t_j (M26), as t_k (s_k - 1) + s_k (T - t_k) at a dominant entry (M20)."""
    probs = e / _lse_state.denominator(state)
    centred = targets * _dominant_less_one(state) + probs * totals.others
    gradient = jnp.where(_lse_state.dominant(e, state), centred, totals.all * probs - targets)
    if options.z_loss:
        gradient += 2 * options.z_loss * _finite_log_sum_exp(state) * probs
    return jnp.where(_lse_state.is_empty(state), 0, gradient)


def _dominant_less_one(state: LseState) -> Array:
    """s_k - 1 = -r / (1 + r) for the dominant entry k (M20)."""
    return -state.remainder / _lse_state.denominator(state)


def _finite_log_sum_exp(state: LseState) -> Array:
    """L where it multiplies a probability: an empty row's probabilities are 0, and so is what they multiply."""
    return jnp.where(_lse_state.is_empty(state), 0, _lse_state.log_sum_exp(state))


def weighted(token_weights: Array, losses: Array) -> Array:
    """u_t l_t; an infinite loss of weight 0 adds nothing."""
    return token_weights * counted(token_weights, losses)


def counted(token_weights: Array, losses: Array) -> Array:
    """l_t, but 0 for an infinite loss of weight 0."""
    return jnp.where((token_weights == 0) & jnp.isinf(losses), 0, losses)


def mean_weights(options: LossOptions, token_weights: Array, normalizers: Array) -> Array:
    """v_t with mean = sum_t v_t l_t, which is u_t / sum_t u_t n_t, or 0 of nothing (M27)."""
    normalizer = options.shards.sum_of_tokens(jnp.sum(token_weights * normalizers))
    nothing = normalizer == 0
    return jnp.where(nothing, 0, token_weights / jnp.where(nothing, 1, normalizer))


def require_reduction(reduction: object) -> None:
    """ValueError unless it is one of those there are."""
    if reduction not in REDUCTIONS:
        raise ValueError(f"reduction: expected one of {REDUCTIONS}, got {reduction!r}")


def reduce(reduction: str, losses: Array, token_weights: Array | None, normalizers: Array) -> Array:
    """Per-token losses [*batch] reduced: mean = sum_t u_t l_t / sum_t u_t n_t (M27).

    `normalizers` is w_y for integer labels, 1 for float targets, and 0 where the token is ignored.
    """
    # Otherwise XLA CPU folds the sum into the row reduction, and runs both on one thread.
    losses = lax.optimization_barrier(losses)
    if token_weights is not None:
        token_weights = token_weights.astype(losses.dtype)  # once, as its gradient then is rounded once
        losses, normalizers = weighted(token_weights, losses), token_weights * normalizers
    if reduction == "none":
        return losses
    total = jnp.sum(losses)
    if reduction == "sum":
        return total
    normalizer = jnp.sum(normalizers)
    nothing = normalizer == 0
    return jnp.where(nothing, 0 * total, total / jnp.where(nothing, 1, normalizer))
