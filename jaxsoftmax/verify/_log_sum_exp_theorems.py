"""Log-sum-exp: M8, M9, M18, M22."""

import jax.numpy as jnp
import mpmath
import numpy as np

from jaxsoftmax.verify import _regimes
from jaxsoftmax.verify._oracle import ExactRow, Expected, exact, itself
from jaxsoftmax.verify._softmax_oracles import (
    everything,
    jacobian,
    jacobian_product,
    masked_call,
    naive_lse,
    plain,
    probs,
)
from jaxsoftmax.verify._theorem import IN_FLOAT32, Inputs, Theorem, derivative, hessian, value


def lse(x):
    """m + log1p(r), to the ulp of |m| + log1p(r) (M18)."""
    row = ExactRow(exact(x))
    if row.lse == -mpmath.inf:
        return itself(row.lse)
    return Expected(np.asarray(row.lse), np.asarray(abs(row.maximum) + mpmath.log1p(row.remainder)))


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
    return Expected(
        np.asarray(m + mpmath.log(abs(total))), np.asarray(abs(m) + abs(mpmath.log(abs(total))) + size / abs(total))
    )


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


def _with_weights(dtype: str, order: tuple[int, int]) -> list[Inputs]:
    x = _regimes.ordinary(dtype)
    positive = np.random.default_rng(4).integers(1, 17, x.shape) / 8.0
    signed = positive * np.where(np.arange(x.shape[-1]) % 3 == 1, -0.25, 1)
    some = np.where(np.arange(x.shape[-1]) == 2, 0, positive)
    named = {
        "positive weights": positive,
        "signed weights": signed,
        "weights 0": some,
        "tiny weights": positive * 2.0**-40,
    }
    return [Inputs(name, tuple((x, b)[i] for i in order)) for name, b in named.items()]


def two_halves(f, x):
    """The log-sum-exp of the halves' log-sum-exps."""
    half = x.shape[-1] // 2
    return f(jnp.stack([f(x[..., :half], axis=-1), f(x[..., half:], axis=-1)], -1), axis=-1)


def _empty(dtype: str) -> list[Inputs]:
    del dtype
    return [Inputs("-inf alone", (np.full((2, _regimes.VOCAB), -np.inf),))]


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


def weights_of_sign(dtype: str, signs: float) -> list[Inputs]:
    x = _regimes.ordinary(dtype)
    b = np.random.default_rng(4).integers(1, 17, x.shape) / 8.0
    return [Inputs("weights", (x, b * np.where(np.arange(len(x)) % 2, 1, signs)[:, None]))]


LOG_SUM_EXP_THEOREMS = (
    Theorem(
        "M8",
        "gradient of log-sum-exp",
        "the gradient of LSE is softmax; with weights b it is b exp(a) / sum, and exp(a) / sum in b",
        "as M4",
        "a cotangent dropped, doubled or divided by N; weights left out",
        (
            derivative(
                "logsumexp",
                "gradient",
                probs,
                lambda d: plain(everything(d) | _regimes.with_sizes(d)),
                4,
                call=over_last,
                textbook=naive_lse,
            ),
            derivative(
                "logsumexp",
                "gradient, weighted",
                weighted_gradient,
                lambda d: _with_weights(d, (0, 1)),
                8,
                call=weighted,
                textbook=lambda a, b: jnp.log(jnp.abs(jnp.sum(b * jnp.exp(a)))),
            ),
            derivative(
                "logsumexp",
                "gradient in the weights",
                weights_gradient,
                lambda d: [i for i in _with_weights(d, (1, 0)) if i.regime != "weights 0"],
                8,
                call=by_weights,
                textbook=lambda b, a: jnp.log(jnp.abs(jnp.sum(b * jnp.exp(a)))),
            ),
            value("analytic.logsumexp_gradient", "value", probs, lambda d: plain(_regimes.well_conditioned(d)), 4),
        ),
    ),
    Theorem(
        "M8-empty",
        "log-sum-exp of nothing",
        "over -inf alone LSE is -inf with gradient 0; a weight 0 has the gradient exp(a) / sum all the same",
        "exact",
        "0 / 0 in the gradient of an empty sum (jax#6811); a mask in place of a weight 0",
        (
            value("logsumexp", "value", lse, _empty, 0, call=over_last),
            derivative("logsumexp", "gradient", probs, _empty, 0, call=over_last),
            derivative(
                "logsumexp",
                "gradient in a weight 0",
                weights_gradient,
                lambda d: [i for i in _with_weights(d, (1, 0)) if i.regime == "weights 0"],
                8,
                call=by_weights,
            ),
            value("softmax", "value", probs, lambda d: plain(_regimes.empty(d)), 0, **IN_FLOAT32),
        ),
    ),
    Theorem(
        "M9",
        "Hessian of log-sum-exp",
        "the Hessian of LSE is diag(s) - s s^T",
        "as M5",
        "a rule that is right at first order only",
        (
            hessian(
                "logsumexp",
                "Hessian",
                jacobian,
                lambda d: plain(_regimes.well_conditioned(d) | _regimes.many(d)),
                4,
                call=over_last,
                textbook=naive_lse,
            ),
            value("analytic.logsumexp_hessian", "value", jacobian, lambda d: plain(_regimes.well_conditioned(d)), 4),
            value(
                "analytic.logsumexp_hvp",
                "value",
                jacobian_product,
                lambda d: [Inputs(n, (x, _regimes.directions(x))) for n, x in _regimes.well_conditioned(d).items()],
                4,
            ),
            hessian(
                "logsumexp",
                "Hessian, weighted",
                weighted_hessian,
                lambda d: weights_of_sign(d, 1),
                8,
                call=weighted,
                **IN_FLOAT32,
            ),
        ),
    ),
    Theorem(
        "M18",
        "log-sum-exp of confident rows",
        "LSE = m + log1p(r), r the sum of exp(x_j - m) with one maximum left out",
        "the sum to 2 ulps, log1p to 2",
        "log(1 + r) rounds 1 + r: [0, -20] gives 0 (jax#40344)",
        (
            value(
                "logsumexp", "value", lse, lambda d: plain(everything(d) | _regimes.with_sizes(d)), 4, call=over_last
            ),
            value("logsumexp", "value, weighted", weighted_lse, lambda d: _with_weights(d, (0, 1)), 6, call=weighted),
            hessian("logsumexp", "Hessian", jacobian, lambda d: plain(_regimes.tails(d)), 4, call=over_last),
            value(
                "logsumexp",
                "value, masked",
                lse,
                lambda d: plain(_regimes.masks(d)),
                4,
                call=masked_over_last,
                **IN_FLOAT32,
            ),
            value(
                "logsumexp",
                "value, long and confident",
                lse,
                lambda d: plain(_regimes.long_confident(d)),
                8,
                call=over_last,
                **IN_FLOAT32,
            ),
            value("logsumexp", "sign", exact_sign, lambda d: weights_of_sign(d, -1), 0, call=sign, **IN_FLOAT32),
        ),
    ),
    Theorem(
        "M22",
        "merging of pieces",
        "states merge: LSE of a row is LSE of its pieces' LSEs, in any order and over any axes",
        "three roundings of M18",
        "a piece dropped, padding counted, or an axis mistaken",
        (
            value(
                "logsumexp", "value of two halves", lse, lambda d: plain(_regimes.with_ragged(d)), 12, call=two_halves
            ),
            value(
                "logsumexp",
                "value, reversed",
                lse,
                lambda d: plain(_regimes.with_sizes(d)),
                4,
                call=lambda f, x: f(x[..., ::-1], axis=-1),
            ),
            value(
                "logsumexp",
                "value over two axes",
                lambda x: lse(np.concatenate([x, x - 1])),
                lambda d: plain(_regimes.well_conditioned(d)),
                8,
                call=lambda f, x: f(jnp.stack([x, x - 1], -2), axis=(-1, -2)),
            ),
        ),
    ),
)
