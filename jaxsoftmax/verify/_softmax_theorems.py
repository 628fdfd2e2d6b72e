"""Softmax and log-softmax: M4-M7, M10, M13, M21."""

import jax
import jax.numpy as jnp
import mpmath
import numpy as np

from jaxsoftmax.verify import _regimes
from jaxsoftmax.verify._oracle import Expected, ExactRow, exact, itself
from jaxsoftmax.verify._theorem import Claim, Inputs, Theorem

ALL = ("float32", "float64", "bfloat16", "float16")


def plain(regimes: dict[str, np.ndarray]) -> list[Inputs]:
    """Rows of logits and nothing else."""
    return [Inputs(name, (x,)) for name, x in regimes.items()]


def with_directions(regimes: dict[str, np.ndarray]) -> list[Inputs]:
    """Rows of logits, and a vector for each; the last row's is all ones."""
    return [Inputs(name, (x, _regimes.directions(x))) for name, x in regimes.items()]


def small(dtype: str) -> dict[str, np.ndarray]:
    """The well-conditioned regimes and the confident one."""
    return _regimes.well_conditioned(dtype) | _regimes.tails(dtype)


def everything(dtype: str) -> dict[str, np.ndarray]:
    """Every regime."""
    return _regimes.with_ragged(dtype) | _regimes.tails(dtype) | _regimes.shifted_tails(dtype)


def probs(x):
    """Softmax (M4)."""
    return itself(ExactRow(exact(x)).probs)


def probs_of_rounded(x):
    """Softmax of logits whose differences round, which moves exp(x_j - m) by up to |x_j - m| ulps."""
    row = ExactRow(exact(x))
    gaps = np.abs(row.x - row.maximum)
    return Expected(row.probs, row.probs * (1 + (gaps + np.dot(row.probs, gaps)) / 4))


def jacobian(x):
    """diag(s) - s s^T (M5)."""
    return itself(ExactRow(exact(x)).jacobian)


def jacobian_product(x, v):
    """J v = s * (v - <s, v>), to the ulp of the terms s_j (|v_j| + <s, |v|>) (M6)."""
    row, v = ExactRow(exact(x)), exact(v)
    size = row.probs * (np.abs(v) + np.dot(row.probs, np.abs(v)))
    return Expected(row.jacobian @ v, size)


def tail_product(x, v):
    """J e_k for the dominant k, whose entries sum to 0 (M21)."""
    return itself(ExactRow(exact(x)).jacobian @ exact(v))


def eigenvalues(x):
    """Of diag(s) - s s^T, ascending: one is 0, the others positive; to the ulp of the largest (M6)."""
    row = ExactRow(exact(x))
    values = np.array(sorted(mpmath.eigsy(mpmath.matrix(row.jacobian.tolist()), eigvals_only=True)), object)
    return Expected(values, np.full(len(values), values[-1], object))


def no_difference(x, c):
    """softmax(x + c) - softmax(x) = 0, to the ulp of softmax (M7)."""
    del c
    return Expected(exact(np.zeros(len(x))), ExactRow(exact(x)).probs)


def log_probs(x):
    """Log-softmax (M10)."""
    return itself(-ExactRow(exact(x)).nll)


def log_jacobian(x):
    """I - 1 s^T (M10)."""
    row = ExactRow(exact(x))
    matrix = -np.outer(np.full(len(x), mpmath.mpf(1), object), row.probs)
    for i in range(len(x)):
        matrix[i, i] = row.complement(i)
    return itself(matrix)


def log_vjp(x, g):
    """g - s sum(g) (M10)."""
    row, g = ExactRow(exact(x)), exact(g)
    return Expected(g - row.probs * sum(g), np.abs(g) + row.probs * sum(np.abs(g)))


def log_jvp(x, v):
    """v - <s, v> 1 (M10)."""
    row, v = ExactRow(exact(x)), exact(v)
    return Expected(v - np.dot(row.probs, v), np.abs(v) + np.dot(row.probs, np.abs(v)))


def chain_rule(x, t):
    """J^T (-t / s) = s sum(t) - t (M13)."""
    row, t = ExactRow(exact(x)), exact(t)
    return Expected(row.probs * sum(t) - t, row.probs * sum(np.abs(t)) + np.abs(t))


def through_softmax(f, x, t):
    """<-t / s, softmax(x)> with s held constant, whose gradient is J^T (-t / s)."""
    s = jax.lax.stop_gradient(f(x))
    return jnp.sum(f(x) * jnp.where(t == 0, 0, -t / s), -1)


def masked_call(f, x):
    """A mask in place of -inf logits."""
    return f(jnp.where(jnp.isneginf(x), 100.0, x).astype(x.dtype), where=~jnp.isneginf(x))


def naive_softmax(x):
    """The formula as printed (M4)."""
    return jnp.exp(x) / jnp.sum(jnp.exp(x))


def naive_log_softmax(x):
    """The formula as printed (M10)."""
    return x - jnp.log(jnp.sum(jnp.exp(x)))


def _shifts(dtype: str) -> list[Inputs]:
    x = _regimes.ordinary(dtype)
    shifts = np.array([[1e4], [-1e4], [2.0], [-64.0]])
    return [Inputs("shift 1e4", (x, np.broadcast_to(shifts, x.shape)))]


def _top_directions(dtype: str) -> list[Inputs]:
    ((name, x),) = _regimes.tails(dtype).items()
    forty = np.array([[40.0, 0, *[-900.0] * (_regimes.VOCAB - 2)]])
    return [
        Inputs(regime, (x, np.eye(x.shape[-1])[_regimes.top_labels(x)]))
        for regime, x in {name: x, "[40, 0, ...]": forty}.items()
    ]


def _rounded(dtype: str) -> list[Inputs]:
    x = np.random.default_rng(9).normal(0, 20, (4, _regimes.VOCAB))
    return [Inputs("rounded differences", (x.astype(dtype).astype(np.float64),))]


SOFTMAX_THEOREMS = (
    Theorem(
        "M4",
        "s_i = exp(x_i) / sum_k exp(x_k), and 0 where masked",
        "exp is good to 1 ulp, the sum to 2, the quotient to 1/2",
        "exp(x - LSE) rounds LSE at the size of the shift; exp(x) overflows",
        (
            Claim("softmax", "value", 0, lambda f, x: f(x), probs, lambda d: plain(everything(d)), 4),
            Claim(
                "softmax",
                "value along axis 0",
                0,
                lambda f, x: f(x.T, axis=0).T,
                probs,
                lambda d: plain(_regimes.well_conditioned(d)),
                4,
            ),
            Claim(
                "softmax",
                "value, masked",
                0,
                masked_call,
                probs,
                lambda d: plain({"-inf masks": _regimes.masked(d)}),
                4,
            ),
            Claim("softmax", "value, any logits", 0, lambda f, x: f(x), probs_of_rounded, _rounded, 4),
        ),
    ),
    Theorem(
        "M5",
        "the Jacobian of softmax is diag(s) - s s^T: s_i (1 - s_i) on the diagonal, -s_i s_j off it",
        "two probabilities at 3 ulps each would make 6; half of it cancels",
        "a missing or transposed factor",
        (
            Claim(
                "softmax",
                "Jacobian",
                1,
                lambda f, x: f(x),
                jacobian,
                lambda d: plain(_regimes.well_conditioned(d) | _regimes.many(d)),
                4,
                textbook=naive_softmax,
            ),
            Claim(
                "analytic.softmax_jacobian",
                "value",
                0,
                lambda f, x: f(x),
                jacobian,
                lambda d: plain(_regimes.well_conditioned(d)),
                4,
            ),
        ),
    ),
    Theorem(
        "M6",
        "J = J^T, J 1 = 0, J is positive semidefinite of rank n - 1; J v = J^T v = s * (v - <s, v>)",
        "as M5, to the ulp of the terms s_j (|v_j| + <s, |v|>)",
        "J v without the mean, or a cotangent dropped or doubled",
        (
            Claim(
                "softmax",
                "VJP",
                1,
                lambda f, x, g: jnp.sum(g * f(x), -1),
                jacobian_product,
                lambda d: with_directions(_regimes.well_conditioned(d)),
                4,
                textbook=lambda x, g: jnp.sum(g * naive_softmax(x)),
            ),
            Claim(
                "softmax",
                "JVP",
                0,
                lambda f, x, v: jax.jvp(f, (x,), (v,))[1],
                jacobian_product,
                lambda d: with_directions(_regimes.well_conditioned(d)),
                4,
            ),
            Claim(
                "softmax",
                "eigenvalues of the Jacobian",
                0,
                lambda f, x: jnp.linalg.eigvalsh(jax.jacrev(f)(x)),
                eigenvalues,
                lambda d: plain({"ordinary": _regimes.ordinary(d)}),
                16,
                rowwise=False,
            ),
            Claim(
                "analytic.softmax_jvp",
                "value",
                0,
                lambda f, x, v: f(x, v),
                jacobian_product,
                lambda d: with_directions(_regimes.well_conditioned(d)),
                4,
            ),
            Claim(
                "analytic.softmax_vjp",
                "value",
                0,
                lambda f, x, v: f(x, v),
                jacobian_product,
                lambda d: with_directions(_regimes.well_conditioned(d)),
                4,
            ),
        ),
    ),
    Theorem(
        "M7",
        "softmax(x + c 1) = softmax(x)",
        "two roundings of M4",
        "exp(x) overflows, or the maximum isn't subtracted",
        (
            Claim(
                "softmax", "softmax(x + c) - softmax(x)", 0, lambda f, x, c: f(x + c) - f(x), no_difference, _shifts, 4
            ),
        ),
    ),
    Theorem(
        "M10",
        "log_softmax(x) = x - LSE(x) 1, its Jacobian I - 1 s^T; VJP g - s sum(g), JVP v - <s, v> 1",
        "log1p is good to 2 ulps; s to 4",
        "the Jacobian transposed (it isn't symmetric), or a mean taken of the wrong vector",
        (
            Claim("log_softmax", "value", 0, lambda f, x: f(x), log_probs, lambda d: plain(_regimes.with_ragged(d)), 4),
            Claim(
                "log_softmax",
                "Jacobian",
                1,
                lambda f, x: f(x),
                log_jacobian,
                lambda d: plain(_regimes.well_conditioned(d)),
                8,
                textbook=naive_log_softmax,
            ),
            Claim(
                "log_softmax",
                "VJP",
                1,
                lambda f, x, g: jnp.sum(jnp.where(jnp.isneginf(x), 0, g * f(x)), -1),
                lambda x, g: log_vjp(x, np.where(np.isneginf(x), 0, g)),
                lambda d: with_directions(_regimes.well_conditioned(d)),
                6,
                textbook=lambda x, g: jnp.sum(g * naive_log_softmax(x)),
            ),
            Claim(
                "log_softmax",
                "JVP",
                0,
                lambda f, x, v: jax.jvp(f, (x,), (v,))[1],
                log_jvp,
                lambda d: with_directions({"ordinary": _regimes.ordinary(d), "ties": _regimes.ties(d)}),
                6,
            ),
            Claim(
                "analytic.log_softmax_jacobian",
                "value",
                0,
                lambda f, x: f(x),
                log_jacobian,
                lambda d: plain(_regimes.well_conditioned(d)),
                8,
            ),
            Claim(
                "analytic.log_softmax_jvp",
                "value",
                0,
                lambda f, x, v: f(x, v),
                log_jvp,
                lambda d: with_directions({"ordinary": _regimes.ordinary(d), "ties": _regimes.ties(d)}),
                6,
            ),
            Claim(
                "analytic.log_softmax_vjp",
                "value",
                0,
                lambda f, x, v: f(x, v),
                log_vjp,
                lambda d: with_directions(_regimes.well_conditioned(d)),
                6,
            ),
        ),
    ),
    Theorem(
        "M13",
        "by the chain rule through softmax, J^T (-t / s) = s sum(t) - t: both routes to M11 agree",
        "the quotient -t / s and the product with s round once more than M6",
        "as M6",
        (
            Claim(
                "softmax",
                "VJP of -t / s",
                1,
                through_softmax,
                chain_rule,
                lambda d: [
                    Inputs("ordinary", (x := _regimes.ordinary(d), _regimes.targets_of(x, k)))
                    for k in ("distribution", "signed")
                ],
                8,
            ),
        ),
    ),
    Theorem(
        "M21",
        "centred at the dominant entry, J v, its transpose and I - 1 s^T keep their tails; J e_k sums to 0",
        "as M5 and M10, of each entry itself, however confident the row",
        "v - <s, v> and s - s^2 cancel where s is near 1 (jax#40344)",
        (
            Claim("softmax", "Jacobian", 1, lambda f, x: f(x), jacobian, lambda d: plain(_regimes.tails(d)), 4),
            Claim("softmax", "VJP", 1, lambda f, x, g: jnp.sum(g * f(x), -1), tail_product, _top_directions, 4),
            Claim(
                "log_softmax",
                "value",
                0,
                lambda f, x: f(x),
                log_probs,
                lambda d: plain(_regimes.tails(d) | _regimes.separators(d)),
                4,
            ),
            Claim("log_softmax", "Jacobian", 1, lambda f, x: f(x), log_jacobian, lambda d: plain(_regimes.tails(d)), 8),
            Claim(
                "analytic.softmax_jacobian",
                "value",
                0,
                lambda f, x: f(x),
                jacobian,
                lambda d: plain(_regimes.tails(d)),
                8,
            ),
            Claim("analytic.softmax_vjp", "value", 0, lambda f, x, v: f(x, v), tail_product, _top_directions, 8),
        ),
    ),
    Theorem(
        "M4-low",
        "probabilities and log-probabilities of bfloat16 and float16 logits are formed in float32 and rounded once",
        "half an ulp of the result's own dtype, and what is left of the float32 errors",
        "exponentials or sums in 8 or 11 bits",
        (
            Claim(
                "softmax",
                "value",
                0,
                lambda f, x: f(x),
                probs,
                lambda d: plain(small(d)),
                1,
                dtypes=_regimes.LOW_PRECISION,
            ),
            Claim(
                "softmax",
                "Jacobian",
                1,
                lambda f, x: f(x),
                jacobian,
                lambda d: plain(small(d)),
                1,
                dtypes=_regimes.LOW_PRECISION,
            ),
            Claim(
                "log_softmax",
                "value",
                0,
                lambda f, x: f(x),
                log_probs,
                lambda d: plain(small(d)),
                1,
                dtypes=_regimes.LOW_PRECISION,
            ),
            Claim(
                "log_softmax",
                "Jacobian",
                1,
                lambda f, x: f(x),
                log_jacobian,
                lambda d: plain(small(d)),
                1,
                dtypes=_regimes.LOW_PRECISION,
            ),
        ),
    ),
)
