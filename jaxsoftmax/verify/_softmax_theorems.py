"""Softmax: M4-M7, M13."""

import jax
import jax.numpy as jnp
import mpmath
import numpy as np

from jaxsoftmax.verify import _regimes
from jaxsoftmax.verify._oracle import ExactRow, Expected, exact, itself
from jaxsoftmax.verify._regimes import rows, with_directions
from jaxsoftmax.verify._textbook import naive_softmax
from jaxsoftmax.verify._theorem import FLOAT32, Inputs, Theorem, derivative, value


def probs(x, *_):
    """Softmax (M4)."""
    return itself(ExactRow(exact(x)).probs)


def probs_of_rounded(x):
    """Softmax of logits whose differences round, which moves exp(x_j - m) by up to |x_j - m| ulps."""
    row = ExactRow(exact(x))
    gaps = np.abs(row.x - row.maximum)
    return Expected(row.probs, row.probs * (1 + (gaps + np.dot(row.probs, gaps)) / 4))


def jacobian(x, *_):
    """diag(s) - s s^T (M5)."""
    return itself(ExactRow(exact(x)).jacobian)


def jacobian_of_kept(x, where):
    """diag(s) - s s^T among the elements that the mask lets in, and 0 elsewhere (M5)."""
    return jacobian(np.where(where, x, -np.inf))


def jacobian_product(x, v):
    """J v, to the ulp of its terms (M6)."""
    return ExactRow(exact(x)).jacobian_product(exact(v))


def eigenvalues(x):
    """The eigenvalues of diag(s) - s s^T, ascending: one is 0, the others positive; to the ulp of the largest (M6)."""
    row = ExactRow(exact(x))
    values = np.array(sorted(mpmath.eigsy(mpmath.matrix(row.jacobian.tolist()), eigvals_only=True)), object)
    return Expected(values, values[-1])


def no_difference(x, c):
    """softmax(x + c) - softmax(x) = 0, to the ulp of softmax (M7)."""
    return Expected(exact(np.zeros(len(x))), ExactRow(exact(x)).probs)


def chain_rule(x, t):
    """J^T (-t / s) = s sum(t) - t, to the ulp of its terms (M13)."""
    t = itself(exact(t))
    return ExactRow(exact(x)).probs * t.sum() - t


def along_axis_0(f, x):
    """A function of rows, called on their transpose with axis=0."""
    return f(x.T, axis=0).T


def masked_call(f, x):
    """A mask in place of -inf logits."""
    return f(jnp.where(jnp.isneginf(x), 100.0, x).astype(x.dtype), where=~jnp.isneginf(x))


def pulled_back(f, x, g):
    """<g, f(x)>, whose gradient in x is the vector-Jacobian product."""
    return jnp.sum(g * f(x), -1)


def pushed_forward(f, x, v):
    """The Jacobian-vector product of f at x along v."""
    return jax.jvp(f, (x,), (v,))[1]


def through_softmax(f, x, t):
    """<-t / s, softmax(x)> with s held constant, whose gradient is J^T (-t / s)."""
    s = jax.lax.stop_gradient(f(x))
    return jnp.sum(f(x) * jnp.where(t == 0, 0, -t / s), -1)


def shifts(dtype: str) -> list[Inputs]:
    x = _regimes.ordinary(dtype)
    shifts = np.array([[1e4], [-1e4], [2.0], [-64.0]])
    return [Inputs("shift 1e4", (x, np.broadcast_to(shifts, x.shape)))]


def rounded(dtype: str) -> list[Inputs]:
    x = np.random.default_rng(9).normal(0, 20, (4, _regimes.VOCAB))
    return [Inputs("rounded differences", (x.astype(dtype).astype(np.float64),))]


def kept(dtype: str) -> list[Inputs]:
    x = _regimes.ordinary(dtype)
    return [Inputs("where", (x, np.arange(x.shape[-1]) % 3 != np.arange(len(x))[:, None] % 3))]


def of_chain_rule(dtype: str) -> list[Inputs]:
    x = _regimes.ordinary(dtype)
    return [Inputs("ordinary", (x, _regimes.targets_of(x, kind))) for kind in ("distribution", "signed")]


SHORT_ROWS = (_regimes.well_conditioned, _regimes.ragged_rows, _regimes.tails, _regimes.shifted_tails)

_well_conditioned = rows(_regimes.well_conditioned)
_along = with_directions(_regimes.well_conditioned)

SOFTMAX_THEOREMS = (
    Theorem(
        "M4",
        "softmax",
        "s_i = exp(x_i) / sum_k exp(x_k), and 0 where masked",
        "exp is good to 1 ulp, the sum to 2, the quotient to 1/2",
        "exp(x - LSE) rounds LSE at the size of the shift; exp(x) overflows",
        (
            value("softmax", "value", probs, rows(*SHORT_ROWS), 4),
            value("softmax", "value along axis 0", probs, _well_conditioned, 4, call=along_axis_0),
            value("softmax", "value, masked", probs, rows(_regimes.masks), 4, call=masked_call),
            value("softmax", "value, any logits", probs_of_rounded, rounded, 4),
            value("softmax", "value, long", probs, rows(_regimes.long_rows), 4, dtypes=FLOAT32),
        ),
    ),
    Theorem(
        "M5",
        "Jacobian of softmax",
        "the Jacobian of softmax is diag(s) - s s^T: s_i (1 - s_i) on the diagonal, -s_i s_j off it",
        "two probabilities at 3 ulps each would make 6; half of it cancels, and the product is rounded",
        "the term - s s^T left out, or a factor",
        (
            derivative("softmax", "Jacobian", jacobian, rows(_regimes.well_conditioned, _regimes.many), 4,
                       textbook=naive_softmax),
            value("analytic.softmax_jacobian", "value", jacobian, _well_conditioned, 4),
            derivative("softmax", "Jacobian, masked", jacobian_of_kept, kept, 4, call=lambda f, x, w: f(x, where=w),
                       dtypes=FLOAT32),
        ),
    ),
    Theorem(
        "M6",
        "products with the Jacobian",
        "J = J^T, J 1 = 0, J is positive semidefinite of rank n - 1; J v = J^T v = s * (v - <s, v>)",
        "as M5, to the ulp of the terms s_j (|v_j| + <s, |v|>)",
        "J v without the mean, or a cotangent dropped or doubled",
        (
            derivative("softmax", "VJP", jacobian_product, _along, 4, call=pulled_back,
                       textbook=lambda x, g: pulled_back(naive_softmax, x, g)),
            value("softmax", "JVP", jacobian_product, _along, 4, call=pushed_forward),
            value("softmax", "eigenvalues of the Jacobian", eigenvalues, rows(_regimes.ordinary_rows), 16,
                  call=lambda f, x: jnp.linalg.eigvalsh(jax.jacrev(f)(x)), rowwise=False),
            value("analytic.softmax_jvp", "value", jacobian_product, _along, 4),
            value("analytic.softmax_vjp", "value", jacobian_product, _along, 4),
            derivative("softmax", "VJP, ragged", jacobian_product, with_directions(_regimes.ragged_rows), 4,
                       call=pulled_back, dtypes=FLOAT32),
        ),
    ),
    Theorem(
        "M7",
        "shift invariance",
        "softmax(x + c 1) = softmax(x)",
        "two roundings of M4",
        "exp(x) overflows, or the maximum isn't subtracted",
        (
            value("softmax", "softmax(x + c) - softmax(x)", no_difference, shifts, 4,
                  call=lambda f, x, c: f(x + c) - f(x)),
        ),
    ),
    Theorem(
        "M13",
        "chain rule",
        "by the chain rule through softmax, J^T (-t / s) = s sum(t) - t: both routes to M11 agree",
        "the quotient -t / s and the product with s round once more than M6",
        "J v without the mean, or s - t, which is right for targets that sum to 1 alone",
        (derivative("softmax", "VJP of -t / s", chain_rule, of_chain_rule, 8, call=through_softmax),),
    ),
)  # fmt: skip
