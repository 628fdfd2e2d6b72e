"""A token's log-probability, entropy and log-sum-exp, exactly, and their derivatives: M8, M18-M20, M28."""

import mpmath
import numpy as np

from jaxsoftmax.verify._oracle import ExactRow, Expected, itself

SHARES = (1.0, 2.0, 0.5)  # of log-probability, entropy and log-sum-exp in the sum that is differentiated


def margins(row: ExactRow) -> np.ndarray:
    """m - z_j, and 0 where s_j = 0."""
    return np.array([row.maximum - z if s else mpmath.mpf(0) for z, s in zip(row.x, row.probs, strict=True)], object)


def row_entropy(row: ExactRow) -> mpmath.mpf:
    """log1p(r) + sum_j s_j (m - z_j), and 0 of a row of -inf alone (M28)."""
    return mpmath.mpf(0) if row.remainder < 0 else mpmath.log1p(row.remainder) + np.dot(row.probs, margins(row))


def row_entropy_gradient(row: ExactRow) -> Expected:
    """dH/dz_j = s_j ((m - z_j) - S) with S = sum_i s_i (m - z_i), which is -s_j (log s_j + H) (M28)."""
    a = margins(row)
    mean = np.dot(row.probs, a)
    return Expected(row.probs * (a - mean), row.probs * (a + mean))


def row_entropy_hessian(row: ExactRow) -> Expected:
    """The Hessian of H: s_i (b_i - 1) on the diagonal, less s_i s_j (b_i + b_j - 1), with b = (m - z) - S (M28)."""
    s, a = row.probs, margins(row)
    mean = np.dot(s, a)
    b, size = a - mean, a + mean
    outer = np.outer(s, s)
    value = np.diag(s * (b - 1)) - outer * (b[:, None] + b[None, :] - 1)
    return Expected(value, np.diag(s * (size + 1)) + outer * (size[:, None] + size[None, :] + 1))


def three_values(row: ExactRow, y: int) -> Expected:
    """Log-probability, entropy and log-sum-exp of a token (M18, M19, M28)."""
    lse_size = abs(row.maximum) + mpmath.log1p(row.remainder)
    return Expected([-row.nll[y], row_entropy(row), row.lse], [row.nll[y], row_entropy(row), lse_size])


def three_gradients(row: ExactRow, y: int) -> Expected:
    """The gradients of a token's log-probability, entropy and log-sum-exp, a row each (M8, M20, M28)."""
    return Expected.stack([itself(-row.label_gradient(y)), row_entropy_gradient(row), itself(row.probs)])
