"""Exact forms and calls for: the differential itself, and the linear classifier: M1-M3, M14, M16, M17."""

import jax
import jax.numpy as jnp
import mpmath
import numpy as np

from jaxsoftmax.verify._oracle import ExactRow, Expected, exact, itself
from jaxsoftmax.verify._theorem import Inputs

INTEGER = "softmax_cross_entropy_with_integer_labels"
ROWS, EMBED, VOCAB = 6, 4, 5
L2 = 0.125


def _data(dtype: str) -> dict[str, np.ndarray]:
    """A small data set whose logits are machine numbers: no product X W rounds."""
    del dtype
    rng = np.random.default_rng(11)
    W = np.round(rng.normal(0, 0.8, (1, EMBED, VOCAB)) * 8) / 8
    X = np.round(rng.normal(0, 1, (1, ROWS, EMBED)) * 4) / 4
    b = np.round(rng.normal(0, 1, (1, VOCAB)) * 8) / 8
    y = rng.integers(0, VOCAB, (1, ROWS)).astype(np.int32)
    return {"W": W, "X": X, "b": b, "y": y, "Z": X @ W + b}


def in_order(names: str):
    return lambda dtype: [Inputs("data set", tuple(_data(dtype)[name] for name in names))]


def logits_of(W, X, b):
    """XW + b without the reduced precision that accelerators choose by themselves."""
    return jnp.matmul(X, W, precision="highest") + b


def mean_loss(f, W, X, b, y):
    """The mean over samples (M14)."""
    return jnp.mean(f(logits_of(W, X, b), y))


def own_mean_loss(f, W, X, b, y):
    """The mean over samples (M14), by a loss that takes it itself."""
    return f(logits_of(W, X, b), y)


def naive_mean(Z, y):
    """The formulas as printed (M14)."""
    return jnp.mean(jnp.log(jnp.sum(jnp.exp(Z), -1)) - jnp.take_along_axis(Z, y[:, None], -1)[:, 0])


def naive_mean_loss(W, X, b, y):
    """The mean loss of XW + b, by the formulas as printed (M14, M16)."""
    return naive_mean(X @ W + b, y)


def mean_value(Z, y):
    """sum_i -log s_iy / N (M14)."""
    losses = [ExactRow(row).nll[int(label)] for row, label in zip(exact(Z), y, strict=True)]
    return itself(np.asarray(mpmath.fsum(losses) / len(losses)))


def row_gradients(Z, y):
    """(S - Y) / N, a row for each sample (M14)."""
    return Expected(*_residuals(exact(Z), y))


def residuals(W, X, b, y) -> tuple[np.ndarray, np.ndarray]:
    """(S - Y) / N of XW + b, and the size of its terms."""
    return _residuals(exact(X) @ exact(W) + exact(b), y)


def _residuals(z, y) -> tuple[np.ndarray, np.ndarray]:
    n = mpmath.mpf(len(y))
    rows = [ExactRow(row) for row in z]
    gradient = np.array([row.label_gradient(int(label)) for row, label in zip(rows, y, strict=True)], object) / n
    size = np.array([row.probs for row in rows], object) + exact(np.eye(z.shape[1])[y])
    return gradient, size / n


def kernel_gradient(W, X, b, y):
    """X^T (S - Y) / N (M16)."""
    gradient, size = residuals(W, X, b, y)
    return Expected(exact(X).T @ gradient, np.abs(exact(X)).T @ size)


def hidden_gradient(X, W, b, y):
    """(S - Y) W^T / N (M16)."""
    gradient, size = residuals(W, X, b, y)
    return Expected(gradient @ exact(W).T, size @ np.abs(exact(W)).T)


def bias_gradient(b, W, X, y):
    """sum_i (S_i - Y_i) / N: the sum over samples is the gradient in a bias they share (M14, M16)."""
    gradient, size = residuals(W, X, b, y)
    return Expected(gradient.sum(0), size.sum(0))


def penalised(factor: float):
    """The gradient of the mean loss and factor * sum W^2 (M17)."""

    def gradient(W, X, b, y):
        data = kernel_gradient(W, X, b, y)
        penalty = 2 * exact(np.asarray(factor)) * exact(W)
        return Expected(data.value + penalty, data.magnitude + np.abs(penalty))

    return gradient


def all_gradients(W, X, b, y):
    """dW, db and dX, flattened in that order (M16)."""
    parts = [kernel_gradient(W, X, b, y), bias_gradient(b, W, X, y), hidden_gradient(X, W, b, y)]
    values, magnitudes = zip(*((np.ravel(part.value), np.ravel(part.magnitude)) for part in parts), strict=True)
    return Expected(np.concatenate(values), np.concatenate(magnitudes))


def analytic_gradients(f, W, X, b, y):
    """The closed form's three gradients, in the same order."""
    g = f(X, W, y, bias=b)
    return jnp.concatenate([jnp.ravel(g.kernel), jnp.ravel(g.bias), jnp.ravel(g.hidden)])


def _differential(f, *at):
    def along(*directions):
        return jax.jvp(f, at, directions)[1]

    return along


def product_rule(_, X, Y):
    """d(XY) for dX = Y, dY = X."""
    return _differential(lambda A, B: jnp.matmul(A, B, precision="highest"), X, Y)(Y, X)


def linear_rules(_, X, Y):
    """d(A + aX + Y) for constant A, and dX = Y, dY = X."""
    return _differential(lambda A, B: 7.0 + 3.0 * A + B, X, Y)(Y, X)


def exp_rule(_, x, v):
    """d exp(x) along v."""
    return _differential(jnp.exp, x)(v)


def reciprocal_rule(_, x, v):
    """d 1 / sum(exp(x)) along v."""
    return _differential(lambda x: 1 / jnp.sum(jnp.exp(x)), x)(v)


def squares(dtype: str) -> list[Inputs]:
    del dtype
    rng = np.random.default_rng(12)
    return [Inputs("ordinary", tuple(rng.integers(-8, 9, (1, 3, 3)) / 4.0 for _ in range(2)))]


def vectors(dtype: str) -> list[Inputs]:
    del dtype
    rng = np.random.default_rng(13)
    return [Inputs("ordinary", tuple(rng.integers(-16, 17, (3, 5)) / 8.0 for _ in range(2)))]


def exact_reciprocal(x, v):
    e, v = np.frompyfunc(mpmath.exp, 1, 1)(exact(x)), exact(v)
    return Expected(np.asarray(-np.dot(e, v) / sum(e) ** 2), np.asarray(np.dot(e, np.abs(v)) / sum(e) ** 2))
