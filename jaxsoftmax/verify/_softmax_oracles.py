"""Exact forms and calls for: softmax and log-softmax: M4-M7, M10, M13, M21."""

import jax
import jax.numpy as jnp
import mpmath
import numpy as np

from jaxsoftmax.verify import _regimes
from jaxsoftmax.verify._oracle import ExactRow, Expected, exact, itself
from jaxsoftmax.verify._theorem import Inputs


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
    """J v, to the ulp of its terms (M6)."""
    return ExactRow(exact(x)).jacobian_product(exact(v))


def tail_product(x, v):
    """J v of a confident row, where no entry cancels, each to its own ulp (M21)."""
    return itself(jacobian_product(x, v).value)


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


def naive_lse(x):
    """The formula as printed (M8)."""
    return jnp.log(jnp.sum(jnp.exp(x)))


def naive_log_softmax(x):
    """The formula as printed (M10)."""
    return x - jnp.log(jnp.sum(jnp.exp(x)))


def shifts(dtype: str) -> list[Inputs]:
    x = _regimes.ordinary(dtype)
    shifts = np.array([[1e4], [-1e4], [2.0], [-64.0]])
    return [Inputs("shift 1e4", (x, np.broadcast_to(shifts, x.shape)))]


def top_directions(dtype: str) -> list[Inputs]:
    ((name, x),) = _regimes.tails(dtype).items()
    forty = np.array([[40.0, 0, *[-900.0] * (_regimes.VOCAB - 2)]])
    return [
        Inputs(regime, (x, np.eye(x.shape[-1])[_regimes.top_labels(x)]))
        for regime, x in {name: x, "[40, 0, ...]": forty}.items()
    ]


def tail_directions(dtype: str) -> list[Inputs]:
    """`top_directions`, and one that is 1 everywhere but at a class far below the dominant one."""
    falling = np.array([[0.0, -20, -30, -40, *[-900.0] * (_regimes.VOCAB - 4)]])
    nearly_constant = Inputs("a nearly constant direction", (falling, 1 + np.eye(_regimes.VOCAB)[[3]]))
    return [*top_directions(dtype), nearly_constant]


def rounded(dtype: str) -> list[Inputs]:
    x = np.random.default_rng(9).normal(0, 20, (4, _regimes.VOCAB))
    return [Inputs("rounded differences", (x.astype(dtype).astype(np.float64),))]


def jacobian_of_kept(x, where):
    """diag(s) - s s^T among the elements that the mask lets in, and 0 elsewhere (M5)."""
    return jacobian(np.where(where, x, -np.inf))


def kept(dtype: str) -> list[Inputs]:
    x = _regimes.ordinary(dtype)
    return [Inputs("where", (x, np.arange(x.shape[-1]) % 3 != np.arange(len(x))[:, None] % 3))]
