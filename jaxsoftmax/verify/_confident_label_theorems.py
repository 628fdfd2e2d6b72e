"""Cross-entropy of a token whose label is nearly certain: M19, M20."""

from collections.abc import Callable

import numpy as np

from jaxsoftmax.verify import _regimes
from jaxsoftmax.verify._cross_entropy_theorems import FLOAT, INTEGER, LOSS, nll, per_row
from jaxsoftmax.verify._oracle import ExactRow, exact, itself
from jaxsoftmax.verify._regimes import Regimes, rows, top_labelled
from jaxsoftmax.verify._softmax_theorems import jacobian
from jaxsoftmax.verify._theorem import FLOAT32, Inputs, Theorem, derivative, hessian, value


def label_gradient(x, y):
    """s - e_y, each entry to its own ulp (M20)."""
    return itself(ExactRow(exact(x)).label_gradient(int(y)))


def one_hot_nll(x, t):
    """The NLL of the one-hot class (M19)."""
    return nll(x, int(np.argmax(t)))


def one_hot_gradient(x, t):
    """s - e_y (M20)."""
    return label_gradient(x, int(np.argmax(t)))


def top_one_hot(*regimes: Regimes) -> Callable[[str], list[Inputs]]:
    """Rows of logits, each with the class that is ahead as a one-hot label."""
    return rows(*regimes, beside=[lambda x: np.eye(x.shape[-1], dtype=np.float32)[_regimes.top_labels(x)]])


def tails_and_others(dtype: str) -> list[Inputs]:
    """Confident rows labelled by the class that is ahead, and others by the first or the last."""
    return _tails(dtype) + _regimes.labelled(_regimes.ordinary_rows)(dtype)


_tails = top_labelled(_regimes.tails, _regimes.separators)
_one_hot_tails = top_one_hot(_regimes.tails, _regimes.separators)

CONFIDENT_LABEL_THEOREMS = (
    Theorem(
        "M19",
        "loss of confident labels",
        "nll_y = (m - x_y) + log1p(r): relative accuracy survives a confident label",
        "the sum to 2 ulps, log1p to 2",
        "LSE - x_y cancels: [0, -20] gives 0, and training stops (softmax collapse)",
        (
            value(INTEGER, "value", nll, top_labelled(_regimes.tails, _regimes.separators, _regimes.shifts), 4),
            value(FLOAT, "value", one_hot_nll, _one_hot_tails, 4),
            value(LOSS, "value", nll, _tails, 4, call=per_row),
        ),
    ),
    Theorem(
        "M20",
        "gradient at confident labels",
        "s_y - 1 = expm1(-nll_y): the label's gradient entry never cancels",
        "r to 2 ulps, and two quotients",
        "p - 1 in floating point is 0 past a gap of 17, or the tail is absorbed in 1 + r (softmax collapse)",
        (
            derivative(INTEGER, "gradient", label_gradient, tails_and_others, 4),
            derivative(FLOAT, "gradient", one_hot_gradient, _one_hot_tails, 4),
            value("analytic.cross_entropy_gradient", "value", label_gradient,
                  top_labelled(_regimes.tails, _regimes.shifted_tails), 8),
            hessian(INTEGER, "Hessian", jacobian, top_labelled(_regimes.tails), 4),
            hessian(FLOAT, "Hessian", jacobian, top_one_hot(_regimes.tails), 4),
            derivative(LOSS, "gradient", label_gradient, _tails, 4, call=per_row, dtypes=FLOAT32),
        ),
    ),
)  # fmt: skip
