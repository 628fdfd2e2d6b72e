"""Per-token losses with float labels, over logits whose last axis is the vocabulary (M11, M12, M26)."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jaxsoftmax import _lse_state, _rows, _token_loss
from jaxsoftmax._logsumexp import exponents
from jaxsoftmax._lse_state import LseState
from jaxsoftmax._token_loss import LossOptions, TargetTotals


class Statistics(NamedTuple):
    """What the gradient needs of each row besides the inputs."""

    state: LseState
    totals: TargetTotals


def primal(
    options: LossOptions, logits: Array, labels: Array, class_weights: Array | None, where: Array | None
) -> tuple[Array, Statistics]:
    """Losses [*batch], and each row's statistics."""
    capped = _token_loss.softcap(options, _exponents(logits, labels, where))
    targets = _targets(options, capped, labels, class_weights, where)
    state, _ = options.shards.join(_lse_state.of_array(capped, (capped.ndim - 1,), True))  # (M22)
    losses = _token_loss.float_label_loss(options, state, targets, capped)[..., 0]  # (M26)
    return losses, Statistics(state, _token_loss.target_totals(options, state, targets, capped))


def gradients(
    options: LossOptions,
    logits: Array,
    labels: Array,
    class_weights: Array | None,
    where: Array | None,
    statistics: Statistics,
) -> tuple[Array, Array]:
    """The derivatives of each row's loss in its logits (M11, M26) and in its labels (M12), both [*batch, vocab]."""
    state, totals = statistics
    x = _exponents(logits, labels, where)
    capped = _token_loss.softcap(options, x)
    targets = _targets(options, x, labels, class_weights, where)
    e = _lse_state.exponentials(capped, state)
    by_logits = _token_loss.float_label_gradient(options, state, targets, totals, e)
    by_logits *= _token_loss.softcap_slope(options, x)  # (M23)
    nll = _token_loss.negative_log_likelihood(state, -_lse_state.gaps(capped, state))
    by_labels = (1 - options.label_smoothing) * nll  # (M12)
    if class_weights is not None:
        by_labels *= class_weights.astype(e.dtype)
    return by_logits, by_labels if where is None else jnp.where(where, by_labels, 0)


def _exponents(logits: Array, labels: Array, where: Array | None) -> Array:
    x = exponents(logits, where)
    return x.astype(_lse_state.accumulation_dtype(x.dtype, labels.dtype))


def _targets(options: LossOptions, x: Array, labels: Array, class_weights: Array | None, where: Array | None) -> Array:
    weights = None if class_weights is None else class_weights.astype(x.dtype)
    targets = _token_loss.float_label_targets(
        options, labels.astype(x.dtype), weights, options.shards.vocab(x.shape[-1])
    )
    return targets if where is None else jnp.where(where, targets, 0)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def float_label_losses(
    options: LossOptions, logits: Array, labels: Array, class_weights: Array | None, where: Array | None
) -> Array:
    """Losses [*batch] of logits and labels [*batch, vocab], in reverse mode."""
    x, t, mask = _rows.merged(logits, labels, where)
    return primal(options, x, t, class_weights, mask)[0].reshape(logits.shape[:-1])


def _fwd(options, logits, labels, class_weights, where):
    x, t, mask = _rows.merged(logits, labels, where)
    losses, statistics = primal(options, x, t, class_weights, mask)
    saved = logits, labels, class_weights, where, statistics  # the inputs; four numbers per row
    return losses.reshape(logits.shape[:-1]), saved


def _bwd(options, residuals, losses_bar):
    logits, labels, class_weights, where, statistics = residuals
    x, t, mask, cotangent = _rows.merged(logits, labels, where, losses_bar[..., None])
    by_logits, by_labels = gradients(options, x, t, class_weights, mask, statistics)
    labels_bar = jnp.where(cotangent == 0, 0, cotangent * by_labels)  # nothing flows, even by an infinite loss
    logits_bar = (cotangent * by_logits).astype(logits.dtype).reshape(logits.shape)
    return logits_bar, labels_bar.astype(labels.dtype).reshape(labels.shape), None, None  # weights: constants


float_label_losses.defvjp(_fwd, _bwd)
