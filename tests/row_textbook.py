"""Token statistics, losses of sparse labels, parts of losses and divergences by the closed forms, in NumPy's float64.

Not a line of the package is in them, and nothing is compiled. They are analytic, so that an imaginary step gives their
derivatives, with nothing subtracted (`textbook.derivatives`).
"""

from typing import Any, NamedTuple

import numpy as np

from tests import textbook


class OfRows(NamedTuple):
    """What is formed of rows of logits; "" names the logits' own arrays, and "teacher_" a teacher's."""

    value: Any  # sum of the outputs, times their cotangents
    by_logits: dict[str, np.ndarray]  # its gradient in the logits
    others: dict[str, np.ndarray]  # its gradients in other arguments
    terms: dict[str, np.ndarray]  # the sizes of the terms that `others` are sums of
    extras: dict[str, np.ndarray]  # results that have no gradient


def log_softmax(z):
    maximum = np.max(z.real, -1, keepdims=True)
    return z - maximum - np.log(np.sum(np.exp(z - maximum), -1, keepdims=True))


def token_stats(rows, others, *, labels, cotangents, temperature=1.0, logit_softcap=None, ignore_index=None):
    """Cotangents [3, *batch] of log-probability, entropy and log-sum-exp (M28, M32, M33)."""
    del others
    tanh = 0 if logit_softcap is None else np.tanh(rows[""] / logit_softcap)
    z = (rows[""] if logit_softcap is None else logit_softcap * tanh) / temperature
    log_s, kept = log_softmax(z), (labels != ignore_index)[..., None]
    s, one_hot = np.exp(log_s), labels[..., None] == np.arange(z.shape[-1])
    entropy = -np.sum(s * log_s, -1, keepdims=True)
    of_log_prob, of_entropy, of_lse = cotangents[..., None]
    value = np.sum(kept * of_log_prob * one_hot * log_s) + np.sum(kept * of_entropy * entropy)
    value += np.sum(of_lse * (z - log_s)[..., :1])
    by_z = kept * (of_log_prob * (one_hot - s) - of_entropy * s * (log_s + entropy)) + of_lse * s
    by_logits = by_z * (1 - tanh**2) / temperature
    return OfRows(value, {"": by_logits}, {}, {}, {"prediction": np.argmax(z.real, -1)})


def sparse_loss(
    rows, others, *, labels, cotangents, reduction, has_aux=False, class_weights=None, logit_softcap=None, **options
):
    """The loss of labels whose classes are the integers `labels` [*batch, k] (M27, M31)."""
    logits, u, label_weights = (
        rows[""],
        others.get("token_weights", np.ones(labels.shape[:-1])),
        others["label_weights"],
    )
    w = np.ones(logits.shape[-1]) if class_weights is None else np.asarray(class_weights, np.float64)
    dense = np.sum(label_weights[..., None] * (labels[..., None] == np.arange(len(w))), -2)
    ones = np.ones(labels.shape[:-1])
    losses, by_logits = textbook.of_logits(logits, dense, w, ones, logit_softcap=logit_softcap, **options)
    share, value, gradients, terms = reduced(reduction, cotangents, u, losses)
    z = logits if logit_softcap is None else logit_softcap * np.tanh(logits / logit_softcap)
    log_s = log_softmax(z)
    nll = w[labels] * -np.take_along_axis(log_s, labels, -1)
    smoothing = 1 - options.get("label_smoothing", 0)
    gradients["label_weights"] = (share * u * smoothing)[..., None] * nll
    terms["label_weights"] = abs(gradients["label_weights"])
    lse = (z - log_s)[..., 0]
    likeliest = np.take_along_axis(labels, np.argmax(label_weights.real, -1)[..., None], -1)[..., 0]
    parts = np.sum(label_weights * nll, -1), options.get("z_loss", 0) * lse**2, ones, likeliest == np.argmax(z.real, -1)
    extras = loss_parts(reduction, u, *parts) if has_aux else {}
    return OfRows(value, {"": (share * u)[..., None] * by_logits}, gradients, terms, extras)


def integer_loss(rows, others, *, labels, cotangents, reduction, has_aux, class_weights=None, **options):
    """The loss of integer labels [*batch], and its parts (M24, M25, M27, M33)."""
    del has_aux
    logits, u = rows[""], others.get("token_weights", np.ones(labels.shape))
    w = np.ones(logits.shape[-1]) if class_weights is None else np.asarray(class_weights, np.float64)
    given = {"class_weights": w, "reduction": reduction} | options
    # The head whose kernel is the identity. Its losses are those of "none", and each is the gradient in its weight.
    exact = textbook.of_head(
        logits, np.eye(len(w)), 0.0, u, labels, cotangents=np.broadcast_to(cotangents, labels.shape), **given
    )
    scale = 1.0 if reduction == "none" else cotangents
    kept = labels != options.get("ignore_index")
    of_label, cap = w[np.where(kept, labels, 0)] * kept, options.get("logit_softcap")
    z = logits if cap is None else cap * np.tanh(logits / cap)
    log_s = log_softmax(z)
    nll = of_label * -np.take_along_axis(log_s, np.where(kept, labels, 0)[..., None], -1)[..., 0]
    z_loss = options.get("z_loss", 0) * of_label * (z - log_s)[..., 0] ** 2
    parts = loss_parts(reduction, u, nll, z_loss, of_label, kept & (labels == np.argmax(z.real, -1)))
    terms = {"token_weights": scale * sum(map(abs, exact.token_weight_terms))}
    by_token_weights = {"token_weights": scale * exact.gradients[3]}
    return OfRows(scale * exact.value, {"": scale * exact.by_logits}, by_token_weights, terms, parts)


def divergence(rows, others, *, cotangents, divergence, reduction, beta=0.5, temperature=1.0):
    """The divergence between rows of a teacher and a student (M29, M30, M32)."""
    log_q, log_p = (log_softmax(rows[of] / temperature) for of in ("", "teacher_"))
    p, q = np.exp(log_p), np.exp(log_q)
    log_m = np.log(beta * p + (1 - beta) * q)
    against = {
        "forward_kl": (1, log_q, 0, 0),
        "reverse_kl": (0, 0, 1, log_p),
        "jensen_shannon": (beta, log_m, 1 - beta, log_m),
    }
    of_p, from_p, of_q, from_q = against[divergence]
    of_teacher, of_student = (np.sum(s, -1, keepdims=True) for s in (p * (log_p - from_p), q * (log_q - from_q)))
    losses = (of_p * of_teacher + of_q * of_student)[..., 0]
    by_z = q - p if divergence == "forward_kl" else of_q * q * (log_q - from_q - of_student)
    by_u = p - q if divergence == "reverse_kl" else of_p * p * (log_p - from_p - of_teacher)
    u = others.get("token_weights", np.ones(losses.shape))
    share, value, gradients, terms = reduced(reduction, cotangents, u, losses)
    scale = (share * u / temperature)[..., None]
    return OfRows(value, {"": scale * by_z, "teacher_": scale * by_u}, gradients, terms, {})


def reduced(reduction, cotangents, u, losses):
    """By what each loss is multiplied besides its weight; the value; its gradient in the token weights (M27)."""
    total = np.sum(u) if reduction == "mean" else 1.0
    share = cotangents / total * np.ones(u.shape)
    value = np.sum(share * u * losses)
    of_mean = value / total * (reduction == "mean")
    gradient = {"token_weights": share * losses - of_mean}
    return share, value, gradient, {"token_weights": abs(share * losses) + abs(of_mean)}


def loss_parts(reduction, u, nll, z_loss, normalizers, correct):
    """`LossParts` by name (M33)."""
    parts = {"nll": u * nll, "z_loss": u * z_loss, "weight": u * normalizers, "correct": u * correct}
    if reduction == "none":
        return parts
    sums = {name: np.sum(part) for name, part in parts.items()}
    divisor = sums["weight"] if reduction == "mean" and sums["weight"] != 0 else 1.0
    return sums | {name: sums[name] / divisor for name in ("nll", "z_loss")}


TEXTBOOKS = {"stats": token_stats, "sparse": sparse_loss, "integer": integer_loss, "distillation": divergence}
