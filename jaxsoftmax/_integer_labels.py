"""Losses of tokens with integer labels, over logits whose last axis is the vocabulary (M11, M24, M25)."""

from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array

from jaxsoftmax._log_sums import masked_logits
from jaxsoftmax._math import token_loss
from jaxsoftmax._math.classes import class_numbers, weights_over
from jaxsoftmax._math.loss_options import LossOptions, loss_logits, loss_logits_slope
from jaxsoftmax._math.lse_state import LseState, exponentials, shifted_logits
from jaxsoftmax._math.precision import widen
from jaxsoftmax._math.token_loss import LabelGradient, RowStats
from jaxsoftmax._objective import Equations, Evaluation, Objective
from jaxsoftmax._predictions import predictions
from jaxsoftmax._reduction import schedules
from jaxsoftmax._reduction.row_state import lse_state, margins_at
from jaxsoftmax._sharding import NOT_SHARDED, Shards
from jaxsoftmax._token_labels import TokenLabels, nan_if_invalid


class LabelledTokens(NamedTuple):
    """Integer labels, and an optional mask of the logits that count."""

    labels: TokenLabels  # [*batch]
    where: Any = None  # which logits count, [*batch, local_vocab]; None for all


class TokenParts(NamedTuple):
    """What a token's loss is made of, and whether its label is the prediction; [*batch] each (M33)."""

    nll: Array  # w_y nll_y
    z_loss: Array  # zeta w_y L^2
    correct: Array  # 1 or 0


class LabelStats(NamedTuple):
    """What the gradient needs of each row, [*batch, 1] each."""

    state: LseState
    label_margin: Array  # m - z_y


class ShardStats(NamedTuple):
    """Statistics of rows over the classes of this shard, [*batch, 1] each."""

    state: LseState
    label_margin: Array  # m - z_y, where the label is among them
    weighted_margin: Array | None  # Σ_j w_j (m - z_j), where the labels are smoothed


def shard_stats(objective: Objective, shards: Shards, logits: Array, shared: bool = False) -> ShardStats:
    """What the logits of this shard's classes add to the rows."""
    options, (labels, where) = objective.options, objective.tokens
    z = capped(options, shards, masked_logits(logits, where), shards.class_offset(logits.shape[-1]))
    state = lse_state(z, (z.ndim - 1,), shared)
    label_margin = _label_margin(options, z, logits, labels, where, state)
    if not options.smooths:
        return ShardStats(state, label_margin, None)
    return ShardStats(
        state, label_margin, weighted_margin(z, objective.class_weights, schedules.for_recomputation(state))
    )


def losses_of_shards(objective: Objective, shards: Shards, own: ShardStats, local_vocab: int) -> tuple[Array, RowStats]:
    """Losses [*batch] and the statistics of whole rows, from those over each shard's classes."""
    options, (labels, _), class_weights = objective.options, objective.tokens, objective.class_weights
    state, label_margin, weighted_margin = own
    if shards.classes:
        dtype = state.maximum.dtype
        on_this_shard = is_on_this_shard(labels, local_vocab)[..., None]
        # Σ w_j over this shard's classes; padding has weight 0.
        weight = total_weight(NOT_SHARDED, class_weights, local_vocab, dtype) if options.smooths else None
        margins = (jnp.where(on_this_shard, label_margin, 0), weighted_margin)
        weights = (on_this_shard.astype(dtype), weight)
        state, (label_margin, weighted_margin) = shards.merge_lse(state, margins, weights)  # (M22)
    stats = _row_stats(objective, shards, LabelStats(state, label_margin), local_vocab)
    losses = token_loss.integer_label_loss(options, stats, weighted_margin, shards.vocab(local_vocab))  # (M24)
    return _nan_or_zero_by_label(labels, losses), stats


def _evaluate(objective: Objective, shards: Shards, logits: Array, shared: bool = False) -> Evaluation:
    own = shard_stats(objective, shards, logits, shared)
    losses, stats = losses_of_shards(objective, shards, own, logits.shape[-1])
    return Evaluation(losses, None, LabelStats(stats.state, stats.label_margin))


def _evaluate_with_parts(objective: Objective, shards: Shards, logits: Array, shared: bool = False) -> Evaluation:
    own = shard_stats(objective, shards, logits, shared)
    losses, stats = losses_of_shards(objective, shards, own, logits.shape[-1])
    parts = token_parts(objective, stats, _is_predicted(objective, shards, logits, stats))
    return Evaluation(losses, parts, LabelStats(stats.state, stats.label_margin))


def token_parts(objective: Objective, stats: RowStats, correct: Array) -> TokenParts:
    """The parts of each token's loss, and `correct` [*batch], 0 where the token is ignored."""
    labels = objective.tokens.labels
    nll = _nan_or_zero_by_label(labels, token_loss.label_nll(stats, stats.label_weight))  # (M33)
    z_loss = jnp.zeros_like(nll)
    if objective.options.has_z_loss:
        z_loss = _nan_or_zero_by_label(labels, token_loss.integer_label_z_loss(objective.options, stats))
    return TokenParts(nll, z_loss, (correct & ~labels.ignored & ~labels.invalid).astype(nll.dtype))


def _is_predicted(objective: Objective, shards: Shards, logits: Array, stats: RowStats) -> Array:
    """Whether the label is the prediction, [*batch]."""
    local = objective.tokens.labels.local
    if shards.classes:
        vocab = logits.shape[-1]
        here = predictions(shards, logits) == local + shards.class_offset(vocab)
        # The psum tells JAX's types that all shards agree.
        return shards.psum((here & is_on_this_shard(objective.tokens.labels, vocab)).astype(jnp.int32)) > 0
    return schedules.is_first_maximum(logits, local, stats.label_margin, stats.state)[..., 0]


def _nan_or_zero_by_label(labels: TokenLabels, of_rows: Array) -> Array:
    """Numbers [*batch] from those of rows, [*batch, 1]: NaN where the label is invalid, 0 where it is ignored."""
    return jnp.where(labels.ignored, 0, jnp.where(labels.invalid, jnp.nan, of_rows[..., 0]))


def _coefs(objective: Objective, shards: Shards, logits: Array, stats: LabelStats, losses_bar: Array) -> LabelGradient:
    options, (labels, where) = objective.options, objective.tokens
    label_logit = None if options.logit_softcap is None else _label_logit(logits, labels, where)
    return gradient_coefs(objective, shards, label_logit, stats, losses_bar, logits.shape[-1])


def gradient_coefs(
    objective: Objective,
    shards: Shards,
    label_logit: Array | None,
    stats: LabelStats,
    losses_bar: Array,
    local_vocab: int,
) -> LabelGradient:
    """The coefficients of each row's gradient; the label's logit x_y [*batch, 1] is wanted under a soft cap alone."""
    labels, where = objective.tokens
    margin = stats.label_margin
    if where is not None:  # before the exponential: that of a masked logit may be infinite
        margin = jnp.where(schedules.entry_at(where, labels.local), margin, jnp.inf)
    wrong = labels.invalid if where is None else labels.invalid & jnp.any(where, -1)
    scale = nan_if_invalid(wrong, losses_bar)[..., None]
    of_rows = _row_stats(objective, shards, stats, local_vocab)
    coefs = token_loss.integer_label_gradient(objective.options, of_rows, jnp.exp(-margin), shards.vocab(local_vocab))
    coefs = LabelGradient(*(scale * coef for coef in coefs))
    # Right on the shard that has the label, which alone makes use of it (M23).
    label_entry = coefs.label_entry * loss_logits_slope(objective.options, label_logit)
    return coefs._replace(label_entry=jnp.where(labels.ignored[..., None], 0, label_entry))


def _gradient_entries(
    objective: Objective,
    shards: Shards,
    logits: Array,
    stats: LabelStats,
    coefs: LabelGradient,
    offset: Array | int,
    first: Array | int = 0,
) -> Array:
    """The gradient of Σ_t losses_bar_t l_t in the logits (M25)."""
    options, (labels, where) = objective.options, objective.tokens
    x = masked_logits(logits, where)
    entries = coefs.prob_coef * exponentials(capped(options, shards, x, offset + first), stats.state)
    if options.smooths:
        weights = 1 if objective.class_weights is None else weights_over(x, objective.class_weights)
        entries -= coefs.smoothing_coef * weights
    entries *= loss_logits_slope(options, x)  # (M23)
    if options.ignore_index is not None:
        entries = jnp.where(labels.ignored[..., None], 0, entries)
    return schedules.with_entry_at(entries, labels.local - first, coefs.label_entry)


def _ignored(objective: Objective, outputs_bar: Any) -> Array | None:
    del outputs_bar
    return None if objective.options.ignore_index is None else objective.tokens.labels.ignored


def _of_ignored(objective: Objective, dtype: jnp.dtype) -> tuple[Array, None]:
    return jnp.zeros_like(objective.tokens.labels.standing, dtype=dtype), None


def _parts_of_ignored(objective: Objective, dtype: jnp.dtype) -> tuple[Array, TokenParts]:
    zero, _ = _of_ignored(objective, dtype)
    return zero, TokenParts(zero, zero, zero)


LOSSES = Equations(_evaluate, _coefs, _gradient_entries, _ignored, _of_ignored)
LOSSES_WITH_PARTS = LOSSES._replace(evaluate=_evaluate_with_parts, of_ignored=_parts_of_ignored)


def _row_stats(objective: Objective, shards: Shards, stats: LabelStats, local_vocab: int) -> RowStats:
    """The statistics of rows, with the weights of their labels."""
    dtype = stats.state.maximum.dtype
    label_weight = label_weights(shards, objective.tokens.labels, objective.class_weights, dtype)[..., None]
    total = total_weight(shards, objective.class_weights, local_vocab, dtype)
    return RowStats(stats.state, stats.label_margin, label_weight, total)


def is_on_this_shard(labels: TokenLabels, local_vocab: int) -> Array:
    """Whether a label is one of this shard's classes."""
    return (labels.local >= 0) & (labels.local < local_vocab)


def label_weights(shards: Shards, labels: TokenLabels, class_weights: Array | None, dtype: jnp.dtype) -> Array:
    """w_y for each label in [0, V), anything for the others, which give NaN or are ignored."""
    if class_weights is None:
        return jnp.ones_like(labels.standing, dtype=dtype)
    return weights_at(shards, labels.local[..., None], class_weights, dtype)[..., 0]


def weights_at(shards: Shards, local: Array, class_weights: Array, dtype: jnp.dtype) -> Array:
    """w_c of classes by their numbers on this shard, [*batch, k]."""
    rows = class_weights.astype(dtype).reshape(*(1 for _ in local.shape[:-1]), class_weights.shape[0])
    return shards.psum(schedules.entries_at(rows, local))


def total_weight(shards: Shards, class_weights: Array | None, local_vocab: int, dtype: jnp.dtype) -> Array:
    """Σ_j w_j over all classes."""
    if class_weights is None:
        return jnp.asarray(shards.vocab(local_vocab), dtype)
    return shards.psum(jnp.sum(class_weights.astype(dtype)))


def capped(options: LossOptions, shards: Shards, x: Array, first: Array | int) -> Array:
    """The loss's logits z, -inf in padding columns; `first` is x's first class in the vocabulary."""
    z = loss_logits(options, x)
    if shards.unpadded is None:
        return z
    return jnp.where(first + class_numbers(x) < shards.unpadded, z, -jnp.inf)


def weighted_margin(z: Array, class_weights: Array | None, state: LseState) -> Array:
    """Σ_j w_j (m - z_j), without the classes of weight 0."""
    margins = state.maximum - z
    if class_weights is not None:
        weights = weights_over(z, class_weights)
        margins = jnp.where(weights == 0, 0, weights * margins)
    return jnp.sum(margins, -1, keepdims=True)


def _label_logit(logits: Array, labels: TokenLabels, where: Array | None) -> Array:
    """x_y [*batch, 1]; -inf where the label is masked."""
    logit = widen(schedules.entry_at(logits, labels.local))
    return logit if where is None else jnp.where(schedules.entry_at(where, labels.local), logit, -jnp.inf)


def _label_margin(
    options: LossOptions, z: Array, logits: Array, labels: TokenLabels, where: Array | None, state: LseState
) -> Array:
    """m - z_y [*batch, 1]; a masked label still names its own logit, which may lie above m."""
    if where is None:
        return margins_at(options, z, logits, labels.local[..., None], state)
    logit = loss_logits(options, _label_logit(logits, labels, None))
    margin = -shifted_logits(logit, state)
    return jnp.where(schedules.entry_at(where, labels.local), margin, state.maximum - logit)
