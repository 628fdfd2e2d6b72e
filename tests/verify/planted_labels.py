"""Wrong losses of sparse labels, and wrong parts of losses."""

import jax
import jax.numpy as jnp

from jaxsoftmax import SparseLabels
from tests.verify.planted import LOSS, Planted, by_call, last_of_maximum, with_slope

HEAD = "linear_cross_entropy"


def _relabelled(change):
    """A loss of other sparse labels: change(labels, number of classes)."""

    def function(right, x, *args, **keywords):
        *kernel, labels = args
        if isinstance(labels, SparseLabels):
            labels = change(labels, (kernel[0] if kernel else x).shape[-1])
        return right(x, *kernel, labels, **keywords)

    return by_call(function)


def _once(labels, vocab):
    """A class named twice has the weight that it is first named with."""
    indices, weights = labels
    k = jnp.arange(indices.shape[-1])
    earlier = (indices[..., :, None] == indices[..., None, :]) & (k[None, :] < k[:, None])
    return SparseLabels(indices, jnp.where(jnp.any(earlier, -1), 0, weights))


def _normalised(labels, vocab):
    indices, weights = labels
    return SparseLabels(indices, weights / jnp.sum(weights, -1, keepdims=True))


def _wrapped(labels, vocab):
    return SparseLabels(labels.indices % vocab, labels.weights)


def _constant_weights(labels, vocab):
    return SparseLabels(labels.indices, jax.lax.stop_gradient(labels.weights))


def _cancelling_gradient(right, logits, labels, reduction="mean", **keywords):
    """s sum w - t, of the plain loss of each token."""
    if keywords or reduction != "none" or not isinstance(labels, SparseLabels):
        return right(logits, labels, reduction=reduction, **keywords)
    value = right(logits, labels, reduction="none")
    t = jnp.sum(jax.nn.one_hot(labels.indices, logits.shape[-1]) * labels.weights[..., None], -2)
    slope = jax.nn.softmax(logits) * jnp.sum(labels.weights, -1, keepdims=True) - t
    by_logits = with_slope(jnp.zeros_like(value), logits, slope)
    return right(jax.lax.stop_gradient(logits), labels, reduction="none") + by_logits


def _parts(change):
    """Parts changed by change(parts, loss, logits, labels, keywords)."""

    def function(right, logits, labels, has_aux=False, **keywords):
        result = right(logits, labels, has_aux=has_aux, **keywords)
        return (result[0], change(result[1], result[0], logits, labels, keywords)) if has_aux else result

    return by_call(function)


def _smoothed(parts, loss, *_):
    return parts._replace(nll=jax.lax.stop_gradient(loss) - parts.z_loss)


def _correct(predicts, counts):
    """Right predictions recounted, of the tokens that counts(labels, ignore_index)."""

    def change(parts, loss, logits, labels, keywords):
        right = (predicts(logits) == labels) & counts(labels, keywords["ignore_index"])
        correct = jnp.where(right, keywords["token_weights"], 0).astype(parts.correct.dtype)
        return parts._replace(correct=correct if keywords["reduction"] == "none" else jnp.sum(correct))

    return change


def _first(logits):
    return jnp.argmax(logits, -1)


def _all(labels, ignore_index):
    return jnp.ones(labels.shape, bool)


def _not_ignored(labels, ignore_index):
    return labels != ignore_index


def _unweighted(parts, loss, logits, labels, keywords):
    """Class weights left out of the divisor."""
    u = jnp.where(labels == keywords["ignore_index"], 0, keywords["token_weights"])
    return parts._replace(weight=u if keywords["reduction"] == "none" else jnp.sum(u))


def _flowing(parts, loss, *_):
    """The loss's gradient flows through a part too."""
    return parts._replace(nll=parts.nll + (loss - jax.lax.stop_gradient(loss)))


def _head_counts_ignored(right, hidden, kernel, labels, *, bias=0, has_aux=False, **keywords):
    result = right(hidden, kernel, labels, bias=_as_bias(bias, kernel), has_aux=has_aux, **keywords)
    recounted = _correct(_first, _all)
    return (result[0], recounted(result[1], None, hidden @ kernel + bias, labels, keywords)) if has_aux else result


def _as_bias(bias, kernel):
    return jnp.broadcast_to(jnp.asarray(bias, kernel.dtype), kernel.shape[1:])


LABELS = (
    Planted("a class named twice counted once", LOSS, _relabelled(_once), ("M31",), ("M33",)),
    Planted("weights made to sum to 1", LOSS, _relabelled(_normalised), ("M31",), ("M33",)),
    Planted("a label of several wrapped", LOSS, _relabelled(_wrapped), ("M31",), ("M33",),
            failing_only={"regime": {"labels -1, V and -V"}}),
    Planted("weights without a gradient", LOSS, _relabelled(_constant_weights), ("M31",), ("M33",),
            failing_only={"quantity": {"gradient in the weights"}}),
    Planted("s sum w - t cancels", LOSS, by_call(_cancelling_gradient), ("M31",), ("M33",)),
    Planted("a class named twice counted once", HEAD, _relabelled(_once), ("M31",), ("M33",)),
    Planted("weights without a gradient", HEAD, _relabelled(_constant_weights), ("M31",), ("M33",)),
)  # fmt: skip

PARTS = (
    Planted("the likelihood with its smoothing", LOSS, _parts(_smoothed), ("M33",), ("M14",)),
    Planted("right predictions of ignored tokens counted", LOSS, _parts(_correct(_first, _all)), ("M33",), ("M14",)),
    Planted("the last class of the maximum is right", LOSS, _parts(_correct(last_of_maximum, _not_ignored)), ("M33",),
            ("M14",)),
    Planted("class weights left out of the weight", LOSS, _parts(_unweighted), ("M33",), ("M14",)),
    Planted("a gradient through parts", LOSS, _parts(_flowing), ("M33",), ("M14",),
            failing_only={"quantity": {"gradient of the parts"}}),
    Planted("right predictions of ignored tokens counted", HEAD, by_call(_head_counts_ignored), ("M33",),
            ("M16-head",)),
)  # fmt: skip

CONTROLS = (
    Planted("right by other labels", LOSS, _relabelled(lambda labels, vocab: labels), (), ("M31",)),
    Planted("right by recounting", LOSS, _parts(_correct(_first, _not_ignored)), (), ("M33",)),
)
