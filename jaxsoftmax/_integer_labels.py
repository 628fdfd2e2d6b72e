"""Losses of tokens with integer labels, over logits whose last axis is the vocabulary (M11, M24, M25)."""

from functools import partial
from typing import NamedTuple

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
from jaxsoftmax._reduction.row_state import lse_state, margin_at
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
    # The inputs, and per row (m, r) and m - z_y.
    return losses, (logits, labels, class_weights, where, stats.state, stats.label_margin)


def _bwd(options, shards, residuals, losses_bar):
    logits, labels, class_weights, where, state, label_margin = residuals
    stats = row_stats(shards, labels, class_weights, state, label_margin, logits.shape[-1])
    logits_bar = gradient(options, shards, logits, labels, class_weights, where, stats, losses_bar)  # (M25)
    return logits_bar.astype(logits.dtype), None, None, None  # labels are integers; class weights are constants


integer_label_losses.defvjp(_fwd, _bwd)


class ShardStats(NamedTuple):
    """Statistics of rows over the classes of this shard, [*batch, 1] each."""

    state: LseState
    label_margin: Array  # m - z_y, where the label is among them
    weighted_margin: Array | None  # Σ_j w_j (m - z_j), where the labels are smoothed


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
    own = shard_stats(options, shards, logits, labels, class_weights, where, shared)
    return losses_of_shards(options, shards, own, labels, class_weights, logits.shape[-1])


def shard_stats(
    options: LossOptions,
    shards: Shards,
    logits: Array,
    labels: TokenLabels,
    class_weights: Array | None,
    where: Array | None,
    shared: bool = False,
) -> ShardStats:
    """What the logits of this shard's classes add to the rows."""
    z = capped(options, shards, masked_logits(logits, where), shards.class_offset(logits.shape[-1]))
    state = lse_state(z, (z.ndim - 1,), shared)
    label_margin = _label_margin(options, z, logits, labels, where, state)
    if not options.label_smoothing:
        return ShardStats(state, label_margin, None)
    return ShardStats(state, label_margin, weighted_margin(z, class_weights, schedules.forgotten(state)))


def losses_of_shards(
    options: LossOptions,
    shards: Shards,
    own: ShardStats,
    labels: TokenLabels,
    class_weights: Array | None,
    local_vocab: int,
) -> tuple[Array, RowStats]:
    """Losses [*batch] and the statistics of whole rows, from those over each shard's classes."""
    state, label_margin, weighted_margin = own
    if shards.classes:
        dtype = state.maximum.dtype
        on_this_shard = is_on_this_shard(labels, local_vocab)[..., None]
        weight = _local_weight(class_weights, local_vocab, dtype) if options.label_smoothing else None
        margins = (jnp.where(on_this_shard, label_margin, 0), weighted_margin)
        weights = (on_this_shard.astype(dtype), weight)
        state, (label_margin, weighted_margin) = shards.merge_lse(state, margins, weights)  # (M22)
    stats = row_stats(shards, labels, class_weights, state, label_margin, local_vocab)
    vocab = shards.vocab(local_vocab)
    losses = token_loss.integer_label_loss(options, stats, weighted_margin, vocab)[..., 0]  # (M24)
    losses = jnp.where(labels.invalid, jnp.nan, losses)
    return jnp.where(labels.ignored, 0, losses), stats


def row_stats(
    shards: Shards,
    labels: TokenLabels,
    class_weights: Array | None,
    state: LseState,
    label_margin: Array,
    local_vocab: int,
) -> RowStats:
    """The statistics of rows with these labels, this state and m - z_y."""
    dtype = state.maximum.dtype
    label_weight = label_weights(shards, labels, class_weights, dtype)[..., None]
    return RowStats(state, label_margin, label_weight, total_weight(shards, class_weights, local_vocab, dtype))


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
    coefs = gradient_coefs_of(options, shards, logits, labels, where, stats, scale)
    offset = shards.class_offset(logits.shape[-1])

    def of_rows(logits, where, labels, state, coefs):
        x = masked_logits(logits, where)
        return gradient_entries(options, shards, x, labels, class_weights, state, coefs, offset)

    return schedules.over_rows(of_rows, logits, where, labels, stats.state, coefs)


def gradient_coefs_of(
    options: LossOptions,
    shards: Shards,
    logits: Array,
    labels: TokenLabels,
    where: Array | None,
    stats: RowStats,
    scale: Array,
) -> LabelGradient:
    """`scale` times the coefficients that the gradient of each row is made of."""
    label_logit = None if options.logit_softcap is None else _label_logit(logits, labels, where)
    return gradient_coefs(options, shards, label_logit, labels, where, stats, scale, logits.shape[-1])


def gradient_coefs(
    options: LossOptions,
    shards: Shards,
    label_logit: Array | None,
    labels: TokenLabels,
    where: Array | None,
    stats: RowStats,
    scale: Array,
    local_vocab: int,
) -> LabelGradient:
    """`gradient_coefs_of` from the label's logit x_y [*batch, 1], which is wanted under a soft cap alone."""
    margin = stats.label_margin
    if where is not None:  # before the exponential: that of a masked logit may be infinite
        margin = jnp.where(schedules.entry_at(where, labels.local), margin, jnp.inf)
    label_exp = jnp.exp(-margin)
    wrong = labels.invalid if where is None else labels.invalid & jnp.any(where, -1)
    scale = jnp.where(wrong, jnp.nan, scale)[..., None]
    coefs = token_loss.integer_label_gradient(options, stats, label_exp, shards.vocab(local_vocab))
    coefs = LabelGradient(*(scale * coef for coef in coefs))
    label_entry = coefs.label_entry
    if label_logit is not None:  # right on the shard that has the label, which alone makes use of it
        label_entry *= token_loss.softcap_slope(options, label_logit)  # (M23)
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
    entries = coefs.prob_coef * exponentials(capped(options, shards, x, offset + first), state)
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


def capped(options: LossOptions, shards: Shards, x: Array, first: Array | int) -> Array:
    """z, and -inf in a column that is no class; `first` is the number of x's first class."""
    z = token_loss.softcap(options, x)
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
        return margin_at(options, z, logits, labels.local, state)
    logit = token_loss.softcap(options, _label_logit(logits, labels, None))
    margin = -shifted_logits(logit, state)
    return jnp.where(schedules.entry_at(where, labels.local), margin, state.maximum - logit)
