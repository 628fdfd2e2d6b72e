"""The training loss and its gradients as the theorems have them, without a line of the package.

`loss` is M24, M26 and M27 as they are written, for autodiff. The others are closed forms in NumPy's float64, which
compile nothing. They are analytic, so that an imaginary step gives their derivatives, with nothing subtracted.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np


def loss(
    logits,
    labels,
    token_weights=1.0,
    reduction="mean",
    class_weights=None,
    ignore_index=None,
    label_smoothing=0.0,
    z_loss=0.0,
    logit_softcap=None,
):
    """The loss of logits [*batch, vocab] and integer labels, or floating ones that weigh every class."""
    vocab = logits.shape[-1]
    z = logits if logit_softcap is None else logit_softcap * jnp.tanh(logits / logit_softcap)
    lse = jnp.log(jnp.sum(jnp.exp(z), -1))
    log_probs = z - lse[..., None]
    w = jnp.ones(vocab) if class_weights is None else class_weights
    if jnp.issubdtype(labels.dtype, jnp.floating):
        smoothed = (1 - label_smoothing) * labels + label_smoothing / vocab
        losses, normalizers = -jnp.sum(w * smoothed * log_probs, -1) + z_loss * lse**2, jnp.ones(labels.shape[:-1])
    else:
        one_hot = labels[..., None] == np.arange(vocab)
        label_weights = jnp.sum(w * one_hot, -1)
        losses = -(1 - label_smoothing) * label_weights * jnp.sum(one_hot * log_probs, -1)
        losses += -label_smoothing / vocab * jnp.sum(w * log_probs, -1) + z_loss * label_weights * lse**2
        kept = 1.0 * (labels != ignore_index)
        losses, normalizers = kept * losses, kept * label_weights
    losses, total = token_weights * losses, jnp.sum(token_weights * normalizers)
    mean = jnp.sum(losses) / jnp.where(total == 0, 1, total)
    return {"none": losses, "sum": jnp.sum(losses), "mean": mean}[reduction]


def of_logits(logits, labels, class_weights, penalty_weights, label_smoothing=0.0, z_loss=0.0, logit_softcap=None):
    """Losses of labels that weigh every class (M26), and the gradient of their sum in the logits (M20, M23)."""
    z = logits if logit_softcap is None else logit_softcap * np.tanh(logits / logit_softcap)
    lead = np.argmax(z.real, -1)[..., None]
    maximum, leads = np.take_along_axis(z, lead, -1), np.arange(z.shape[-1]) == lead
    e = np.exp(z - maximum)
    remainder = np.sum(np.where(leads, 0, e), -1, keepdims=True)
    probs, complements = e / (1 + remainder), np.where(leads, remainder, 1 + remainder - e) / (1 + remainder)
    lse = maximum + np.log1p(remainder)
    targets = class_weights * ((1 - label_smoothing) * labels + label_smoothing / logits.shape[-1])
    with np.errstate(invalid="ignore"):  # 0 times an infinite logit
        terms = np.where(targets == 0, 0, targets * (maximum - z + np.log1p(remainder)))
    penalty = z_loss * penalty_weights[..., None] * lse
    by_logits = probs * (targets.sum(-1, keepdims=True) - targets) - targets * complements + 2 * penalty * probs
    slope = 1 if logit_softcap is None else 1 - (z / logit_softcap) ** 2
    return np.sum(terms, -1) + (penalty * lse)[..., 0], by_logits * slope


class OfHead(NamedTuple):
    """The value and its gradients, and what the sizes of their terms are made of."""

    value: np.ndarray
    gradients: tuple[np.ndarray, ...]  # in hidden, kernel, bias and token weights
    by_logits: np.ndarray
    token_weight_terms: tuple[np.ndarray, np.ndarray]  # whose difference the gradient in a token weight is (M27)


def of_head(
    hidden,
    kernel,
    bias,
    token_weights,
    labels,
    *,
    cotangents,
    class_weights=None,
    reduction="mean",
    ignore_index=None,
    chunk_size=None,
    **options,
):
    """The loss of hidden @ kernel + bias and its gradients (M14, M16, M27); unreduced losses are weighed and summed."""
    del chunk_size  # a choice of schedule, which changes no number
    w = np.ones(kernel.shape[1]) if class_weights is None else np.asarray(class_weights, np.float64)
    kept = labels != ignore_index
    one_hot = np.where(kept, labels, 0)[..., None] == np.arange(len(w))
    label_weights = one_hot @ w
    losses, by_logits = of_logits(hidden @ kernel + bias, one_hot, w, label_weights, **options)
    total = np.sum(kept * token_weights * label_weights) if reduction == "mean" else 1.0
    share = kept * (cotangents if reduction == "none" else 1.0) / (total if total != 0 else 1.0)
    value = np.sum(token_weights * share * losses)
    by_logits = (token_weights * share)[..., None] * by_logits
    of_mean = share * value * label_weights * (reduction == "mean")
    batch = tuple(range(labels.ndim))
    by_kernel = np.tensordot(hidden, by_logits, (batch, batch))
    with np.errstate(invalid="ignore"):  # 0 times an infinite kernel
        by_hidden = by_logits @ kernel.T
    gradients = by_hidden, by_kernel, by_logits.sum(batch), share * losses - of_mean
    return OfHead(value, gradients, by_logits, (share * losses, of_mean))


def derivatives(function, rows, directions):
    """Those of an analytic function of NumPy along the directions: nothing is subtracted, hence no bit lost."""
    stepped = function([row + 1e-30j * direction for row, direction in zip(rows, directions, strict=True)])
    return jax.tree.map(lambda result: np.imag(result) / 1e-30, stepped)


def gradient(function, arrays, argument):
    """That of an analytic scalar function of NumPy in one of its arrays."""
    x, before, after = arrays[argument], arrays[:argument], arrays[argument + 1 :]
    steps = 1e-30j * np.eye(x.size).reshape(-1, *x.shape)
    return np.reshape([np.imag(function(*before, x + step, *after)) / 1e-30 for step in steps], x.shape)
