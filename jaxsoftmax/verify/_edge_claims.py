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
from jaxsoftmax.verify._theorem import Claim, Inputs, derivative, hessian, value
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
    "M4": (value("softmax", "value, long", probs, lambda d: plain(_long(d)), 4),),
    "M5": (derivative("softmax", "Jacobian, masked", jacobian_of_kept, _kept, 4, call=lambda f, x, w: f(x, where=w)),),
    "M6": (
        derivative(
            "softmax",
            "VJP, ragged",
            jacobian_product,
            lambda d: with_directions(_ragged(d)),
            4,
            call=lambda f, x, g: jnp.sum(g * f(x), -1),
        ),
    ),
    "M8-empty": (value("softmax", "value", probs, lambda d: plain(_regimes.empty(d)), 0),),
    "M9": (hessian("logsumexp", "Hessian, weighted", weighted_hessian, lambda d: _weights(d, 1), 8, call=weighted),),
    "M10": (
        value("log_softmax", "value, long", log_probs, lambda d: plain(_long(d)), 4),
        value("log_softmax", "value, masked", log_probs, lambda d: plain(_masks(d)), 4, call=masked_call),
        value(
            "log_softmax",
            "value along axis 0",
            log_probs,
            lambda d: plain(_regimes.well_conditioned(d)),
            4,
            call=lambda f, x: f(x.T, axis=0).T,
        ),
    ),
    "M11": (
        derivative(FLOAT, "gradient, ragged", target_gradient, lambda d: with_targets(_ragged(d)), 6),
        value(
            INTEGER,
            "value along axis 0",
            nll,
            lambda d: with_labels({"ordinary": _regimes.ordinary(d, rows=_regimes.VOCAB)}),
            4,
            call=lambda f, x, y: f(x.T, y, axis=0),
        ),
        value(LOSS, "value of a row, long", nll, lambda d: with_labels(unshifted(_long(d))), 4, call=per_row),
        derivative(
            LOSS,
            "gradient of a row",
            textbook_label_gradient,
            lambda d: with_labels(_regimes.with_ragged(d)),
            4,
            call=per_row,
        ),
    ),
    "M11-mask": (
        value(INTEGER, "value of -inf alone", infinite, lambda d: with_labels(_regimes.empty(d)), 0),
        derivative(INTEGER, "gradient at -inf alone", nothing, lambda d: with_labels(_regimes.empty(d)), 0),
        derivative(LOSS, "gradient at -inf alone", nothing, lambda d: with_labels(_regimes.empty(d)), 0, call=per_row),
        value(FLOAT, "value, masked", target_loss, lambda d: with_targets(_masks(d)), 6, call=masked_targets),
        value(LOSS, "value, float labels", target_loss, lambda d: with_targets(_masks(d)), 6, call=per_row),
        derivative(LOSS, "gradient, float labels", target_gradient, lambda d: with_targets(_masks(d)), 6, call=per_row),
    ),
    "M12": (derivative(FLOAT, "mixed second derivative", mixed_gradient, _mixed, 6, call=along_targets),),
    "M18": (
        value("logsumexp", "value, masked", lse, lambda d: plain(_masks(d)), 4, call=masked_over_last),
        value(
            "logsumexp",
            "value, long and confident",
            lse,
            lambda d: plain(_regimes.long_confident(d)),
            8,
            call=over_last,
        ),
        value("logsumexp", "sign", exact_sign, lambda d: _weights(d, -1), 0, call=sign),
    ),
    "M19-low": (
        value(
            LOSS,
            "value",
            nll,
            _low,
            4,
            call=lambda f, x, y: per_row(f, x, y).astype(jnp.float32),
            dtypes=_regimes.LOW_PRECISION,
        ),
        derivative(LOSS, "gradient", label_gradient, _low, 1, call=per_row, dtypes=_regimes.LOW_PRECISION),
    ),
    "M20": (
        derivative(
            LOSS, "gradient", label_gradient, lambda d: with_labels(tails(d), _regimes.top_labels), 4, call=per_row
        ),
    ),
    "M23": (hessian(LOSS, "Hessian", capped_hessian, rows, 8, call=SOFTCAP.per_token),),
    "M26": settings(2, token_hessian, float_rows, 8, "Hessian", (SMOOTHING, Z_LOSS)),
}

# Where precision isn't the question one dtype will do.
EDGE_CLAIMS = {
    number: tuple(c if c.dtypes == _regimes.LOW_PRECISION else replace(c, dtypes=("float32",)) for c in claims)
    for number, claims in _CLAIMS.items()
}
