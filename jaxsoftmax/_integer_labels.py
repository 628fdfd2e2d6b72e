"""Losses of tokens with integer labels, over logits whose last axis is the vocabulary (M11, M24, M25)."""

from functools import partial

import jax
import jax.numpy as jnp
from jax import Array

from jaxsoftmax._logsumexp import masked_logits
from jaxsoftmax._math import token_loss
from jaxsoftmax._math.classes import class_numbers, weights_over
from jaxsoftmax._math.lse_state import LseState, exponentials, shifted_logits
from jaxsoftmax._math.precision import widen
from jaxsoftmax._math.token_loss import LabelGradient, LossOptions, RowStats
from jaxsoftmax._reduction import schedules
from jaxsoftmax._reduction.row_state import lse_state
from jaxsoftmax._sharding import NOT_SHARDED, Shards
from jaxsoftmax._token_labels import TokenLabels


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def integer_label_losses(
    options: LossOptions,
    shards: Shards,
    logits: Array,
    labels: TokenLabels,
    class_weights: Array | None,
    where: Array | None,
) -> Array:
    """Losses [*batch] of logits [*batch, local_vocab], differentiable in reverse mode."""
    return losses_and_stats(options, shards, logits, labels, class_weights, where)[0]


def _fwd(options, shards, logits, labels, class_weights, where):
    losses, stats = losses_and_stats(options, shards, logits, labels, class_weights, where, shared=True)
    return losses, (logits, labels, class_weights, where, stats.state)  # the inputs, and (m, r) per row


def _bwd(options, shards, residuals, losses_bar):
    logits, labels, class_weights, where, state = residuals
    stats = row_stats(shards, labels, class_weights, state, logits.shape[-1])
    logits_bar = gradient(options, shards, logits, labels, class_weights, where, stats, losses_bar)  # (M25)
    return logits_bar.astype(logits.dtype), None, None, None  # labels are integers; class weights are constants


integer_label_losses.defvjp(_fwd, _bwd)


def losses_and_stats(
    options: LossOptions,
    shards: Shards,
    logits: Array,
    labels: TokenLabels,
    class_weights: Array | None,
    where: Array | None,
    shared: bool = False,
) -> tuple[Array, RowStats]:
    """Losses [*batch], and the statistics of each row; `shared` as in `lse_state`."""
    local_vocab = logits.shape[-1]
    z = _capped(options, shards, masked_logits(logits, where), shards.class_offset(local_vocab))
    state = lse_state(z, (z.ndim - 1,), shared)
    label_margin = _label_margin(options, logits, labels, where, state)
    weighted_margin = (
        _weighted_margin(z, class_weights, schedules.forgotten(state)) if options.label_smoothing else None
    )
    if shards.classes:
        on_this_shard = is_on_this_shard(labels, local_vocab)[..., None]
        weight = _local_weight(class_weights, local_vocab, z.dtype) if options.label_smoothing else None
        margins = (jnp.where(on_this_shard, label_margin, 0), weighted_margin)
        weights = (on_this_shard.astype(z.dtype), weight)
        state, (label_margin, weighted_margin) = shards.merge_lse(state, margins, weights)  # (M22)
    stats = row_stats(shards, labels, class_weights, state, local_vocab)
    vocab = shards.vocab(local_vocab)
    losses = token_loss.integer_label_loss(options, stats, label_margin, weighted_margin, vocab)[..., 0]  # (M24)
    losses = jnp.where(labels.invalid, jnp.nan, losses)
    return jnp.where(labels.ignored, 0, losses), stats


def row_stats(
    shards: Shards, labels: TokenLabels, class_weights: Array | None, state: LseState, local_vocab: int
) -> RowStats:
    """The statistics of rows with these labels and this state."""
    dtype = state.maximum.dtype
    label_weight = label_weights(shards, labels, class_weights, dtype)[..., None]
    return RowStats(state, label_weight, total_weight(shards, class_weights, local_vocab, dtype))


def gradient(
    options: LossOptions,
    shards: Shards,
    logits: Array,
    labels: TokenLabels,
    class_weights: Array | None,
    where: Array | None,
    stats: RowStats,
    scale: Array,
) -> Array:
    """`scale` [*batch] times the derivative of each row's loss in that row's logits, [*batch, local_vocab] (M25)."""
    coefs = gradient_coefs(options, shards, logits, labels, where, stats, scale)
    offset = shards.class_offset(logits.shape[-1])

    def of_rows(logits, where, labels, state, coefs):
        x = masked_logits(logits, where)
        return gradient_entries(options, shards, x, labels, class_weights, state, coefs, offset)

    return schedules.over_rows(of_rows, logits, where, labels, stats.state, coefs)


def gradient_coefs(
    options: LossOptions,
    shards: Shards,
    logits: Array,
    labels: TokenLabels,
    where: Array | None,
    stats: RowStats,
    scale: Array,
) -> LabelGradient:
    """`scale` times the coefficients that the gradient of each row is made of."""
    # Right on the shard that has the label, which alone makes use of it.
    label_logit = _label_logit(logits, labels, where)
    label_exp = exponentials(token_loss.softcap(options, label_logit), stats.state)
    wrong = labels.invalid if where is None else labels.invalid & jnp.any(where, -1)
    scale = jnp.where(wrong, jnp.nan, scale)[..., None]
    coefs = token_loss.integer_label_gradient(options, stats, label_exp, shards.vocab(logits.shape[-1]))
    coefs = LabelGradient(*(scale * coef for coef in coefs))
    label_entry = coefs.label_entry * token_loss.softcap_slope(options, label_logit)  # (M23)
    return coefs._replace(label_entry=jnp.where(labels.ignored[..., None], 0, label_entry))


def gradient_entries(
    options: LossOptions,
    shards: Shards,
    x: Array,
    labels: TokenLabels,
    class_weights: Array | None,
    state: LseState,
    coefs: LabelGradient,
    offset: Array | int,
    first: Array | int = 0,
) -> Array:
    """The gradient's entries at the logits `x` of consecutive classes of this shard, of which `first` is the first.

    `offset` is the number of this shard's first class; `class_weights` are those of the classes of `x`.
    """
    entries = coefs.prob_coef * exponentials(_capped(options, shards, x, offset + first), state)
    if options.label_smoothing:
        weights = 1 if class_weights is None else weights_over(x, class_weights)
        entries -= coefs.smoothing_coef * weights
    entries *= token_loss.softcap_slope(options, x)  # (M23)
    if options.ignore_index is not None:
        entries = jnp.where(labels.ignored[..., None], 0, entries)
    return schedules.with_entry_at(entries, labels.local - first, coefs.label_entry)


def is_on_this_shard(labels: TokenLabels, local_vocab: int) -> Array:
    """Whether a label is one of this shard's classes."""
    return (labels.local >= 0) & (labels.local < local_vocab)


def label_weights(shards: Shards, labels: TokenLabels, class_weights: Array | None, dtype: jnp.dtype) -> Array:
    """w_y for each label in [0, V), anything for the others, which give NaN or are ignored."""
    if class_weights is None:
        return jnp.ones_like(labels.standing, dtype=dtype)
    rows = class_weights.astype(dtype).reshape(*(1 for _ in labels.local.shape), class_weights.shape[0])
    return shards.psum(schedules.entry_at(rows, labels.local)[..., 0])


def total_weight(shards: Shards, class_weights: Array | None, local_vocab: int, dtype: jnp.dtype) -> Array:
    """Σ_j w_j over all classes."""
    if class_weights is None:
        return jnp.asarray(shards.vocab(local_vocab), dtype)
    return shards.psum(jnp.sum(class_weights.astype(dtype)))


def _local_weight(class_weights: Array | None, local_vocab: int, dtype: jnp.dtype) -> Array:
    """The sum of this shard's w_j, those of padding among them if there are no class weights."""
    return total_weight(NOT_SHARDED, class_weights, local_vocab, dtype)


def _capped(options: LossOptions, shards: Shards, x: Array, first: Array | int) -> Array:
    """z, and -inf in a column that is no class; `first` is the number of x's first class."""
    z = token_loss.softcap(options, x)
    if shards.unpadded is None:
        return z
    return jnp.where(first + class_numbers(x) < shards.unpadded, z, -jnp.inf)


def _weighted_margin(z: Array, class_weights: Array | None, state: LseState) -> Array:
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
    options: LossOptions, logits: Array, labels: TokenLabels, where: Array | None, state: LseState
) -> Array:
    """m - z_y [*batch, 1]; a masked label still names its own logit, which may lie above m."""
    logit = token_loss.softcap(options, _label_logit(logits, labels, None))
    margin = -shifted_logits(logit, state)
    if where is None:
        return margin
    return jnp.where(schedules.entry_at(where, labels.local), margin, state.maximum - logit)
