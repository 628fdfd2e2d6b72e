"""Log-sum-exp: M8, M9, M18, M22."""

import jax.numpy as jnp
import mpmath
import numpy as np

from jaxsoftmax.verify import _regimes
from jaxsoftmax.verify._oracle import ExactRow, Expected, exact, itself
from jaxsoftmax.verify._regimes import rows, with_directions
from jaxsoftmax.verify._softmax_theorems import SHORT_ROWS, jacobian, jacobian_product, masked_call, probs
from jaxsoftmax.verify._textbook import naive_lse
from jaxsoftmax.verify._theorem import FLOAT32, Inputs, Theorem, derivative, hessian, value


def lse(x, *_):
    """m + log1p(r), to the ulp of |m| + log1p(r) (M18)."""
    row = ExactRow(exact(x))
    if row.lse == -mpmath.inf:
        return itself(row.lse)
    return Expected(row.lse, abs(row.maximum) + mpmath.log1p(row.remainder))


def over_last(f, x, **kwargs):
    """Log-sum-exp of rows."""
    return f(x, axis=-1, **kwargs)


def weighted(f, a, b):
    """The log of the absolute value of a weighted sum of exponentials."""
    return f(a, axis=-1, b=b, return_sign=True)[0]


def by_weights(f, b, a):
    """The log of a weighted sum's size, as a function of the weights."""
    return weighted(f, a, b)


def weighted_lse(a, b):
    """log |sum_j b_j exp(a_j)|, to the ulp of the terms that cancel."""
    a, b = exact(a), exact(b)
    m = max(a)
    terms = b * np.array([mpmath.exp(value - m) for value in a], object)
    size, total = sum(np.abs(terms)), sum(terms)
    return Expected(m + mpmath.log(abs(total)), abs(m) + abs(mpmath.log(abs(total))) + size / abs(total))


def weighted_gradient(a, b):
    """b_j exp(a_j) / sum_k b_k exp(a_k)."""
    return _weighted_share(a, b, exact(b))


def weights_gradient(b, a):
    """exp(a_j) / sum_k b_k exp(a_k), at a weight 0 too."""
    return _weighted_share(a, b, exact(np.ones_like(b)))


def _weighted_share(a, b, factor):
    a, b = exact(a), exact(b)
    e = np.array([mpmath.exp(value - max(a)) for value in a], object)
    share = factor * e / np.dot(b, e)
    return Expected(share, np.abs(share) * (np.dot(np.abs(b), e) / abs(np.dot(b, e))))


def naive_weighted(a, b):
    """The formula as printed, of weights that may have either sign (M8)."""
    return jnp.log(jnp.abs(jnp.sum(b * jnp.exp(a))))


def _weights(dtype: str) -> dict[str, np.ndarray]:
    """Weights of ordinary logits, none of them 0."""
    x = _regimes.ordinary(dtype)
    positive = np.random.default_rng(4).integers(1, 17, x.shape) / 8.0
    signed = positive * np.where(np.arange(x.shape[-1]) % 3 == 1, -0.25, 1)
    return {"positive weights": positive, "signed weights": signed, "tiny weights": positive * 2.0**-40}


def _some_0(dtype: str) -> dict[str, np.ndarray]:
    positive = _weights(dtype)["positive weights"]
    return {"weights 0": np.where(np.arange(positive.shape[-1]) == 2, 0, positive)}


def with_weights(dtype: str) -> list[Inputs]:
    """Logits, and weights of each kind."""
    x, weights = _regimes.ordinary(dtype), _weights(dtype) | _some_0(dtype)
    return [Inputs(name, (x, b)) for name, b in weights.items()]


def weights_first(dtype: str) -> list[Inputs]:
    """Weights that aren't 0, and logits."""
    return [Inputs(name, (b, _regimes.ordinary(dtype))) for name, b in _weights(dtype).items()]


def weights_0_first(dtype: str) -> list[Inputs]:
    """Weights of which one is 0, and logits."""
    return [Inputs(name, (b, _regimes.ordinary(dtype))) for name, b in _some_0(dtype).items()]


def two_halves(f, x):
    """The log-sum-exp of the halves' log-sum-exps."""
    half = x.shape[-1] // 2
    return f(jnp.stack([f(x[..., :half], axis=-1), f(x[..., half:], axis=-1)], -1), axis=-1)


def masked_over_last(f, x):
    """Log-sum-exp with a mask in place of -inf."""
    return masked_call(lambda x, where: f(x, axis=-1, where=where), x)


def sign(f, a, b):
    """The sign of a weighted sum."""
    return f(a, axis=-1, b=b, return_sign=True)[1]


def exact_sign(a, b):
    """The sign of a weighted sum, in high precision."""
    e = np.array([mpmath.exp(v) for v in exact(a)], object)
    return itself(exact(np.sign(float(np.dot(exact(b), e)))))


def weighted_hessian(a, b):
    """diag(p) - p p^T with p = b exp(a) / sum (M9)."""
    row = ExactRow(np.array([v + mpmath.log(w) for v, w in zip(exact(a), exact(b), strict=True)], object))
    return itself(row.jacobian)


def positive_weights(dtype: str) -> list[Inputs]:
    return [Inputs("weights", (_regimes.ordinary(dtype), _weights(dtype)["positive weights"]))]


def negative_rows(dtype: str) -> list[Inputs]:
    """Every other row with negative weights alone."""
    x, b = _regimes.ordinary(dtype), _weights(dtype)["positive weights"]
    return [Inputs("weights", (x, b * np.where(np.arange(len(x)) % 2, 1, -1)[:, None]))]


_well_conditioned = rows(_regimes.well_conditioned)
_with_ragged = rows(_regimes.well_conditioned, _regimes.ragged_rows)
_sizes = rows(_regimes.well_conditioned, _regimes.ragged_rows, _regimes.long_rows)
_every_size = rows(*SHORT_ROWS, _regimes.long_rows)

LOG_SUM_EXP_THEOREMS = (
    Theorem(
        "M8",
        "gradient of log-sum-exp",
        "the gradient of LSE is softmax; with weights b it is b exp(a) / sum, and exp(a) / sum in b",
        "as M4",
        "a cotangent dropped, doubled or divided by N; weights left out",
        (
            derivative("logsumexp", "gradient", probs, _every_size, 4, call=over_last, textbook=naive_lse),
            derivative("logsumexp", "gradient, weighted", weighted_gradient, with_weights, 8, call=weighted,
                       textbook=naive_weighted),
            derivative("logsumexp", "gradient in the weights", weights_gradient, weights_first, 8, call=by_weights,
                       textbook=lambda b, a: naive_weighted(a, b)),
            value("analytic.logsumexp_gradient", "value", probs, _well_conditioned, 4),
        ),
    ),
    Theorem(
        "M8-empty",
        "log-sum-exp of nothing",
        "over -inf alone LSE is -inf with gradient 0; a weight 0 has the gradient exp(a) / sum all the same",
        "exact",
        "0 / 0 in the gradient of an empty sum (jax#6811); a mask in place of a weight 0",
        (
            value("logsumexp", "value", lse, rows(_regimes.empty), 0, call=over_last),
            derivative("logsumexp", "gradient", probs, rows(_regimes.empty), 0, call=over_last),
            derivative("logsumexp", "gradient in a weight 0", weights_gradient, weights_0_first, 8, call=by_weights),
            value("softmax", "value", probs, rows(_regimes.empty), 0, dtypes=FLOAT32),
        ),
    ),
    Theorem(
        "M9",
        "Hessian of log-sum-exp",
        "the Hessian of LSE is diag(s) - s s^T",
        "as M5",
        "a rule that is right at first order only",
        (
            hessian("logsumexp", "Hessian", jacobian, rows(_regimes.well_conditioned, _regimes.many), 4, call=over_last,
                    textbook=naive_lse),
            value("analytic.logsumexp_hessian", "value", jacobian, _well_conditioned, 4),
            value("analytic.logsumexp_hvp", "value", jacobian_product, with_directions(_regimes.well_conditioned), 4),
            hessian("logsumexp", "Hessian, weighted", weighted_hessian, positive_weights, 8, call=weighted,
                    dtypes=FLOAT32),
        ),
    ),
    Theorem(
        "M18",
        "log-sum-exp of confident rows",
        "LSE = m + log1p(r), r the sum of exp(x_j - m) with one maximum left out",
        "the sum to 2 ulps, log1p to 2",
        "log(1 + r) rounds 1 + r: [0, -20] gives 0 (jax#40344)",
        (
            value("logsumexp", "value", lse, _every_size, 4, call=over_last),
            value("logsumexp", "value, weighted", weighted_lse, with_weights, 6, call=weighted),
            hessian("logsumexp", "Hessian", jacobian, rows(_regimes.tails), 4, call=over_last),
            value("logsumexp", "value, masked", lse, rows(_regimes.masks), 4, call=masked_over_last, dtypes=FLOAT32),
            value("logsumexp", "value, long and confident", lse, rows(_regimes.long_confident), 8, call=over_last,
                  dtypes=FLOAT32),
            value("logsumexp", "sign", exact_sign, negative_rows, 0, call=sign, dtypes=FLOAT32),
        ),
    ),
    Theorem(
        "M22",
        "merging of pieces",
        "states merge: LSE of a row is LSE of its pieces' LSEs, in any order and over any axes",
        "three roundings of M18",
        "a piece dropped, padding counted, or an axis mistaken",
        (
            value("logsumexp", "value of two halves", lse, _with_ragged, 12, call=two_halves),
            value("logsumexp", "value, reversed", lse, _sizes, 4, call=lambda f, x: f(x[..., ::-1], axis=-1)),
            value("logsumexp", "value over two axes", lambda x: lse(np.concatenate([x, x - 1])), _well_conditioned, 8,
                  call=lambda f, x: f(jnp.stack([x, x - 1], -2), axis=(-1, -2))),
        ),
    ),
)  # fmt: skip
