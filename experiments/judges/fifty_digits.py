"""The closed forms evaluated with 50 decimal digits: the judge of every relative error."""

from contextlib import AbstractContextManager
from typing import NamedTuple

import mpmath
import numpy as np


def fifty_digits() -> AbstractContextManager[None]:
    """Sets mpmath's precision to 50 digits inside a `with` block."""
    return mpmath.workdps(50)


def loss_and_label_gradient(row: np.ndarray, label: int) -> tuple[mpmath.mpf, mpmath.mpf]:
    """Returns −log s_y and its derivative s_y − 1 in the label's own logit, both without cancellation.

    Args:
        row: logits [vocab] in any floating dtype, taken as the exact numbers that they are.
        label: the class y.
    """
    logits = [mpmath.mpf(float(entry)) for entry in row]
    others = mpmath.fsum(mpmath.exp(z - logits[label]) for j, z in enumerate(logits) if j != label)
    return mpmath.log1p(others), -others / (1 + others)  # (M19) (M20)


def softmax_jacobian(row: np.ndarray) -> list[list[mpmath.mpf]]:
    """Returns diag(s) − ssᵀ of logits [vocab], its diagonal as sᵢ Σ_{k≠i} sₖ, so that nothing cancels."""
    exponentials = [mpmath.exp(mpmath.mpf(float(entry))) for entry in row]  # no exponent is too large for mpmath
    total = mpmath.fsum(exponentials)
    s = [entry / total for entry in exponentials]
    size = range(len(s))
    others = [mpmath.fsum(s[k] for k in size if k != i) for i in size]
    return [[s[i] * others[i] if i == j else -s[i] * s[j] for j in size] for i in size]  # (M5)


class SoftLabelGradients(NamedTuple):
    """Gradients of −Σ tⱼ log sⱼ; ``magnitudes`` sum the absolute values of the terms of ``by_logits``."""

    by_logits: list[mpmath.mpf]
    magnitudes: list[mpmath.mpf]
    by_targets: list[mpmath.mpf]


def soft_label_gradients(row: np.ndarray, targets: np.ndarray) -> SoftLabelGradients:
    """Returns sⱼ Σ_{i≠j} tᵢ − (1 − sⱼ) tⱼ and −log sⱼ for logits and targets [vocab], taken as they are."""
    x, t = ([mpmath.mpf(float(entry)) for entry in entries] for entries in (row, targets))
    size = range(len(x))
    others = [[i for i in size if i != j] for j in size]
    odds = [mpmath.fsum(mpmath.exp(x[i] - x[j]) for i in others[j]) for j in size]  # of the others
    return SoftLabelGradients(
        by_logits=[(mpmath.fsum(t[i] for i in others[j]) - t[j] * odds[j]) / (1 + odds[j]) for j in size],  # (M11)
        magnitudes=[(mpmath.fsum(abs(t[i]) for i in others[j]) + abs(t[j]) * odds[j]) / (1 + odds[j]) for j in size],
        by_targets=[mpmath.log1p(odd) for odd in odds],  # (M12)
    )


def relative_error(value: float, exact: mpmath.mpf) -> float:
    """Returns |value − exact| / |exact|; infinity where ``value`` is not finite."""
    if not np.isfinite(value):
        return float("inf")
    return float(abs((mpmath.mpf(float(value)) - exact) / exact))
