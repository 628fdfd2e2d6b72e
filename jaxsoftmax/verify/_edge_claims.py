"""What the theorems claim at the edges: large sizes, masks, other axes, rows of -inf alone, second derivatives."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import mpmath
import numpy as np

from jaxsoftmax.verify import _regimes
from jaxsoftmax.verify._cross_entropy_forms import (
    FLOAT,
    INTEGER,
    call,
    label_gradient,
    nll,
    tails,
    target_gradient,
    target_loss,
    textbook_label_gradient,
    unshifted,
    with_labels,
    with_targets,
)
from jaxsoftmax.verify._log_sum_exp_theorems import lse, over_last, weighted
from jaxsoftmax.verify._oracle import ExactRow, exact, itself
from jaxsoftmax.verify._softmax_forms import (
    jacobian,
    jacobian_product,
    log_probs,
    masked_call,
    plain,
    probs,
    with_directions,
)
from jaxsoftmax.verify._theorem import Claim, Inputs
from jaxsoftmax.verify._training_loss_forms import (
    LOSS,
    SMOOTHING,
    SOFTCAP,
    Z_LOSS,
    capped_hessian,
    float_rows,
    rows,
    settings,
    token_hessian,
)


def per_row(f, x, y):
    """The training loss of each row."""
    return f(x, y, reduction="none")


def masked_over_last(f, x):
    """Log-sum-exp with a mask in place of -inf."""
    return masked_call(lambda x, where: f(x, axis=-1, where=where), x)


def masked_targets(f, x, t):
    """Cross-entropy with a mask in place of -inf."""
    return masked_call(lambda x, where: f(x, t, where=where), x)


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


def jacobian_of_kept(x, where):
    """diag(s) - s s^T among the elements that the mask lets in, and 0 elsewhere (M5)."""
    return jacobian(np.where(where, x, -np.inf))


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


def _ragged(dtype: str) -> dict[str, np.ndarray]:
    return {f"ragged, V = {_regimes.RAGGED}": _regimes.ragged(dtype)}


def _long(dtype: str) -> dict[str, np.ndarray]:
    return {f"long, V = {_regimes.LONG}": _regimes.long(dtype)}


def _masks(dtype: str) -> dict[str, np.ndarray]:
    return {"-inf masks": _regimes.masked(dtype)}


def _weights(dtype: str, signs: float) -> list[Inputs]:
    x = _regimes.ordinary(dtype)
    b = np.random.default_rng(4).integers(1, 17, x.shape) / 8.0
    return [Inputs("weights", (x, b * np.where(np.arange(len(x)) % 2, 1, signs)[:, None]))]


def _kept(dtype: str) -> list[Inputs]:
    x = _regimes.ordinary(dtype)
    return [Inputs("where", (x, np.arange(x.shape[-1]) % 3 != np.arange(len(x))[:, None] % 3))]


def _mixed(dtype: str) -> list[Inputs]:
    x = _regimes.ordinary(dtype)
    return [Inputs("ordinary", (x, _regimes.targets_of(x, "distribution"), _regimes.directions(x)))]


def _low(dtype: str) -> list[Inputs]:
    regimes = {"ordinary": _regimes.ordinary(dtype), "ties": _regimes.ties(dtype)} | _regimes.tails(dtype)
    return with_labels(regimes, _regimes.top_labels)


_CLAIMS: dict[str, tuple[Claim, ...]] = {
    "M4": (Claim("softmax", "value, long", 0, lambda f, x: f(x), probs, lambda d: plain(_long(d)), 4),),
    "M5": (Claim("softmax", "Jacobian, masked", 1, lambda f, x, w: f(x, where=w), jacobian_of_kept, _kept, 4),),
    "M6": (
        Claim(
            "softmax",
            "VJP, ragged",
            1,
            lambda f, x, g: jnp.sum(g * f(x), -1),
            jacobian_product,
            lambda d: with_directions(_ragged(d)),
            4,
        ),
    ),
    "M8-empty": (Claim("softmax", "value", 0, lambda f, x: f(x), probs, lambda d: plain(_regimes.empty(d)), 0),),
    "M9": (Claim("logsumexp", "Hessian, weighted", 2, weighted, weighted_hessian, lambda d: _weights(d, 1), 8),),
    "M10": (
        Claim("log_softmax", "value, long", 0, lambda f, x: f(x), log_probs, lambda d: plain(_long(d)), 4),
        Claim("log_softmax", "value, masked", 0, masked_call, log_probs, lambda d: plain(_masks(d)), 4),
        Claim(
            "log_softmax",
            "value along axis 0",
            0,
            lambda f, x: f(x.T, axis=0).T,
            log_probs,
            lambda d: plain(_regimes.well_conditioned(d)),
            4,
        ),
    ),
    "M11": (
        Claim(FLOAT, "gradient, ragged", 1, call, target_gradient, lambda d: with_targets(_ragged(d)), 6),
        Claim(
            INTEGER,
            "value along axis 0",
            0,
            lambda f, x, y: f(x.T, y, axis=0),
            nll,
            lambda d: with_labels({"ordinary": _regimes.ordinary(d, rows=_regimes.VOCAB)}),
            4,
        ),
        Claim(LOSS, "value of a row, long", 0, per_row, nll, lambda d: with_labels(unshifted(_long(d))), 4),
        Claim(
            LOSS,
            "gradient of a row",
            1,
            per_row,
            textbook_label_gradient,
            lambda d: with_labels(_regimes.with_ragged(d)),
            4,
        ),
    ),
    "M11-mask": (
        Claim(INTEGER, "value of -inf alone", 0, call, infinite, lambda d: with_labels(_regimes.empty(d)), 0),
        Claim(INTEGER, "gradient at -inf alone", 1, call, nothing, lambda d: with_labels(_regimes.empty(d)), 0),
        Claim(LOSS, "gradient at -inf alone", 1, per_row, nothing, lambda d: with_labels(_regimes.empty(d)), 0),
        Claim(FLOAT, "value, masked", 0, masked_targets, target_loss, lambda d: with_targets(_masks(d)), 6),
        Claim(LOSS, "value, float labels", 0, per_row, target_loss, lambda d: with_targets(_masks(d)), 6),
        Claim(LOSS, "gradient, float labels", 1, per_row, target_gradient, lambda d: with_targets(_masks(d)), 6),
    ),
    "M12": (Claim(FLOAT, "mixed second derivative", 1, along_targets, mixed_gradient, _mixed, 6),),
    "M18": (
        Claim("logsumexp", "value, masked", 0, masked_over_last, lse, lambda d: plain(_masks(d)), 4),
        Claim(
            "logsumexp", "value, long and confident", 0, over_last, lse, lambda d: plain(_regimes.long_confident(d)), 8
        ),
        Claim("logsumexp", "sign", 0, sign, exact_sign, lambda d: _weights(d, -1), 0),
    ),
    "M19-low": (
        Claim(
            LOSS,
            "value",
            0,
            lambda f, x, y: per_row(f, x, y).astype(jnp.float32),
            nll,
            _low,
            4,
            dtypes=_regimes.LOW_PRECISION,
        ),
        Claim(LOSS, "gradient", 1, per_row, label_gradient, _low, 1, dtypes=_regimes.LOW_PRECISION),
    ),
    "M20": (
        Claim(LOSS, "gradient", 1, per_row, label_gradient, lambda d: with_labels(tails(d), _regimes.top_labels), 4),
    ),
    "M23": (Claim(LOSS, "Hessian", 2, SOFTCAP.per_token, capped_hessian, rows, 8),),
    "M26": settings(2, token_hessian, float_rows, 8, "Hessian", (SMOOTHING, Z_LOSS)),
}

# Where precision isn't the question one dtype will do.
EDGE_CLAIMS = {
    number: tuple(c if c.dtypes == _regimes.LOW_PRECISION else replace(c, dtypes=("float32",)) for c in claims)
    for number, claims in _CLAIMS.items()
}
