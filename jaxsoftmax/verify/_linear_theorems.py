"""The linear classifier: M14, M16, M17."""

from functools import partial

import jax.numpy as jnp
import mpmath
import numpy as np

from jaxsoftmax.verify._cross_entropy_theorems import INTEGER, LOSS
from jaxsoftmax.verify._exact_head import through_product
from jaxsoftmax.verify._oracle import ExactRow, Expected, end_to_end, exact, itself
from jaxsoftmax.verify._theorem import Inputs, Theorem, derivative, value

ROWS, EMBED, VOCAB = 6, 4, 5
L2 = 0.125
GRADIENTS = "analytic.linear_cross_entropy_gradients"


def _data(dtype: str) -> dict[str, np.ndarray]:
    """A small data set whose logits are machine numbers: no product X W rounds."""
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
    return itself(mpmath.fsum(losses) / len(losses))


def row_gradients(Z, y):
    """(S - Y) / N, a row for each sample (M14)."""
    return _residuals(exact(Z), y)


def residuals(W, X, b, y) -> Expected:
    """(S - Y) / N of XW + b, to the ulp of S + Y."""
    return _residuals(exact(X) @ exact(W) + exact(b), y)


def _residuals(z, y) -> Expected:
    rows = [ExactRow(row) for row in z]
    gradient = np.array([row.label_gradient(int(label)) for row, label in zip(rows, y, strict=True)], object)
    size = np.array([row.probs for row in rows], object) + exact(np.eye(z.shape[1])[y])
    return Expected(gradient, size) / mpmath.mpf(len(y))


def kernel_gradient(W, X, b, y):
    """X^T (S - Y) / N (M16)."""
    return exact(X).T @ residuals(W, X, b, y)


def hidden_gradient(X, W, b, y):
    """(S - Y) W^T / N (M16)."""
    return residuals(W, X, b, y) @ exact(W).T


def bias_gradient(b, W, X, y):
    """sum_i (S_i - Y_i) / N: the sum over samples is the gradient in a bias they share (M14, M16)."""
    return residuals(W, X, b, y).sum(0)


def penalised(factor: float):
    """The gradient of the mean loss and factor * sum W^2 (M17)."""

    def gradient(W, X, b, y):
        return kernel_gradient(W, X, b, y) + itself(exact(W)) * exact(2 * factor)

    return gradient


def all_gradients(W, X, b, y):
    """dW, db and dX, flattened in that order (M16)."""
    gradients = through_product(X, W, residuals(W, X, b, y))
    return end_to_end({name: gradients[f"gradient in {name}"] for name in ("kernel", "bias", "hidden")})


def analytic_gradients(f, W, X, b, y):
    """The closed form's three gradients, in the same order."""
    g = f(X, W, y, bias=b)
    return jnp.concatenate([jnp.ravel(g.kernel), jnp.ravel(g.bias), jnp.ravel(g.hidden)])


def by_bias(loss):
    """A loss as a function of the bias."""
    return lambda f, b, W, X, y: loss(f, W, X, b, y)


def with_penalty(factor: float):
    """The mean loss and factor * sum W^2."""
    return lambda f, W, X, b, y: mean_loss(f, W, X, b, y) + factor * jnp.sum(W * W)


def penalised_kernel(**convention):
    """The closed form's gradient in W."""
    return lambda f, W, X, b, y: f(X, W, y, bias=b, l2=L2, **convention).kernel


_value = partial(value, rowwise=False)
_derivative = partial(derivative, rowwise=False)

LINEAR_THEOREMS = (
    Theorem(
        "M14",
        "mean over samples",
        "the mean over samples has row gradients (s_i - e_y) / N; their sum is the gradient in a bias all share",
        "sums of N terms",
        "a sum in place of the mean, or the mean taken twice; the one-hot forgotten; rows in another order",
        (
            _derivative(INTEGER, "gradient in the shared bias", bias_gradient, in_order("bWXy"), 6,
                        call=by_bias(mean_loss), textbook=lambda b, W, X, y: naive_mean_loss(W, X, b, y)),
            _derivative(LOSS, "gradient in the shared bias", bias_gradient, in_order("bWXy"), 6,
                        call=by_bias(own_mean_loss), textbook=lambda b, W, X, y: naive_mean_loss(W, X, b, y)),
            _value(LOSS, "mean", mean_value, in_order("Zy"), 6),
            _derivative(LOSS, "gradient of the mean in each row", row_gradients, in_order("Zy"), 6,
                        textbook=naive_mean),
        ),
    ),
    Theorem(
        "M16",
        "linear classifier",
        "of logits XW + b: dW = X^T (S - Y) / N, db = sum_i (S_i - Y_i) / N, dX = (S - Y) W^T / N",
        "sums of N or V products, to the ulp of their terms",
        "the 1 / N left out, or the one-hot; X in place of its transpose",
        (
            _derivative(INTEGER, "gradient in W", kernel_gradient, in_order("WXby"), 6, call=mean_loss,
                        textbook=naive_mean_loss),
            _derivative(INTEGER, "gradient in X", hidden_gradient, in_order("XWby"), 6,
                        call=lambda f, X, W, b, y: mean_loss(f, W, X, b, y),
                        textbook=lambda X, W, b, y: naive_mean_loss(W, X, b, y)),
            _value(GRADIENTS, "dW, db and dX", all_gradients, in_order("WXby"), 6, call=analytic_gradients),
        ),
    ),
    Theorem(
        "M17",
        "weight penalty",
        "the penalty lambda sum W^2 adds 2 lambda W to dW; half of it adds lambda W",
        "as M16",
        "one convention's gradient with the other's loss; else as M16",
        (
            _derivative(INTEGER, "gradient in W, penalty l2 sum W^2", penalised(L2), in_order("WXby"), 6,
                        call=with_penalty(L2)),
            _derivative(INTEGER, "gradient in W, penalty l2 / 2 sum W^2", penalised(L2 / 2), in_order("WXby"), 6,
                        call=with_penalty(L2 / 2)),
            _value(GRADIENTS, "dW, penalty l2 sum W^2", penalised(L2), in_order("WXby"), 6, call=penalised_kernel()),
            _value(GRADIENTS, "dW, penalty l2 / 2 sum W^2", penalised(L2 / 2), in_order("WXby"), 6,
                   call=penalised_kernel(l2_convention="half")),
        ),
    ),
)  # fmt: skip
