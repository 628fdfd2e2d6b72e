"""Gradients of the textbook's mean loss in float64, from the inputs as they were rounded, a few tokens at a time."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from jaxsoftmax.bench import _case
from jaxsoftmax.bench._case import Case

_ENTRIES = 1 << 22  # of logits held in float64 at a time


@dataclass(frozen=True)
class GradientError:
    """How far gradients are from the textbook's in float64."""

    norm: float  # |g − g*| / |g*|, of the worst of the gradients
    worst_token: float | None  # the same of a single token's gradient in its logits; None where there is none


def judge(case: Case, arrays: Sequence[np.ndarray]) -> Callable[[Sequence[np.ndarray]], GradientError]:
    """Returns what judges gradients of a case, in logits; or in hidden; or in hidden and kernel.

    Args:
      case: what is differentiated.
      arrays: the case's inputs, as `_inputs.inputs` returns them.
    """
    if case.width is None:
        logits, other = arrays
        return lambda gradients: _error_in_logits(case, logits, other, gradients[0])
    exact = _product_gradients(case, arrays)[: 1 if case.quantity == _case.IN_GRAPH else 2]

    def error(gradients: Sequence[np.ndarray]) -> GradientError:
        norms = [_relative_norm(mine, true) for mine, true in zip(gradients, exact, strict=True)]
        return GradientError(float(np.max(norms)), None)  # where one is nan so is the maximum

    return error


def _rows(tokens: int, vocab: int) -> Iterator[slice]:
    size = max(_ENTRIES // vocab, 1)
    return (slice(first, first + size) for first in range(0, tokens, size))


def _probabilities(logits: np.ndarray) -> np.ndarray:
    s = np.exp(logits - logits.max(-1, keepdims=True))
    s /= s.sum(-1, keepdims=True)
    return s


def _logit_gradient(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """s − one-hot, of float64 logits; its label entry is minus the sum of the others, which cancels nothing."""
    gradient = _probabilities(logits)
    rows = np.arange(len(labels))
    gradient[rows, labels] = 0
    gradient[rows, labels] = -gradient.sum(-1)
    return gradient


def _dense_gradient(case: Case, logits: np.ndarray, other: np.ndarray) -> np.ndarray:
    """The gradient in float64 logits of a mean over tokens, or of softmax or log_softmax with `other` as cotangent."""
    s = _probabilities(logits)
    if case.function == _case.LOGSUMEXP:
        return s / case.tokens
    if case.function == _case.SOFTMAX:  # less its value at the largest s, or what is left of it there would cancel
        h = other - np.take_along_axis(other, np.argmax(s, -1)[:, None], -1)
        return s * (h - np.sum(s * h, -1, keepdims=True))
    total = np.sum(other, -1, keepdims=True)
    return other - s * total if case.function == _case.LOG_SOFTMAX else (s * total - other) / case.tokens


def _error_in_logits(case: Case, logits: np.ndarray, other: np.ndarray, gradient: np.ndarray) -> GradientError:
    off, size, worst = 0.0, 0.0, []
    logits, gradient = logits.reshape(-1, case.vocab), gradient.reshape(-1, case.vocab)
    dense = case.function in (_case.FLOAT, _case.LOGSUMEXP, _case.SOFTMAX, _case.LOG_SOFTMAX)
    other = other if dense else other.reshape(-1)
    for rows in _rows(*logits.shape):
        x = logits[rows].astype(np.float64)
        if dense:
            exact = _dense_gradient(case, x, other[rows].astype(np.float64))
        else:
            exact = _logit_gradient(x, other[rows]) / len(other)
        mine = gradient[rows].astype(np.float64) - exact
        apart, norms = np.einsum("nv,nv->n", mine, mine), np.einsum("nv,nv->n", exact, exact)
        off, size = off + apart.sum(), size + norms.sum()
        worst.append(np.max(apart / norms))
    return GradientError(float(np.sqrt(off / size)), float(np.sqrt(np.max(worst))))


def _product_gradients(case: Case, arrays: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """The gradients in hidden and kernel: G Wᵀ and xᵀ G, added up in float64."""
    hidden, kernel, *others = arrays
    wide = kernel.astype(np.float64)
    by_hidden, by_kernel = np.empty(hidden.shape), np.zeros(kernel.shape)
    for rows in _rows(case.tokens, case.vocab):
        x = hidden[rows].astype(np.float64)
        g = _head_gradient(case, x @ wide, rows, others) / case.tokens
        by_hidden[rows] = g @ wide.T
        by_kernel += x.T @ g
    return by_hidden, by_kernel


def _head_gradient(case: Case, logits: np.ndarray, rows: slice, others: Sequence[np.ndarray]) -> np.ndarray:
    """The gradient of each of the rows' terms in their float64 logits; the other inputs are of all tokens."""
    if case.function == _case.DISTILLATION:
        teacher_hidden, teacher_kernel = (array.astype(np.float64) for array in others)
        return _probabilities(logits) - _probabilities(teacher_hidden[rows] @ teacher_kernel)
    if case.function == _case.SPARSE:
        indices, weights = (array[rows] for array in others)
        gradient = _probabilities(logits) * weights.sum(-1, keepdims=True, dtype=np.float64)
        np.subtract.at(gradient, (np.arange(len(indices))[:, None], indices), weights.astype(np.float64))
        return gradient
    gradient = _logit_gradient(logits, others[0][rows])
    if case.function == _case.STATS:
        s = _probabilities(logits)
        log_s = logits - logits.max(-1, keepdims=True)
        log_s -= np.log(np.exp(log_s).sum(-1, keepdims=True))
        gradient += _case.ENTROPY_WEIGHT * s * (log_s - np.sum(s * log_s, -1, keepdims=True))
    return gradient


def _relative_norm(mine: np.ndarray, exact: np.ndarray) -> float:
    off = sum(np.sum(np.square(mine[rows].astype(np.float64) - exact[rows])) for rows in _rows(*exact.shape))
    return float(np.sqrt(off) / np.linalg.norm(exact))
