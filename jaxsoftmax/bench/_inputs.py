"""The data of a case: the same numbers in every process, for every library."""

import ml_dtypes
import numpy as np

from jaxsoftmax.bench._case import CONFIDENT, Case

_CONFIDENCE = 30.0  # nats


def inputs(case: Case) -> tuple[np.ndarray, ...]:
    """Returns logits [N, V], or hidden [N, D] and kernel [D, V], in the case's dtype; and labels int32 [N]."""
    random = np.random.default_rng(0)
    labels = random.integers(case.vocab, size=case.tokens, dtype=np.int32)
    if case.width is None:
        logits = random.standard_normal((case.tokens, case.vocab), np.float32)
        if case.logits == CONFIDENT:
            logits[np.arange(0, case.tokens, 2), labels[::2]] += _CONFIDENCE
        return rounded(logits, case.dtype), labels
    hidden = random.standard_normal((case.tokens, case.width), np.float32)
    kernel = random.standard_normal((case.width, case.vocab), np.float32)
    kernel /= np.float32(np.sqrt(case.width))
    return rounded(hidden, case.dtype), rounded(kernel, case.dtype), labels


def rounded(array: np.ndarray, dtype: str) -> np.ndarray:
    """Returns the array in a dtype by its name."""
    return array.astype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype, copy=False)
