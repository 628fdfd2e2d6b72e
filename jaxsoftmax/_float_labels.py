"""Losses of tokens with float labels, over logits whose last axis is the vocabulary (M11, M12, M26)."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jaxsoftmax._integer_labels import TokenParts
from jaxsoftmax._log_sums import masked_logits
from jaxsoftmax._math import token_loss
from jaxsoftmax._math.classes import weights_over
from jaxsoftmax._math.loss_options import LossOptions, loss_logits, loss_logits_slope
from jaxsoftmax._math.lse_state import LseState, shifted_logits
from jaxsoftmax._math.precision import accumulation_dtype
from jaxsoftmax._math.token_loss import TargetSums
from jaxsoftmax._predictions import predictions
from jaxsoftmax._reduction import schedules
from jaxsoftmax._reduction.row_state import lse_state
from jaxsoftmax._sharding import Shards


class TargetStats(NamedTuple):
    """What the gradient needs of each row besides the inputs, each [*batch, 1]."""

    state: LseState
    sums: TargetSums


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def float_label_losses(
    shards: Shards,
    with_parts: bool,
    options: LossOptions,
    logits: Array,
    labels: Array,
    class_weights: Array | None,
    where: Array | None,
) -> tuple[Array, TokenParts | None]:
    """Losses [*batch] of logits and labels [*batch, local_vocab], differentiable in reverse mode; and their parts."""
    losses, parts, _ = losses_parts_and_stats(shards, with_parts, options, logits, labels, class_weights, where)
    return losses, parts


def _fwd(shards, with_parts, options, logits, labels, class_weights, where):
    losses, parts, stats = losses_parts_and_stats(shards, with_parts, options, logits, labels, class_weights, where)
    # The arguments; four numbers a row.
    return (losses, parts), (options, logits, labels, class_weights, where, stats)


def _bwd(shards, _with_parts, residuals, bars):
    options, logits, labels, class_weights, where, stats = residuals
    losses_bar, _ = bars
    stats = stats._replace(state=schedules.for_recomputation(stats.state))

    def logits_bar(logits, labels, where, stats, scale):
        return (scale * logits_gradient(options, shards, logits, labels, class_weights, where, stats)).astype(
            logits.dtype
        )

    def labels_bar(logits, labels, where, stats, scale):
        bar = labels_gradient(options, logits, labels, class_weights, where, stats)
        return token_loss.weighted(scale, bar).astype(labels.dtype)

    tokens = logits, labels, where, stats, losses_bar[..., None]
    # Labels have a gradient; options and class weights are constants.
    return None, schedules.over_rows(logits_bar, *tokens), schedules.over_rows(labels_bar, *tokens), None, None


float_label_losses.defvjp(_fwd, _bwd)


def losses_parts_and_stats(
    shards: Shards,
    with_parts: bool,
    options: LossOptions,
    logits: Array,
    labels: Array,
    class_weights: Array | None,
    where: Array | None,
) -> tuple[Array, TokenParts | None, TargetStats]:
    """Losses [*batch], their parts if wanted (M33), and each row's statistics.

    The parts are Σ_j w_j p_j (L - z_j) and zeta L^2. A token is right if the class of its largest label is predicted.
    """
    z = loss_logits(options, _wide_logits(logits, labels, where))
    state, _ = shards.merge_lse(lse_state(z, (z.ndim - 1,)))  # (M22)

    def losses_and_sums(options: LossOptions) -> tuple[Array, TargetSums]:
        targets = _targets(options, shards, z, labels, class_weights, where)
        sums = shards.psum(schedules.target_sums(z, state, targets))
        return token_loss.float_label_loss(options, state, sums)[..., 0], sums  # (M26)

    losses, sums = losses_and_sums(options)
    stats = TargetStats(state, sums._replace(margin=None))
    if not with_parts:
        return losses, None, stats
    nll, _ = losses_and_sums(LossOptions())
    z_loss = token_loss.z_loss(options, state)[..., 0] if options.has_z_loss else jnp.zeros_like(nll)
    correct = predictions(shards, logits) == predictions(shards, labels)
    return losses, TokenParts(nll, z_loss, correct.astype(nll.dtype)), stats


def logits_gradient(
    options: LossOptions,
    shards: Shards,
    logits: Array,
    labels: Array,
    class_weights: Array | None,
    where: Array | None,
    stats: TargetStats,
) -> Array:
    """The derivative of each row's loss in that row's logits, [*batch, local_vocab] (M11, M26)."""
    x = _wide_logits(logits, labels, where)
    targets = _targets(options, shards, x, labels, class_weights, where)
    z = loss_logits(options, x)
    gradient = token_loss.float_label_gradient(options, stats.state, targets, stats.sums, z)
    return gradient * loss_logits_slope(options, x)  # (M23)


def labels_gradient(
    options: LossOptions,
    logits: Array,
    labels: Array,
    class_weights: Array | None,
    where: Array | None,
    stats: TargetStats,
) -> Array:
    """The derivative of each row's loss in that row's labels, [*batch, local_vocab] (M12)."""
    z = loss_logits(options, _wide_logits(logits, labels, where))
    nll = token_loss.negative_log_likelihood(stats.state, -shifted_logits(z, stats.state))
    weight = 1 - options.label_smoothing
    if class_weights is not None:
        weight = weight * weights_over(z, class_weights)
    gradient = token_loss.weighted(weight, nll)
    return gradient if where is None else jnp.where(where, gradient, 0)


def _wide_logits(logits: Array, labels: Array, where: Array | None) -> Array:
    x = masked_logits(logits, where)
    return x.astype(accumulation_dtype(x.dtype, labels.dtype))


def _targets(
    options: LossOptions, shards: Shards, x: Array, labels: Array, class_weights: Array | None, where: Array | None
) -> Array:
    weights = None if class_weights is None else weights_over(x, class_weights)
    vocab = shards.vocab(x.shape[-1])
    targets = token_loss.float_label_targets(options, labels.astype(x.dtype), weights, vocab)
    return targets if where is None else jnp.where(where, targets, 0)
