"""The data of a case: the same numbers in every process, for every library."""

import ml_dtypes
import numpy as np

from jaxsoftmax.bench import _case
from jaxsoftmax.bench._case import Case

_CONFIDENCE = 30.0  # nats
_SPREAD = 3.0  # of trained logits


def inputs(case: Case) -> tuple[np.ndarray, ...]:
    """Returns logits [N, V], or hidden [N, D] and kernel [D, V], in the case's dtype; and labels int32 [N].

    In place of these: float labels [N, V]; of softmax and log_softmax, for their VJP, a cotangent [N, V]; of
    distillation a teacher's hidden states and kernel; of sparse labels their classes and weights [N, k].
    """
    random = np.random.default_rng(0)
    labels = random.integers(case.vocab, size=case.tokens, dtype=np.int32)
    if case.width is None:
        logits = random.standard_normal((case.tokens, case.vocab), np.float32)
        if case.logits == _case.TRAINED:
            logits *= np.float32(_SPREAD)
        if case.logits == _case.CONFIDENT:
            logits[np.arange(0, case.tokens, 2), labels[::2]] += _CONFIDENCE
        if case.function in (_case.FLOAT, _case.SOFTMAX, _case.LOG_SOFTMAX):
            other = random.standard_normal(logits.shape, np.float32)
            if case.function == _case.FLOAT:
                np.exp(other, out=other)
                other /= other.sum(-1, keepdims=True)
            return rounded(logits, case.dtype), rounded(other, case.dtype)
        if case.function == _case.SEQUENCES:
            logits, labels = logits.reshape(_case.BATCH, -1, case.vocab), labels.reshape(_case.BATCH, -1)
        return rounded(logits, case.dtype), labels
    hidden = random.standard_normal((case.tokens, case.width), np.float32)
    kernel = random.standard_normal((case.width, case.vocab), np.float32)
    kernel /= np.float32(np.sqrt(case.width))
    operands = rounded(hidden, case.dtype), rounded(kernel, case.dtype)
    if case.function == _case.DISTILLATION:  # the teacher's hidden states and kernel
        others = (random.standard_normal(array.shape, np.float32) for array in (hidden, kernel))
        teacher_hidden, teacher_kernel = others
        teacher_kernel /= np.float32(np.sqrt(case.width))
        return *operands, rounded(teacher_hidden, case.dtype), rounded(teacher_kernel, case.dtype)
    if case.function == _case.SPARSE:  # classes, and their weights
        weights = random.random((case.tokens, _case.SPARSE_CLASSES), np.float32)
        weights /= weights.sum(-1, keepdims=True)
        return *operands, random.integers(case.vocab, size=weights.shape, dtype=np.int32), weights
    return *operands, labels


def specs(case: Case) -> tuple[tuple[tuple[int, ...], str], ...]:
    """Returns shape and dtype of each of the inputs, which may be too large for this machine."""
    labels = (case.tokens,), "int32"
    if case.width is not None:
        operands = ((case.tokens, case.width), case.dtype), ((case.width, case.vocab), case.dtype)
        if case.function == _case.DISTILLATION:
            return *operands, *operands
        if case.function == _case.SPARSE:
            classes = case.tokens, _case.SPARSE_CLASSES
            return *operands, (classes, "int32"), (classes, "float32")
        return *operands, labels
    logits = (case.tokens, case.vocab), case.dtype
    if case.function in (_case.FLOAT, _case.SOFTMAX, _case.LOG_SOFTMAX):
        return logits, logits
    if case.function == _case.SEQUENCES:
        batch = (_case.BATCH, case.tokens // _case.BATCH)
        return ((*batch, case.vocab), case.dtype), (batch, "int32")
    return logits, labels


def rounded(array: np.ndarray, dtype: str) -> np.ndarray:
    """Returns the array in a dtype by its name."""
    return array.astype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype, copy=False)
