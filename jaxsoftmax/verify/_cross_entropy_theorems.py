"""Cross-entropy of one token: M11, M12, M15."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import mpmath
import numpy as np

from jaxsoftmax.verify import _regimes
from jaxsoftmax.verify._oracle import ExactRow, Expected, exact, itself
from jaxsoftmax.verify._regimes import Regimes, labelled, rows
from jaxsoftmax.verify._softmax_theorems import chain_rule, jacobian, masked_call
from jaxsoftmax.verify._textbook import naive_integer, naive_targets
from jaxsoftmax.verify._theorem import FLOAT32, FLOAT_LABELS, Inputs, Theorem, derivative, hessian, value

FLOAT = "softmax_cross_entropy"
INTEGER = "softmax_cross_entropy_with_integer_labels"
LOSS = "cross_entropy"


def nll(x, y):
    """(m - x_y) + log1p(r), two terms that are never negative (M19)."""
    return itself(ExactRow(exact(x)).nll[y])


def gradient(x, y):
    """s - e_y, to the ulp of s + e_y (M11)."""
    row = ExactRow(exact(x))
    return Expected(row.label_gradient(int(y)), row.probs + (np.arange(len(x)) == y))


def target_loss(x, t):
    """-sum_i t_i log s_i, where a target 0 adds nothing (M11)."""
    row, t = ExactRow(exact(x)), exact(t)
    terms = np.array([a * b if a else mpmath.mpf(0) for a, b in zip(t, row.nll, strict=True)], object)
    return Expected(sum(terms), sum(np.abs(terms)))


def target_gradient(x, t):
    """s sum(t) - t, to the ulp of s sum|t| + |t| (M11)."""
    return chain_rule(x, t)


def nothing(x, *_):
    """A gradient of 0."""
    return itself(exact(np.zeros(np.shape(x))))


def infinite(x, *_):
    """The loss of an impossible class."""
    return itself(exact(np.inf))


def nll_or_nan(x, y):
    """NaN for a label that isn't a class, and the loss of one that is."""
    return nll(x, y) if 0 <= y < len(x) else itself(exact(np.nan))


def gradient_or_nan(x, y):
    """A NaN gradient for a label that isn't a class, and the gradient of the loss of one that is."""
    return gradient(x, y) if 0 <= y < len(x) else itself(exact(np.full(len(x), np.nan)))


def neg_log_probs(x, *_):
    """-log s (M12)."""
    return itself(ExactRow(exact(x)).nll)


def gradient_in_targets(t, x):
    """-log s, where the targets come first (M12)."""
    return neg_log_probs(x)


def mixed_gradient(x, t, g):
    """s sum(g) - g, the gradient in x of <g, dC/dt> (M12)."""
    return target_gradient(x, g)


def target_hessian(x, t):
    """sum(t) (diag(s) - s s^T), to the ulp of sum|t| (...) (M15)."""
    return itself(exact(t)).sum() * ExactRow(exact(x)).jacobian


def label_hessian_product(x, y, v):
    """J v, to the ulp of its terms (M15)."""
    return ExactRow(exact(x)).jacobian_product(exact(v))


def per_row(f, x, y):
    """The training loss of each row."""
    return f(x, y, reduction="none")


def masked_targets(f, x, t):
    """Cross-entropy with a mask in place of -inf."""
    return masked_call(lambda x, where: f(x, t, where=where), x)


def by_targets(f, t, x):
    """The loss of each row, as a function of the targets."""
    return f(x, t)


def along_targets(f, x, t, g):
    """<g, dC/dt>, whose gradient in x is s sum(g) - g: the mixed second derivative."""
    return jnp.sum(g * jax.grad(lambda t: jnp.sum(f(x, t)))(t), -1)


def with_targets(*regimes: Regimes) -> Callable[[str], list[Inputs]]:
    """Rows of logits, and real targets of each kind."""
    return lambda dtype: [
        Inputs(f"{each.regime}, {kind} targets", (*each.arrays, _regimes.targets_of(each.arrays[0], kind)))
        for each in rows(*regimes)(dtype)
        for kind in ("distribution", "unnormalised", "signed")
    ]


def square(dtype: str) -> dict[str, np.ndarray]:
    """As many rows as classes."""
    return {"ordinary": _regimes.ordinary(dtype, rows=_regimes.VOCAB)}


def one_or_many_masked(dtype: str) -> dict[str, np.ndarray]:
    row = np.array([[0, -np.inf, 1, *[-np.inf] * (_regimes.VOCAB - 3)]])
    return _regimes.masks(dtype) | {"[0, -inf, 1, ...]": row}


def out_of_range(dtype: str) -> list[Inputs]:
    x = _regimes.ordinary(dtype)
    return [Inputs("labels -1, V, 0 and -V", (x, np.array([-1, _regimes.VOCAB, 0, -_regimes.VOCAB], np.int32)))]


def mixed(dtype: str) -> list[Inputs]:
    x = _regimes.ordinary(dtype)
    return [Inputs("ordinary", (x, _regimes.targets_of(x, "distribution"), _regimes.directions(x)))]


_targets, _masked_targets = with_targets(_regimes.unmasked), with_targets(_regimes.masks)
_targets_first = _regimes.reordered(_targets, 1, 0)
_rows, _empty = labelled(_regimes.well_conditioned), labelled(_regimes.empty)
_every_size = labelled(_regimes.well_conditioned, _regimes.ragged_rows, _regimes.long_rows)
_with_ragged = labelled(_regimes.well_conditioned, _regimes.ragged_rows)

CROSS_ENTROPY_THEOREMS = (
    Theorem(
        "M11",
        "cross-entropy",
        "C(x, t) = -sum_i t_i log s_i; its gradient is s sum(t) - t for any real t, and s - e_y for a label y",
        "the sum to 2 ulps, log1p to 2, and the terms' own roundings",
        "p or p + 1 at the label, not p - 1; s - t, which is right for targets that sum to 1 alone; a mean taken twice",
        (
            value(INTEGER, "value", nll, labelled(_regimes.unshifted, _regimes.ragged_rows, _regimes.long_rows), 4),
            derivative(INTEGER, "gradient", gradient, _every_size, 4, textbook=naive_integer),
            value(FLOAT, "value", target_loss, _targets, 6),
            derivative(FLOAT, "gradient", target_gradient, _targets, 6, textbook=naive_targets),
            value("analytic.cross_entropy_gradient", "value", target_gradient, _targets, 6),
            value(LOSS, "value of a row", nll, labelled(_regimes.unshifted, _regimes.ragged_rows), 4, call=per_row),
            derivative(FLOAT, "gradient, ragged", target_gradient, with_targets(_regimes.ragged_rows), 6,
                       dtypes=FLOAT32),
            value(INTEGER, "value along axis 0", nll, labelled(square), 4, call=lambda f, x, y: f(x.T, y, axis=0),
                  dtypes=FLOAT32),
            value(LOSS, "value of a row, long", nll, labelled(_regimes.long_rows), 4, call=per_row, dtypes=FLOAT32),
            derivative(LOSS, "gradient of a row", gradient, _with_ragged, 4, call=per_row, dtypes=FLOAT32),
        ),
    ),
    Theorem(
        "M11-mask",
        "masked classes",
        "a class of target 0 adds nothing, even at a logit of -inf; a row of -inf alone costs inf, with gradient 0",
        "as M11",
        "NaN from 0 * inf in the one-hot form, or from -inf - (-inf) in a row of -inf alone",
        (
            value(FLOAT, "value", target_loss, with_targets(one_or_many_masked), 6),
            derivative(FLOAT, "gradient", target_gradient, with_targets(one_or_many_masked), 6),
            value(INTEGER, "value of -inf alone", infinite, _empty, 0, dtypes=FLOAT32),
            derivative(INTEGER, "gradient at -inf alone", nothing, _empty, 0, dtypes=FLOAT32),
            derivative(LOSS, "gradient at -inf alone", nothing, _empty, 0, call=per_row, dtypes=FLOAT32),
            value(FLOAT, "value, masked", target_loss, _masked_targets, 6, call=masked_targets, dtypes=FLOAT32),
            value(LOSS, "value, float labels", target_loss, _masked_targets, 6, call=per_row, may_refuse=FLOAT_LABELS,
                  dtypes=FLOAT32),
            derivative(LOSS, "gradient, float labels", target_gradient, _masked_targets, 6, call=per_row,
                       may_refuse=FLOAT_LABELS, dtypes=FLOAT32),
        ),
    ),
    Theorem(
        "M11-range",
        "labels that are no class",
        "a label outside [0, V) gives NaN loss and gradient, and spares its neighbours; -1 isn't the last class",
        "as M11",
        "-1 wraps to the last class, or an index is clipped in the gradient alone",
        (
            value(INTEGER, "value", nll_or_nan, out_of_range, 4),
            derivative(INTEGER, "gradient", gradient_or_nan, out_of_range, 4),
            value(LOSS, "value", nll_or_nan, out_of_range, 4, call=per_row),
            derivative(LOSS, "gradient", gradient_or_nan, out_of_range, 4, call=per_row),
        ),
    ),
    Theorem(
        "M12",
        "gradient in the labels",
        "the gradient of C in the targets is -log s",
        "as M10",
        "labels taken for constants, with gradient 0",
        (
            derivative(FLOAT, "gradient in the targets", gradient_in_targets, _targets_first, 4, call=by_targets,
                       textbook=lambda t, x: naive_targets(x, t)),
            value("analytic.cross_entropy_label_gradient", "value", neg_log_probs, rows(_regimes.unmasked), 4),
            derivative(FLOAT, "mixed second derivative", mixed_gradient, mixed, 6, call=along_targets, dtypes=FLOAT32),
        ),
    ),
    Theorem(
        "M15",
        "Hessian of cross-entropy",
        "the Hessian of C is sum(t) (diag(s) - s s^T)",
        "as M5",
        "a rule that is right at first order only",
        (
            hessian(INTEGER, "Hessian", jacobian, _rows, 4, textbook=naive_integer),
            hessian(FLOAT, "Hessian", target_hessian, _targets, 6, textbook=naive_targets),
            value("analytic.cross_entropy_hessian", "value", jacobian, _rows, 4),
            value("analytic.cross_entropy_hvp", "value", label_hessian_product,
                  rows(_regimes.well_conditioned, beside=[_regimes.labels_of, _regimes.directions]), 4),
        ),
    ),
)  # fmt: skip
