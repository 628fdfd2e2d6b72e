"""Losses of tokens with a few weighted classes each, over logits whose last axis is the vocabulary (M11, M24, M31)."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Int

from jaxsoftmax import _checks
from jaxsoftmax._integer_labels import TokenParts, capped, total_weight, weighted_margin, weights_at
from jaxsoftmax._loss_arguments import require_no_ignore_index
from jaxsoftmax._math import sparse_loss, token_loss
from jaxsoftmax._math.classes import weights_over
from jaxsoftmax._math.loss_options import LossOptions, loss_logits_slope
from jaxsoftmax._math.lse_state import LseState, denominator, exponentials, is_dominant, is_empty
from jaxsoftmax._math.precision import widen
from jaxsoftmax._math.sparse_loss import SparseGradient
from jaxsoftmax._objective import Equations, Evaluation, Objective
from jaxsoftmax._predictions import predictions
from jaxsoftmax._reduction import schedules
from jaxsoftmax._reduction.row_state import lse_state, margins_at
from jaxsoftmax._sharding import NOT_SHARDED, Shards
from jaxsoftmax._tangents import inner
from jaxsoftmax._token_labels import local_classes, nan_if_invalid


class SparseLabels(NamedTuple):
    """Labels of a few weighted classes per token: top-k teachers, mixup, several right answers (M31).

    Token t has the target Σ_i weights[t, i] e_{indices[t, i]}: a class named twice counts twice. Weights may be any
    numbers, and have a gradient; of weight 0 a class adds nothing, even at a logit of -inf. An index outside of
    [0, vocab) makes its token NaN, whatever its weight. For a cache of log-probabilities pass their `exp` as weights.

    >>> import jax.numpy as jnp
    >>> from jaxsoftmax import cross_entropy
    >>> labels = SparseLabels(indices=jnp.array([[0, 2]]), weights=jnp.array([[0.75, 0.25]]))
    >>> print(cross_entropy(jnp.array([[1.0, 0.0, 0.0]]), labels))
    0.8014447
    """

    indices: Int[Array, "*batch k"]
    weights: Float[Array, "*batch k"]


def sparse_labels(
    options: LossOptions, labels: SparseLabels, batch: Sequence[int], vocab: int, of: str = "logits"
) -> SparseLabels:
    """The labels, if their dtypes and shapes are right."""
    require_no_ignore_index(options, "SparseLabels; a token is left out by token_weights")
    indices = _checks.as_integer("labels.indices", labels.indices)
    weights = _checks.as_inexact("labels.weights", labels.weights)
    if indices.shape[:-1] != tuple(batch) or indices.ndim == 0:
        raise ValueError(
            f"labels.indices: expected shape [*batch, k] with the {of}' batch {tuple(batch)}, got {indices.shape}"
        )
    if indices.shape[-1] == 0:
        raise ValueError(f"labels.indices: expected at least one class a token, got {indices.shape}")
    _checks.require_shape("labels.weights", weights, indices.shape, "[*batch, k] of the indices")
    if vocab == 0:
        raise ValueError("logits: expected at least one class, got vocab = 0")
    return SparseLabels(indices if indices.dtype.itemsize >= 4 else indices.astype(jnp.int32), weights)


class SparseTokens(NamedTuple):
    """The classes that `SparseLabels` name, counted from this shard's first class."""

    local: Array  # int32 [*batch, k], the number on this shard; outside of [0, local_vocab) if it is on another
    invalid: Array  # bool [*batch], whether one isn't in [0, V)


def sparse_tokens(shards: Shards, indices: Array, local_vocab: int) -> SparseTokens:
    """The `SparseTokens` of the labels' indices."""
    local, in_vocab = local_classes(shards, indices, local_vocab)
    return SparseTokens(local, jnp.any(~in_vocab, -1))


class SparseOutputs(NamedTuple):
    """The terms of each token's loss, before they are multiplied by the label weights."""

    nll: Any  # w_c (L - z_c) of each class c that is named, [*batch, k]
    regularizer: Any  # (eps / V) Σ_j w_j (L - z_j) + zeta L^2, [*batch]; None without smoothing and z-loss


class SparseParts(NamedTuple):
    """Per-token terms that `parts_of` turns into `TokenParts` (M33)."""

    nll: Array  # w_c (L - z_c), [*batch, k]
    z_loss: Array  # zeta L^2, [*batch]
    prediction: Array  # [*batch]


class _Stats(NamedTuple):
    """What the gradient needs of each row."""

    state: LseState  # [*batch, 1] twice
    margins: Array  # m - z_c, [*batch, k]


def term_weights(options: LossOptions, labels: SparseLabels, scale: Array) -> SparseOutputs:
    """The weights of the terms `SparseOutputs` in Σ_t scale_t l_t, which is linear in the terms."""
    smoothing = 1 - options.label_smoothing if options.smooths else 1
    regularizer = scale if options.smooths or options.has_z_loss else None
    return SparseOutputs(scale[..., None] * (smoothing * labels.weights.astype(scale.dtype)), regularizer)


def losses_of(weights: SparseOutputs, outputs: SparseOutputs) -> Array:
    """Losses [*batch] from their terms."""
    loss = jnp.sum(token_loss.weighted(weights.nll, outputs.nll), -1)  # (M31)
    return loss if outputs.regularizer is None else loss + token_loss.weighted(weights.regularizer, outputs.regularizer)


def parts_of(labels: SparseLabels, parts: SparseParts) -> TokenParts:
    """`TokenParts` of tokens: Σ_i w_i nll_i, the z-loss, and whether the class of the largest weight is predicted."""
    nll = parts.nll
    weights = jax.lax.stop_gradient(labels.weights.astype(nll.dtype))
    likeliest = jnp.take_along_axis(labels.indices, jnp.argmax(weights, -1)[..., None], -1)[..., 0]
    correct = (likeliest == parts.prediction.astype(likeliest.dtype)).astype(nll.dtype)
    return TokenParts(jnp.sum(token_loss.weighted(weights, nll), -1), parts.z_loss, correct)


def _evaluate(objective: Objective, shards: Shards, logits: Array, shared: bool = False) -> Evaluation:
    options, (local, invalid), class_weights = objective.options, objective.tokens, objective.class_weights
    vocab = logits.shape[-1]
    z = capped(options, shards, widen(logits), shards.class_offset(vocab))
    state = lse_state(z, (z.ndim - 1,), shared)
    margins, smoothed = margins_at(options, z, logits, local, state), None
    if options.smooths:
        smoothed = weighted_margin(z, class_weights, schedules.for_recomputation(state))
    if shards.classes:
        state, margins, smoothed = _of_whole_rows(objective, shards, state, margins, smoothed, vocab)
    nll = token_loss.negative_log_likelihood(state, margins)
    if class_weights is not None:
        nll = token_loss.weighted(weights_at(shards, objective.tokens.local, objective.class_weights, z.dtype), nll)
    total = total_weight(shards, class_weights, vocab, z.dtype)
    regularizer = sparse_loss.regularizer(options, state, smoothed, total, shards.vocab(vocab))
    outputs = SparseOutputs(
        jnp.where(invalid[..., None], jnp.nan, nll), None if regularizer is None else regularizer[..., 0]
    )
    return Evaluation(outputs, None, _Stats(state, margins))


def _of_whole_rows(
    objective: Objective, shards: Shards, state: LseState, margins: Array, smoothed: Array | None, local_vocab: int
) -> tuple[LseState, Array, Array | None]:
    """State, margins of labels and weighted margin of whole rows, from those over each shard's classes (M22)."""
    local, dtype = objective.tokens.local, margins.dtype
    here = (local >= 0) & (local < local_vocab)
    of_labels = tuple(jnp.where(here, margins, 0)[..., i : i + 1] for i in range(local.shape[-1]))
    weights = tuple(here.astype(dtype)[..., i : i + 1] for i in range(local.shape[-1]))
    weight = None if smoothed is None else total_weight(NOT_SHARDED, objective.class_weights, local_vocab, dtype)
    state, (of_labels, smoothed) = shards.merge_lse(state, (of_labels, smoothed), (weights, weight))
    return state, jnp.concatenate(of_labels, -1), smoothed


def _evaluate_with_parts(objective: Objective, shards: Shards, logits: Array, shared: bool = False) -> Evaluation:
    evaluation = _evaluate(objective, shards, logits, shared)
    z_loss = jnp.zeros(logits.shape[:-1], evaluation.outputs.nll.dtype)
    if objective.options.has_z_loss:
        z_loss = token_loss.z_loss(objective.options, evaluation.stats.state)[..., 0]
    return evaluation._replace(extras=SparseParts(evaluation.outputs.nll, z_loss, predictions(shards, logits)))


def _coefs(
    objective: Objective, shards: Shards, logits: Array, stats: _Stats, outputs_bar: SparseOutputs
) -> tuple[SparseGradient, Array]:
    """The coefficients of each row, and what is added to its gradient at each label, [*batch, k]."""
    options, (local, invalid), class_weights = objective.options, objective.tokens, objective.class_weights
    nll_bar, regularizer_bar = outputs_bar
    terms = jnp.zeros_like(stats.margins) if nll_bar is None else nll_bar
    terms = nan_if_invalid(invalid[..., None], terms)
    if class_weights is not None:
        terms = terms * weights_at(shards, objective.tokens.local, objective.class_weights, terms.dtype)
    total = total_weight(shards, class_weights, logits.shape[-1], terms.dtype)
    regularizer_bar = None if regularizer_bar is None else nan_if_invalid(invalid, regularizer_bar)[..., None]
    vocab = shards.vocab(logits.shape[-1])
    coefs, addends = sparse_loss.sparse_gradient(options, *stats, terms, regularizer_bar, total, vocab)
    label_logits = None if options.logit_softcap is None else widen(schedules.entries_at(logits, local))
    return coefs, addends * loss_logits_slope(options, label_logits)  # (M23)


def _gradient_entries(
    objective: Objective,
    shards: Shards,
    logits: Array,
    stats: _Stats,
    coefs: tuple[SparseGradient, Array],
    offset: Array | int,
    first: Array | int = 0,
) -> Array:
    """The gradient of Σ <outputs_bar, outputs> in the logits (M31)."""
    of_rows, addends = coefs
    x = widen(logits)
    z = capped(objective.options, shards, x, offset + first)
    weights = None if objective.class_weights is None else weights_over(x, objective.class_weights)
    entries = sparse_loss.sparse_entries(of_rows, z, stats.state, weights) * loss_logits_slope(objective.options, x)
    return schedules.with_added_at(entries, objective.tokens.local - first, addends)


def _tangents(objective: Objective, shards: Shards, logits: Array, stats: _Stats, logits_dot: Array) -> SparseOutputs:
    """The derivative of each term: of L - z_c it is Σ_j s_j h_j - h_c, where h is dz less that at a dominant entry."""
    options, local, offset = objective.options, objective.tokens.local, shards.class_offset(logits.shape[-1])
    x, state = widen(logits), stats.state
    z = capped(options, shards, x, offset)
    z_dot = logits_dot.astype(x.dtype) * loss_logits_slope(options, x)
    dominant = is_dominant(z, state)
    h = z_dot - shards.psum(jnp.sum(jnp.where(dominant, z_dot, 0), -1, keepdims=True))
    h = jnp.where(dominant, 0, h)
    mean = shards.psum(jnp.sum(exponentials(z, state) * h, -1, keepdims=True)) / denominator(state)
    nll_dot = jnp.where(is_empty(state), 0, mean - shards.psum(schedules.entries_at(h, local)))
    nll_dot *= jnp.where(objective.tokens.invalid[..., None], jnp.nan, 1)  # a product: its transpose is NaN too
    if objective.class_weights is not None:
        nll_dot = nll_dot * weights_at(shards, objective.tokens.local, objective.class_weights, x.dtype)
    if not (options.smooths or options.has_z_loss):
        return SparseOutputs(nll_dot, None)
    ones = SparseOutputs(None, jnp.ones(logits.shape[:-1], x.dtype))
    coefs = _coefs(objective, shards, logits, stats, ones)
    gradient = _gradient_entries(objective, shards, logits, stats, coefs, offset)
    return SparseOutputs(nll_dot, shards.psum(inner(gradient, logits_dot, -1)[..., 0]))


def _none_ignored(objective: Objective, outputs_bar: Any) -> None:
    """None: `SparseLabels` have no `ignore_index`."""
    del objective, outputs_bar


SPARSE_LOSSES = Equations(_evaluate, _coefs, _gradient_entries, _none_ignored, tangents=_tangents)
SPARSE_LOSSES_WITH_PARTS = SPARSE_LOSSES._replace(evaluate=_evaluate_with_parts)
