"""Per-token losses with integer labels, over logits whose last axis is the vocabulary (M11, M24, M25)."""

from functools import partial

import jax
import jax.numpy as jnp
from jax import Array

from jaxsoftmax import _lse_state, _rows, _token_loss
from jaxsoftmax._logsumexp import exponents
from jaxsoftmax._lse_state import LseState
from jaxsoftmax._shards import Shards
from jaxsoftmax._token_loss import IntegerLabelGradient, IntegerRow, LossOptions


def primal(
    options: LossOptions,
    logits: Array,
    labels: Array,
    class_weights: Array | None,
    where: Array | None,
    reused: bool = True,
) -> tuple[Array, IntegerRow]:
    """Losses [*batch], and the statistics of each row; `reused` as in `_lse_state.of_array`."""
    shards, columns = options.shards, logits.shape[-1]
    vocab, place = shards.vocab(columns), _place(shards, labels, columns)
    capped = _capped(options, exponents(logits, where), shards.first(columns))
    state = _lse_state.of_array(capped, (capped.ndim - 1,), reused)
    label_gap = _label_gap(options, logits, place, where, state)
    weighted_gap = _weighted_gap(capped, class_weights, state) if options.label_smoothing else None
    if shards.classes:
        owned = is_class(place, columns)[..., None]
        weight = _total_weight(class_weights, columns, state.maximum.dtype) if options.label_smoothing else None
        gaps = (jnp.where(owned, label_gap, 0), weighted_gap)
        state, (label_gap, weighted_gap) = shards.join(state, gaps, (owned.astype(label_gap.dtype), weight))
    row = _row(options, labels, class_weights, state, columns)
    losses = _token_loss.integer_label_loss(options, row, label_gap, weighted_gap, vocab)[..., 0]  # (M24)
    losses = jnp.where(is_class(labels, vocab), losses, jnp.nan)
    return jnp.where(is_ignored(options, labels), 0, losses), row


def gradient(
    options: LossOptions,
    logits: Array,
    labels: Array,
    class_weights: Array | None,
    where: Array | None,
    state: LseState,
    scale: Array | float = 1.0,
) -> Array:
    """`scale` [*batch] times the derivative of each row's loss in that row's logits, [*batch, vocab] (M25)."""
    row = _row(options, labels, class_weights, state, logits.shape[-1])
    rows = coefficients(options, logits, labels, where, row, scale)
    first = options.shards.first(logits.shape[-1])
    return entries(options, exponents(logits, where), labels, class_weights, state, rows, first)


def coefficients(
    options: LossOptions, logits: Array, labels: Array, where: Array | None, row: IntegerRow, scale: Array | float
) -> IntegerLabelGradient:
    """`scale` times what the gradient of each row is made of."""
    columns = logits.shape[-1]
    vocab, place = options.shards.vocab(columns), _place(options.shards, labels, columns)
    # Right on the shard that has the label, which alone makes use of it.
    label_exponential = _lse_state.exponentials(_label_logit(options, logits, place, where), row.state)
    valid = is_class(labels, vocab) if where is None else is_class(labels, vocab) | ~jnp.any(where, -1)
    # An ignored label is none of the classes, and a NaN would reach a second derivative even where its entries are 0.
    scale = jnp.where(valid | is_ignored(options, labels), scale, jnp.nan)[..., None]
    gradient = _token_loss.integer_label_gradient(options, row, label_exponential, vocab)
    return IntegerLabelGradient(*(scale * coefficient for coefficient in gradient))


def entries(
    options: LossOptions,
    x: Array,
    labels: Array,
    class_weights: Array | None,
    state: LseState,
    rows: IntegerLabelGradient,
    first: Array | int,
) -> Array:
    """The gradient's entries at the logits `x` of consecutive classes, of which the first is number `first`."""
    gradient = rows.share * _lse_state.exponentials(_capped(options, x, first), state)
    if options.label_smoothing:
        gradient -= rows.spread if class_weights is None else rows.spread * class_weights.astype(gradient.dtype)
    is_label = (labels - jnp.asarray(first, labels.dtype))[..., None] == jnp.arange(x.shape[-1], dtype=labels.dtype)
    gradient = jnp.where(is_label, rows.at_label, gradient)
    gradient *= _token_loss.softcap_slope(options, x)  # (M23)
    return gradient if options.ignore_index is None else jnp.where(is_ignored(options, labels)[..., None], 0, gradient)


def is_class(labels: Array, vocab: int) -> Array:
    """Whether a label is in [0, V)."""
    return (labels >= 0) & (labels < vocab)


def is_ignored(options: LossOptions, labels: Array) -> Array:
    """Whether a label is `ignore_index`."""
    return jnp.zeros(labels.shape, bool) if options.ignore_index is None else labels == options.ignore_index


def label_weights(
    options: LossOptions, labels: Array, class_weights: Array | None, columns: int, dtype: jnp.dtype
) -> Array:
    """w_y for each label in [0, V), anything for the others, which give NaN or are ignored."""
    if class_weights is None:
        return jnp.ones_like(labels, dtype=dtype)
    place = _place(options.shards, labels, columns)
    owned = is_class(place, columns)
    weights = class_weights.astype(dtype)[jnp.where(owned, place, 0)]
    return options.shards.sum(jnp.where(owned, weights, 0)) if options.shards.classes else weights


def _row(options: LossOptions, labels: Array, class_weights: Array | None, state: LseState, columns: int) -> IntegerRow:
    dtype = state.maximum.dtype
    label_weight = label_weights(options, labels, class_weights, columns, dtype)[..., None]
    if class_weights is None:
        return IntegerRow(state, label_weight, float(options.shards.vocab(columns)))
    return IntegerRow(state, label_weight, options.shards.sum(_total_weight(class_weights, columns, dtype)))


def _total_weight(class_weights: Array | None, columns: int, dtype: jnp.dtype) -> Array:
    """The sum of this shard's w_j."""
    return jnp.sum(class_weights.astype(dtype)) if class_weights is not None else jnp.asarray(columns, dtype)


def _place(shards: Shards, labels: Array, columns: int) -> Array:
    """Labels numbered from this shard's first class."""
    return labels - jnp.asarray(shards.first(columns), labels.dtype) if shards.classes else labels


def _capped(options: LossOptions, x: Array, first: Array | int) -> Array:
    """z, and -inf in a column that is no class."""
    capped, vocab = _token_loss.softcap(options, x), options.shards.unpadded
    if vocab is None:
        return capped
    numbers = jnp.asarray(first, jnp.int32) + jnp.arange(x.shape[-1], dtype=jnp.int32)
    return jnp.where(numbers < vocab, capped, -jnp.inf)


def _weighted_gap(capped: Array, class_weights: Array | None, state: LseState) -> Array:
    """sum_j w_j (m - z_j), without the classes of weight 0."""
    gaps = -_lse_state.gaps(capped, state)
    if class_weights is not None:
        gaps = jnp.where(class_weights == 0, 0, class_weights.astype(gaps.dtype) * gaps)
    return jnp.sum(gaps, -1, keepdims=True)


def _of_label(array: Array, labels: Array) -> Array:
    index = jnp.where(is_class(labels, array.shape[-1]), labels, 0)[..., None]
    return jnp.take_along_axis(array, index, -1, mode="promise_in_bounds")


def _label_logit(options: LossOptions, logits: Array, labels: Array, where: Array | None) -> Array:
    """z_y; -inf where the label is masked."""
    mask = None if where is None else _of_label(where, labels)
    return _token_loss.softcap(options, exponents(_of_label(logits, labels), mask))


def _label_gap(options: LossOptions, logits: Array, labels: Array, where: Array | None, state: LseState) -> Array:
    """m - z_y; a masked label still names its own logit, which may lie above m."""
    logit = _label_logit(options, logits, labels, None)
    gap = -_lse_state.gaps(logit, state)
    return gap if where is None else jnp.where(_of_label(where, labels), gap, -_lse_state.shifted(logit, state.maximum))


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def integer_label_losses(
    options: LossOptions, logits: Array, labels: Array, class_weights: Array | None, where: Array | None
) -> Array:
    """Losses [*batch] of logits [*batch, vocab], in reverse mode."""
    x, y, mask = _rows.merged(logits, labels, where)
    return primal(options, x, y, class_weights, mask, reused=False)[0].reshape(labels.shape)


def _fwd(options, logits, labels, class_weights, where):
    x, y, mask = _rows.merged(logits, labels, where)
    losses, row = primal(options, x, y, class_weights, mask)
    saved = logits, labels, class_weights, where, row.state  # the inputs, and (m, r) per row
    return losses.reshape(labels.shape), saved


def _bwd(options, residuals, losses_bar):
    logits, labels, class_weights, where, state = residuals
    x, y, mask, scale = _rows.merged(logits, labels, where, losses_bar)
    logits_bar = gradient(options, x, y, class_weights, mask, state, scale).astype(logits.dtype)  # (M25)
    return logits_bar.reshape(logits.shape), None, None, None  # labels are integers; class weights are constants


integer_label_losses.defvjp(_fwd, _bwd)
