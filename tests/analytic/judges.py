"""The regimes, the table of tolerances, and the high-precision judge of the closed forms."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import mpmath
import numpy as np

DTYPES = [jnp.bfloat16, jnp.float16, jnp.float32, jnp.float64]

# Rows on a grid of 1/8: the gap of two logits is exact, so that the judge sees the error of the formula alone.
REGIMES = {
    "ordinary": [[0.5, -1.25, 2.0, 0.125, -0.5], [3.0, 2.875, -4.5, 1.0, 0.0]],
    "low_scale": [[0.125, 0.0, -0.125, 0.25, 0.0], [0.0, 0.0, 0.125, 0.0, 0.0]],
    "shifted": [[10000.5, 9998.75, 10002.0, 10000.125, 9999.5], [10003.0, 10002.875, 9995.5, 10001.0, 10000.0]],
    "gap_20": [[20.0, 0.0, -1.0, 0.5, -2.0], [0.0, 0.25, 20.0, 1.0, -3.5]],
    "gap_40": [[0.0, 40.0, 0.0, -1.0, 0.5], [40.0, 39.0, 0.0, 0.0, 1.0]],
    "gap_80": [[0.0, 1.0, 80.0, 0.5, 0.0], [-80.0, 0.0, -79.5, -78.0, -80.0]],
    "ties": [[1.0, 1.0, 1.0, -2.0, 0.0], [0.0, 30.0, 30.0, 0.0, -1.0]],
    "masked": [[0.5, -np.inf, 2.0, -np.inf, 1.0], [-np.inf, 40.0, 0.0, -np.inf, -np.inf]],
}

# Against 50 digits, in units of eps(dtype) times the sum of the magnitudes that the formula adds.
TOLERANCE_ULPS = {
    "bfloat16": 0.6,  # one rounding of a float32 result
    "float16": 0.6,  # one rounding of a float32 result
    "float32": 4.0,
    "float64": 5.0,
}


def logits_of(regime: str, dtype: Any) -> np.ndarray:
    return np.asarray(REGIMES[regime], jnp.dtype(dtype))


def precision(dtype: Any) -> Any:
    """A context in which arrays of `dtype` exist."""
    return jax.enable_x64(jnp.dtype(dtype) == jnp.float64)


_MP = mpmath.mp.__class__()
_MP.dps = 50
_to_mp = np.frompyfunc(lambda number: _MP.mpf(float(number)), 1, 1)
_exp = np.frompyfunc(_MP.exp, 1, 1)
log = np.frompyfunc(_MP.log, 1, 1)


def exact(array: Any) -> np.ndarray:
    """The very numbers of `array`, as 50-digit numbers in an object array."""
    return _to_mp(np.asarray(array, np.float64))


class ExactRow(NamedTuple):
    probs: np.ndarray  # s
    complement: np.ndarray  # 1 - s, as the sum of the other probabilities


def exact_row(x: Any) -> ExactRow:
    """Softmax of each row, and what it leaves to one, to 50 digits."""
    weights = _exp(exact(x))
    total = weights.sum(-1, keepdims=True)
    return ExactRow(weights / total, sum_of_others(weights) / total)


def sum_of_others(terms: np.ndarray) -> np.ndarray:
    """For each entry, the sum of the rest of its row."""
    vocab = terms.shape[-1]
    return terms @ exact(1 - np.eye(vocab))


def ulps(actual: Any, expected: np.ndarray, scale: np.ndarray | None = None) -> float:
    """The largest error in units of eps(dtype) · scale, scale being |expected| unless given."""
    info = jnp.finfo(actual.dtype)
    # Below these the dtype has no relative accuracy to lose; XLA flushes float32 and float64 at `tiny`.
    least = info.smallest_subnormal if actual.dtype == jnp.float16 else info.tiny
    unit = np.maximum(float(info.eps) * abs(expected if scale is None else scale), exact(float(least)))
    return float(np.max(abs(exact(actual) - expected) / unit))


def assert_close(actual: Any, expected: np.ndarray, scale: np.ndarray | None = None) -> None:
    error = ulps(actual, expected, scale)
    assert error <= TOLERANCE_ULPS[str(actual.dtype)], f"{error:.3g} ulps"


def textbook_softmax(x: jax.Array) -> jax.Array:
    weights = jnp.exp(x - jax.lax.stop_gradient(jnp.max(x, -1, keepdims=True)))
    return weights / jnp.sum(weights, -1, keepdims=True)


def textbook_cross_entropy(x: jax.Array, t: jax.Array) -> jax.Array:
    return -jnp.sum(t * jnp.log(textbook_softmax(x)), -1)


def finite_differences(function: Callable[[np.ndarray], Any], x: np.ndarray) -> np.ndarray:
    """Central differences of `function` at the float64 row `x`; the last axis counts the entries of `x`."""
    step = 2.0**-14  # a power of two, which even 1e4 + step holds exactly
    steps = step * np.eye(x.shape[-1])
    return np.stack([(function(x + h) - function(x - h)) / (2 * step) for h in steps], -1)
