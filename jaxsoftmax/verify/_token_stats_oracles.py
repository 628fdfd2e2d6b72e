"""Exact forms and calls for: statistics of tokens, over logits and in the fused head: M28, M32, M33."""

from typing import Any

import jax
import jax.numpy as jnp
import mpmath
import numpy as np

from jaxsoftmax.verify import _regimes
from jaxsoftmax.verify._cross_entropy_oracles import with_labels
from jaxsoftmax.verify._head_inputs import confident, drawn, packed
from jaxsoftmax.verify._head_oracles import Setting
from jaxsoftmax.verify._oracle import ExactRow, Expected, end_to_end, exact, itself
from jaxsoftmax.verify._softmax_oracles import naive_lse, naive_softmax
from jaxsoftmax.verify._theorem import Inputs

STATS, LINEAR_STATS = "token_stats", "linear_token_stats"
IGNORED = 0  # a class: padding's, which a model may well predict
TEMPERATURES = np.array([0.5, 2.0, 4.0, 1.0])  # by which no logit rounds
TOKENS = Setting(7, 3, _regimes.VOCAB, chunk=3, weighted=True)
CONFIDENT = Setting(2, 2, _regimes.VOCAB, chunk=1, weighted=True)
SHARES = (1.0, 2.0, 0.5)  # of log-probability, entropy and log-sum-exp in the sum that is differentiated


def statistic(name: str) -> Any:
    """One of the statistics of rows, a floating array."""
    return lambda f, x, y: jnp.asarray(getattr(f(x, y), name), x.dtype)


def unrounded(name: str) -> Any:
    """One of the statistics of rows, in the dtype that it comes in."""
    return lambda f, x, y: getattr(f(x, y), name)


def margins(row: ExactRow) -> np.ndarray:
    """m - z_j, and 0 where s_j = 0."""
    return np.array([row.maximum - z if s else mpmath.mpf(0) for z, s in zip(row.x, row.probs, strict=True)], object)


def entropy_of(row: ExactRow) -> mpmath.mpf:
    """log1p(r) + sum_j s_j (m - z_j), and 0 of a row of -inf alone (M28)."""
    return mpmath.mpf(0) if row.remainder < 0 else mpmath.log1p(row.remainder) + np.dot(row.probs, margins(row))


def entropy(x, y=None):
    """The entropy, to its own ulp: no term of it is negative (M28)."""
    del y
    return itself(np.asarray(entropy_of(ExactRow(exact(x)))))


def entropy_slope(row: ExactRow) -> Expected:
    """s_j ((m - z_j) - S) with S = sum_i s_i (m - z_i), which is -s_j (log s_j + H) (M28)."""
    a = margins(row)
    mean = np.dot(row.probs, a)
    return Expected(row.probs * (a - mean), row.probs * (a + mean))


def entropy_gradient(x, y=None):
    """dH/dz, to the ulp of its two terms, of which one is 0 at a dominant entry (M28)."""
    del y
    return entropy_slope(ExactRow(exact(x)))


def entropy_hessian(x, y=None):
    """With b = (m - z) - S: s_i (b_i - 1) on the diagonal, less s_i s_j (b_i + b_j - 1) everywhere (M28)."""
    del y
    row = ExactRow(exact(x))
    s, a = row.probs, margins(row)
    mean = np.dot(s, a)
    b, size = a - mean, a + mean
    outer = np.outer(s, s)
    value = np.diag(s * (b - 1)) - outer * (b[:, None] + b[None, :] - 1)
    return Expected(value, np.diag(s * (size + 1)) + outer * (size[:, None] + size[None, :] + 1))


def log_prob(x, y):
    """log s_y (M19)."""
    return itself(np.asarray(-ExactRow(exact(x)).nll[y]))


def log_prob_gradient(x, y):
    """e_y - s, each entry to its own ulp (M20)."""
    return itself(-ExactRow(exact(x)).label_gradient(int(y)))


def naive_entropy(x, y=None):
    """The formula as printed (M28)."""
    del y
    return -jnp.sum(naive_softmax(x) * (x - naive_lse(x)))


def prediction(x, y=None):
    """The first class of the maximum (M33)."""
    del y
    return itself(exact(float(np.argmax(x))))


def labelled(regimes: dict[str, np.ndarray]) -> list[Inputs]:
    return with_labels(regimes, _regimes.top_labels)


def moderate(dtype: str) -> list[Inputs]:
    """Rows in which the entropy curves in every direction."""
    return labelled({"ordinary": _regimes.ordinary(dtype), "ties": _regimes.ties(dtype)})


def every_row(dtype: str) -> list[Inputs]:
    return labelled(_regimes.well_conditioned(dtype) | _regimes.tails(dtype) | _regimes.empty(dtype))


def with_long_rows(dtype: str) -> list[Inputs]:
    regimes = _regimes.well_conditioned(dtype) | _regimes.empty(dtype)
    return labelled(regimes | {f"long, V = {_regimes.LONG}": _regimes.long(dtype)})


def low(dtype: str) -> list[Inputs]:
    return labelled({"ordinary": _regimes.ordinary(dtype), "ties": _regimes.ties(dtype)} | _regimes.tails(dtype))


def ignored_labels(dtype: str) -> list[Inputs]:
    x = _regimes.ordinary(dtype)
    return [Inputs("labels ignored, and labels -1 and V", (x, np.array([IGNORED, 1, -1, _regimes.VOCAB], np.int32)))]


def all_three(f: Any, x: Any, y: Any, **keywords: Any) -> Any:
    """Log-probability, entropy and log-sum-exp."""
    stats = f(x, y, **keywords)
    return jnp.stack([stats.log_prob, stats.entropy, stats.log_sum_exp], -1)


def three_values(row: ExactRow, y: int) -> Expected:
    """Log-probability, entropy and log-sum-exp of a token (M18, M19, M28)."""
    lse_size = abs(row.maximum) + mpmath.log1p(row.remainder)
    value = np.array([-row.nll[y], entropy_of(row), row.lse], object)
    return Expected(value, np.array([row.nll[y], entropy_of(row), lse_size], object))


def three_gradients(row: ExactRow, y: int) -> Expected:
    """Of log-probability, entropy and log-sum-exp: one row each (M8, M20, M28)."""
    slope, label = entropy_slope(row), -row.label_gradient(y)
    value = np.stack([label, slope.value, row.probs])
    return Expected(value, np.stack([np.abs(label), slope.magnitude, row.probs]))


def ignoring(f, x, y):
    """The statistics, where label 0 is ignored."""
    return all_three(f, x, y, ignore_index=IGNORED)


def ignoring_exactly(x, y):
    """An ignored token has log-probability and entropy 0; one whose label is no class has log-probability NaN."""
    row = ExactRow(exact(x))
    if y == IGNORED:
        return itself(np.array([mpmath.mpf(0), mpmath.mpf(0), row.lse], object))
    if 0 <= y < len(x):
        return three_values(row, int(y))
    return itself(np.array([mpmath.mpf("nan"), entropy_of(row), row.lse], object))


def at_temperature(f, x, y, t):
    """The statistics of z / T."""
    return all_three(f, x, y, temperature=t)


def tempered(x, t) -> ExactRow:
    """The row of z / T."""
    return ExactRow(exact(x) / mpmath.mpf(float(t)))


def values_at_temperature(x, y, t):
    """The statistics of z / T (M32)."""
    return three_values(tempered(x, t), int(y))


def gradients_at_temperature(x, y, t):
    """1 / T times the gradients at z / T (M32)."""
    of_scaled = three_gradients(tempered(x, t), int(y))
    return Expected(of_scaled.value / mpmath.mpf(float(t)), of_scaled.magnitude / mpmath.mpf(float(t)))


def textbook_at_temperature(x, y, t):
    """The formulas as printed, of z / T (M32)."""
    z = x / t
    return jnp.stack([z[y] - naive_lse(z), naive_entropy(z), naive_lse(z)])


def at_temperatures(dtype: str) -> list[Inputs]:
    x, y = _regimes.ordinary(dtype), np.array([0, 3, 4, 6], np.int32)
    tails = _regimes.confident(dtype)[:4]
    return [
        Inputs("T of 1/2 to 4", (x, y, TEMPERATURES)),
        Inputs("T of 1/2 to 4, confident", (tails, _regimes.top_labels(tails), TEMPERATURES)),
    ]


def of_head(setting: Setting, f: Any, theta: Any, y: Any) -> Any:
    """The head's statistics."""
    parts = setting.parts(theta)
    return f(parts.hidden, parts.kernel, y, bias=parts.bias, chunk_size=setting.chunk)


def head_statistics(f, theta, y):
    """Log-probabilities, entropies and log-sum-exps of a head's tokens."""
    stats = of_head(TOKENS, f, theta, y)
    return jnp.concatenate([stats.log_prob, stats.entropy, stats.log_sum_exp])


def _head_logits(theta: np.ndarray) -> np.ndarray:
    hidden, kernel, bias, _ = TOKENS.parts(theta)
    return hidden @ kernel + bias


def head_statistics_exactly(theta, y):
    """The statistics of hidden @ kernel + bias (M28)."""
    rows = zip(_head_logits(theta), y, strict=True)
    stacked = Expected.stack([three_values(ExactRow(exact(z)), int(label)) for z, label in rows])
    return end_to_end(Expected(stacked.value.T, stacked.magnitude.T))


def head_predictions(f, theta, y):
    """The predictions of a head's tokens, as floating numbers."""
    return jnp.asarray(of_head(TOKENS, f, theta, y).prediction, theta.dtype)


def head_predictions_exactly(theta, y):
    """The first class of the maximum of hidden @ kernel + bias (M33)."""
    del y
    return Expected.stack([prediction(z) for z in _head_logits(theta)])


def weighted_sum(setting: Setting, shares: tuple[float, ...]) -> Any:
    """sum_t u_t <shares, statistics of t>, whose gradient in u_t is that token's part."""

    def call(f, theta, y):
        stats = of_head(setting, f, theta, y)
        of_tokens = sum(share * part for share, part in zip(shares, stats, strict=False) if share)
        return jnp.dot(setting.parts(theta).token_weights, of_tokens)

    return call


def weighted_sum_exactly(setting: Setting, shares: tuple[float, ...]) -> Any:
    """The oracle of the gradient of `weighted_sum` in hidden, kernel, bias and u (M16, M28)."""

    def gradient(theta, y):
        hidden, kernel, bias, weights = setting.parts(theta)
        rows = [ExactRow(exact(z)) for z in hidden @ kernel + bias]
        of_rows = zip(rows, y, strict=True)
        parts = [(three_values(row, int(label)), three_gradients(row, int(label))) for row, label in of_rows]
        u, share = exact(weights), exact(np.array(shares))
        values, gradients = (Expected.stack(column) for column in zip(*parts, strict=True))
        g = Expected(np.tensordot(gradients.value, share, (1, 0)), np.tensordot(gradients.magnitude, share, (1, 0)))
        g = Expected(u[:, None] * g.value, u[:, None] * g.magnitude)
        of_tokens = Expected(values.value @ share, values.magnitude @ share)
        return end_to_end(*through_product(hidden, kernel, g), of_tokens)

    return gradient


def through_product(hidden: np.ndarray, kernel: np.ndarray, g: Expected) -> list[Expected]:
    """dX = G W^T, dW = X^T G and db = sum_t G (M16)."""
    x, w = exact(hidden), exact(kernel)
    return [
        Expected(g.value @ w.T, g.magnitude @ np.abs(w).T),
        Expected(x.T @ g.value, np.abs(x).T @ g.magnitude),
        Expected(np.sum(g.value, 0), np.sum(g.magnitude, 0)),
    ]


def textbook_weighted_sum(theta, y):
    """The formulas as printed, of all logits at once (M28)."""
    hidden, kernel, bias, u = TOKENS.parts(theta)
    z = hidden @ kernel + bias
    lse = jax.vmap(naive_lse)(z)
    parts = jnp.stack([jnp.take_along_axis(z, y[:, None], -1)[:, 0] - lse, jax.vmap(naive_entropy)(z), lse])
    return jnp.dot(jnp.asarray(SHARES) @ parts, u)


def head_tokens(dtype: str) -> list[Inputs]:
    """Token weights; labels of most classes; two equal columns, ahead of the others for some tokens."""
    del dtype
    hidden, kernel, bias = drawn(TOKENS, 41)
    kernel[:, 5], bias[[2, 5]] = kernel[:, 2], 1.5
    theta = packed(hidden, kernel, bias, np.array([1.0, 0.5, 0.0, 2.0, 1.0, 3.0, 0.25]))
    return [Inputs("7 tokens in chunks of 3", (theta[None], np.array([[0, 6, 2, 5, 4, 3, 1]], np.int32)))]


def confident_tokens(dtype: str) -> list[Inputs]:
    return confident(dtype)
