"""Exact forms and calls for: cross-entropy of one token: M11, M12, M15, M19, M20."""

import jax
import jax.numpy as jnp
import mpmath
import numpy as np

from jaxsoftmax.verify import _regimes
from jaxsoftmax.verify._oracle import ExactRow, Expected, exact, itself
from jaxsoftmax.verify._softmax_oracles import masked_call, naive_lse
from jaxsoftmax.verify._theorem import Inputs

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


def by_targets(f, t, x):
    """The loss of each row, as a function of the targets."""
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
    """The NLL of the one-hot class (M19)."""
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
    return ExactRow(exact(x)).jacobian_product(exact(v))


def nothing_but_nan(x, y):
    """NaN for a label that isn't a class, and the loss of one that is."""
    return nll(x, y) if 0 <= y < len(x) else itself(exact(np.nan))


def nan_gradient(x, y):
    """A NaN gradient for a label that isn't a class, and the gradient of the loss of one that is."""
    return textbook_label_gradient(x, y) if 0 <= y < len(x) else itself(exact(np.full(len(x), np.nan)))


def naive_integer(x, y):
    """The formula as printed (M11)."""
    return naive_lse(x) - x[y]


def naive_targets(x, t):
    """The formula as printed (M11)."""
    return -jnp.sum(t * (x - naive_lse(x)))


def out_of_range(dtype: str) -> list[Inputs]:
    x = _regimes.ordinary(dtype)
    return [Inputs("labels -1, V, 0 and -V", (x, np.array([-1, _regimes.VOCAB, 0, -_regimes.VOCAB], np.int32)))]


def unshifted(regimes: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Without the shift, in which LSE - x_y cancels (M19)."""
    return {name: x for name, x in regimes.items() if name != "shift 1e4"}


def tails(dtype: str) -> dict[str, np.ndarray]:
    return _regimes.tails(dtype) | _regimes.separators(dtype)


def masked(dtype: str) -> dict[str, np.ndarray]:
    row = np.array([[0, -np.inf, 1, *[-np.inf] * (_regimes.VOCAB - 3)]])
    return {"-inf masks": _regimes.masked(dtype), "[0, -inf, 1, ...]": row}


def unmasked(dtype: str) -> dict[str, np.ndarray]:
    return {name: x for name, x in _regimes.well_conditioned(dtype).items() if name != "-inf masks"}


def per_row(f, x, y):
    """The training loss of each row."""
    return f(x, y, reduction="none")


def masked_targets(f, x, t):
    """Cross-entropy with a mask in place of -inf."""
    return masked_call(lambda x, where: f(x, t, where=where), x)


def nothing(x, *_):
    """No gradient."""
    return itself(exact(np.zeros(len(x))))


def infinite(x, *_):
    """The loss of an impossible class."""
    del x
    return itself(exact(np.inf))


def along_targets(f, x, t, g):
    """<g, dC/dt>, whose gradient in x is s sum(g) - g: the mixed second derivative."""
    return jnp.sum(g * jax.grad(lambda t: jnp.sum(f(x, t)))(t), -1)


def mixed_gradient(x, t, g):
    """s sum(g) - g, the gradient in x of <g, dC/dt> (M12)."""
    del t
    return target_gradient(x, g)


def mixed(dtype: str) -> list[Inputs]:
    x = _regimes.ordinary(dtype)
    return [Inputs("ordinary", (x, _regimes.targets_of(x, "distribution"), _regimes.directions(x)))]


def top_tails(dtype: str) -> list[Inputs]:
    """Confident rows, labelled by the class that is ahead."""
    return with_labels(tails(dtype), _regimes.top_labels)


def one_hot_tails(dtype: str) -> list[Inputs]:
    """Confident rows, with the class that is ahead as a one-hot label."""
    return with_one_hot(tails(dtype), _regimes.top_labels)


def targets(dtype: str) -> list[Inputs]:
    """Rows without masks, and real targets of each kind."""
    return with_targets(unmasked(dtype))
