"""Cross-entropy of one token: M11, M12, M15, M19, M20."""

import jax.numpy as jnp
import mpmath
import numpy as np

from jaxsoftmax.verify import _regimes
from jaxsoftmax.verify._log_sum_exp_theorems import naive_lse
from jaxsoftmax.verify._oracle import Expected, ExactRow, exact, itself
from jaxsoftmax.verify._theorem import Claim, Inputs, Theorem

FLOAT = "softmax_cross_entropy"
INTEGER = "softmax_cross_entropy_with_integer_labels"
TARGETS = ("distribution", "unnormalised", "signed")


def with_labels(regimes: dict[str, np.ndarray], choose=_regimes.labels_of) -> list[Inputs]:
    """Rows of logits, and a class for each."""
    return [Inputs(name, (x, choose(x))) for name, x in regimes.items()]


def with_one_hot(regimes: dict[str, np.ndarray], choose=_regimes.labels_of) -> list[Inputs]:
    """Rows of logits, and their classes one-hot."""
    return [Inputs(name, (x, np.eye(x.shape[-1], dtype=np.float32)[choose(x)])) for name, x in regimes.items()]


def with_targets(regimes: dict[str, np.ndarray], kinds=TARGETS) -> list[Inputs]:
    """Rows of logits, and real targets of each kind."""
    return [
        Inputs(f"{name}, {kind} targets", (x, _regimes.targets_of(x, kind)))
        for name, x in regimes.items()
        for kind in kinds
    ]


def call(f, x, y):
    """The loss of each row."""
    return f(x, y)


def by_targets(f, t, x):
    """The same, as a function of the targets."""
    return f(x, t)


def nll(x, y):
    """(m - x_y) + log1p(r), two terms that are never negative (M19)."""
    return itself(np.asarray(ExactRow(exact(x)).nll[y]))


def label_gradient(x, y):
    """s - e_y, each entry to its own ulp (M20)."""
    return itself(ExactRow(exact(x)).label_gradient(int(y)))


def textbook_label_gradient(x, y):
    """s - e_y, to the ulp of s + e_y (M11)."""
    row = ExactRow(exact(x))
    value = row.label_gradient(int(y))
    return Expected(value, row.probs + (np.arange(len(x)) == y))


def one_hot_nll(x, t):
    """The likelihood of the one class (M19)."""
    return nll(x, int(np.argmax(t)))


def one_hot_gradient(x, t):
    """s - e_y (M20)."""
    return label_gradient(x, int(np.argmax(t)))


def target_loss(x, t):
    """-sum_i t_i log s_i, where a target 0 adds nothing (M11)."""
    row, t = ExactRow(exact(x)), exact(t)
    terms = np.array([a * b if a else mpmath.mpf(0) for a, b in zip(t, row.nll, strict=True)], object)
    return Expected(np.asarray(sum(terms)), np.asarray(sum(np.abs(terms))))


def target_gradient(x, t):
    """s sum(t) - t, to the ulp of s sum|t| + |t| (M11)."""
    row, t = ExactRow(exact(x)), exact(t)
    return Expected(row.probs * sum(t) - t, row.probs * sum(np.abs(t)) + np.abs(t))


def gradient_in_targets(t, x):
    """-log s (M12)."""
    del t
    return itself(ExactRow(exact(x)).nll)


def label_hessian(x, y):
    """diag(s) - s s^T (M15)."""
    del y
    return itself(ExactRow(exact(x)).jacobian)


def target_hessian(x, t):
    """sum(t) (diag(s) - s s^T), to the ulp of sum|t| (...) (M15)."""
    row, t = ExactRow(exact(x)), exact(t)
    return Expected(sum(t) * row.jacobian, sum(np.abs(t)) * np.abs(row.jacobian))


def label_hessian_product(x, y, v):
    """J v, to the ulp of its terms (M15)."""
    del y
    row, v = ExactRow(exact(x)), exact(v)
    return Expected(row.jacobian @ v, row.probs * (np.abs(v) + np.dot(row.probs, np.abs(v))))


def nothing_but_nan(x, y):
    """NaN for a label that isn't a class, and the loss of one that is."""
    return nll(x, y) if 0 <= y < len(x) else itself(exact(np.nan))


def nan_gradient(x, y):
    """The same of the gradient."""
    return textbook_label_gradient(x, y) if 0 <= y < len(x) else itself(exact(np.full(len(x), np.nan)))


def naive_integer(x, y):
    """The formula as printed (M11)."""
    return naive_lse(x) - x[y]


def naive_targets(x, t):
    """The formula as printed (M11)."""
    return -jnp.sum(t * (x - naive_lse(x)))


def _out_of_range(dtype: str) -> list[Inputs]:
    x = _regimes.ordinary(dtype)
    return [Inputs("labels -1, V, 0 and -V", (x, np.array([-1, _regimes.VOCAB, 0, -_regimes.VOCAB], np.int32)))]


def _unshifted(regimes: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Without the shift, in which LSE - x_y cancels (M19)."""
    return {name: x for name, x in regimes.items() if name != "shift 1e4"}


def _tails(dtype: str) -> dict[str, np.ndarray]:
    return _regimes.tails(dtype) | _regimes.separators(dtype)


def _masked(dtype: str) -> dict[str, np.ndarray]:
    row = np.array([[0, -np.inf, 1, *[-np.inf] * (_regimes.VOCAB - 3)]])
    return {"-inf masks": _regimes.masked(dtype), "[0, -inf, 1, ...]": row}


def _unmasked(dtype: str) -> dict[str, np.ndarray]:
    return {name: x for name, x in _regimes.well_conditioned(dtype).items() if name != "-inf masks"}


CROSS_ENTROPY_THEOREMS = (
    Theorem(
        "M11",
        "C(x, t) = -sum_i t_i log s_i; its gradient is s sum(t) - t for any real t, and s - e_y for a label y",
        "the sum to 2 ulps, log1p to 2, and the terms' own roundings",
        "s - t, which is right for targets that sum to 1 alone; p instead of p - 1; a mean taken twice",
        (
            Claim(INTEGER, "value", 0, call, nll, lambda d: with_labels(_unshifted(_regimes.with_sizes(d))), 4),
            Claim(
                INTEGER,
                "gradient",
                1,
                call,
                textbook_label_gradient,
                lambda d: with_labels(_regimes.with_sizes(d)),
                4,
                textbook=naive_integer,
            ),
            Claim(FLOAT, "value", 0, call, target_loss, lambda d: with_targets(_unmasked(d)), 6),
            Claim(
                FLOAT,
                "gradient",
                1,
                call,
                target_gradient,
                lambda d: with_targets(_unmasked(d)),
                6,
                textbook=naive_targets,
            ),
            Claim(
                "analytic.cross_entropy_gradient",
                "value",
                0,
                call,
                target_gradient,
                lambda d: with_targets(_unmasked(d)),
                6,
            ),
            Claim(
                "cross_entropy",
                "value of a row",
                0,
                lambda f, x, y: f(x, y, reduction="none"),
                nll,
                lambda d: with_labels(_unshifted(_regimes.with_ragged(d))),
                4,
            ),
        ),
    ),
    Theorem(
        "M11-mask",
        "a class of target 0 adds nothing, even at a logit of -inf",
        "as M11",
        "0 * inf: the one-hot form gives NaN",
        (
            Claim(FLOAT, "value", 0, call, target_loss, lambda d: with_targets(_masked(d)), 6),
            Claim(FLOAT, "gradient", 1, call, target_gradient, lambda d: with_targets(_masked(d)), 6),
        ),
    ),
    Theorem(
        "M11-range",
        "a label outside [0, V) has NaN loss and a NaN gradient, and its neighbours keep theirs; -1 isn't the last class",
        "as M11",
        "-1 wraps to the last class, or an index is clipped in the gradient alone",
        (
            Claim(INTEGER, "value", 0, call, nothing_but_nan, _out_of_range, 4),
            Claim(INTEGER, "gradient", 1, call, nan_gradient, _out_of_range, 4),
            Claim(
                "cross_entropy",
                "value",
                0,
                lambda f, x, y: f(x, y, reduction="none"),
                nothing_but_nan,
                _out_of_range,
                4,
            ),
            Claim(
                "cross_entropy",
                "gradient",
                1,
                lambda f, x, y: f(x, y, reduction="none"),
                nan_gradient,
                _out_of_range,
                4,
            ),
        ),
    ),
    Theorem(
        "M12",
        "the gradient of C in the targets is -log s",
        "as M10",
        "labels taken for constants, with gradient 0",
        (
            Claim(
                FLOAT,
                "gradient in the targets",
                1,
                by_targets,
                gradient_in_targets,
                lambda d: [Inputs(i.regime, i.arrays[::-1]) for i in with_targets(_unmasked(d))],
                4,
                textbook=lambda t, x: naive_targets(x, t),
            ),
            Claim(
                "analytic.cross_entropy_label_gradient",
                "value",
                0,
                lambda f, x: f(x),
                lambda x: itself(ExactRow(exact(x)).nll),
                lambda d: [Inputs(n, (x,)) for n, x in _unmasked(d).items()],
                4,
            ),
        ),
    ),
    Theorem(
        "M15",
        "the Hessian of C is sum(t) (diag(s) - s s^T)",
        "as M5",
        "a rule that is right at first order only",
        (
            Claim(
                INTEGER,
                "Hessian",
                2,
                call,
                label_hessian,
                lambda d: with_labels(_regimes.well_conditioned(d)),
                4,
                textbook=naive_integer,
            ),
            Claim(
                FLOAT,
                "Hessian",
                2,
                call,
                target_hessian,
                lambda d: with_targets(_unmasked(d)),
                6,
                textbook=naive_targets,
            ),
            Claim(
                "analytic.cross_entropy_hessian",
                "value",
                0,
                call,
                label_hessian,
                lambda d: with_labels(_regimes.well_conditioned(d)),
                4,
            ),
            Claim(
                "analytic.cross_entropy_hvp",
                "value",
                0,
                lambda f, x, y, v: f(x, y, v),
                label_hessian_product,
                lambda d: [
                    Inputs(i.regime, (*i.arrays, _regimes.directions(i.arrays[0])))
                    for i in with_labels(_regimes.well_conditioned(d))
                ],
                4,
            ),
        ),
    ),
    Theorem(
        "M19",
        "nll_y = (m - x_y) + log1p(r): relative accuracy survives a confident label",
        "the sum to 2 ulps, log1p to 2",
        "LSE - x_y cancels: [0, -20] gives 0, and training stops (softmax collapse)",
        (
            Claim(
                INTEGER,
                "value",
                0,
                call,
                nll,
                lambda d: with_labels(_tails(d) | {"shift 1e4": _regimes.shifted(d)}, _regimes.top_labels),
                4,
            ),
            Claim(FLOAT, "value", 0, call, one_hot_nll, lambda d: with_one_hot(_tails(d), _regimes.top_labels), 4),
            Claim(
                "cross_entropy",
                "value",
                0,
                lambda f, x, y: f(x, y, reduction="none"),
                nll,
                lambda d: with_labels(_tails(d), _regimes.top_labels),
                4,
            ),
        ),
    ),
    Theorem(
        "M20",
        "s_y - 1 = expm1(-nll_y): the label's gradient entry never cancels",
        "r to 2 ulps, and two quotients",
        "p - 1 in floating point is 0 past a gap of 17, or the tail is absorbed in 1 + r (softmax collapse)",
        (
            Claim(
                INTEGER,
                "gradient",
                1,
                call,
                label_gradient,
                lambda d: with_labels(_tails(d), _regimes.top_labels) + with_labels({"ordinary": _regimes.ordinary(d)}),
                4,
            ),
            Claim(
                FLOAT, "gradient", 1, call, one_hot_gradient, lambda d: with_one_hot(_tails(d), _regimes.top_labels), 4
            ),
            Claim(
                "analytic.cross_entropy_gradient",
                "value",
                0,
                call,
                label_gradient,
                lambda d: with_labels(_regimes.tails(d) | _regimes.shifted_tails(d), _regimes.top_labels),
                8,
            ),
            Claim(
                INTEGER,
                "Hessian",
                2,
                call,
                label_hessian,
                lambda d: with_labels(_regimes.tails(d), _regimes.top_labels),
                4,
            ),
            Claim(
                FLOAT,
                "Hessian",
                2,
                call,
                lambda x, t: label_hessian(x, 0),
                lambda d: with_one_hot(_regimes.tails(d), _regimes.top_labels),
                4,
            ),
        ),
    ),
    Theorem(
        "M19-low",
        "losses of bfloat16 and float16 logits are float32; their gradients are formed in float32 and rounded once",
        "values as M19 in float32 ulps; gradients half an ulp of their own dtype",
        "a loss in 8 or 11 bits; p formed there, and 1 subtracted after (Liger#1329)",
        (
            Claim(
                INTEGER,
                "value",
                0,
                lambda f, x, y: f(x, y).astype(jnp.float32),
                nll,
                lambda d: with_labels(_regimes.well_conditioned(d) | _regimes.tails(d), _regimes.top_labels),
                4,
                dtypes=_regimes.LOW_PRECISION,
            ),
            Claim(
                INTEGER,
                "gradient",
                1,
                call,
                label_gradient,
                lambda d: with_labels(_regimes.well_conditioned(d) | _regimes.tails(d), _regimes.top_labels),
                1,
                dtypes=_regimes.LOW_PRECISION,
            ),
            Claim(
                FLOAT,
                "value",
                0,
                lambda f, x, t: f(x, t.astype(x.dtype)).astype(jnp.float32),
                one_hot_nll,
                lambda d: with_one_hot(_regimes.well_conditioned(d) | _regimes.tails(d), _regimes.top_labels),
                4,
                dtypes=_regimes.LOW_PRECISION,
            ),
            Claim(
                FLOAT,
                "gradient",
                1,
                call,
                one_hot_gradient,
                lambda d: with_one_hot(_regimes.well_conditioned(d) | _regimes.tails(d), _regimes.top_labels),
                1,
                dtypes=_regimes.LOW_PRECISION,
            ),
        ),
    ),
)
