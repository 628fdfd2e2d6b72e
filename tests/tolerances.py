"""How far a result may lie from the exact one: one table, in ulps, the ruler that measures them, and the rows measured.

An ulp is the spacing of a dtype's numbers in the binade of the exact value, or of the size of the terms that a formula
adds where these may cancel. Results of 16 bits are formed in float32 and rounded once, hence half an ulp and the little
that float32 adds to it.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import mpmath
import numpy as np

from tests.tiers import in_tiers

DTYPES = ("bfloat16", "float16", "float32", "float64")
# float16, whose results are formed in float32 as those of bfloat16 are, and float64 run nightly.
in_every_dtype = in_tiers("dtype", DTYPES, first=["bfloat16", "float32"])

ULPS = {"bfloat16": 0.51, "float16": 0.51, "float32": 4.0, "float64": 4.0}

# Central differences of float64: 6e-11 by truncation, and 3e-11 by cancellation. Even 1e4 + STEP is exact.
FINITE_DIFFERENCE = 1e-9
STEP = 2.0**-17

# On a grid of 1/8 the differences of a row are exact, so that the judge sees the error of the formula alone.
ORDINARY_ROWS = [
    [0.5, -1.25, 2.0, 0.125, -0.5],
    [0.125, 0.0, -0.125, 0.25, 0.0],  # low scale
    [3.0, 2.875, -4.5, 1.0, 0.0],  # a near tie
    [1.0, 1.0, 1.0, -2.0, 0.0],  # ties
]
FINITE_ROWS = [
    *ORDINARY_ROWS,
    [10000.5, 9998.75, 10002.0, 10000.125, 9999.5],  # shift 1e4
    [0.0, 20.0, -1.0, 0.5, -2.0],  # gaps of 20, 40 and 80
    [0.0, 0.25, -0.5, 40.0, 0.0],
    [80.0, 0.0, -0.5, 1.0, 0.0],
]
ROWS = [*FINITE_ROWS, [0.5, -np.inf, 2.0, -np.inf, 1.0], [-np.inf, 1.5, -np.inf, -np.inf, -np.inf]]
CONFIDENT_ROWS = [
    [0.0, 30.0, 30.0, 0.0, -1.0],  # a tie
    [40.0, 39.0, 0.0, 0.0, 1.0],  # a near tie
    [-80.0, 0.0, -79.5, -78.0, -80.0],
    [-np.inf, 40.0, 0.0, -np.inf, -np.inf],
]

# The textbook formulas then need no care: a gap of 700 costs 304 digits, which leaves more than 50.
MP = mpmath.MPContext()
MP.dps = 380

_to_mpf = np.frompyfunc(MP.mpf, 1, 1)
exp, log, tanh = (np.frompyfunc(functools.cache(function), 1, 1) for function in (MP.exp, MP.log, MP.tanh))


def array(values: Any, dtype: str) -> np.ndarray:
    """NumPy's array, which unlike JAX's compiles nothing."""
    return np.array(values, jnp.dtype(dtype))


def exact(array: Any) -> np.ndarray:
    """The very numbers of `array`, as mpmath's in an object array."""
    array = np.asarray(array)
    return np.asarray(array if array.dtype == object else _to_mpf(array.astype(np.float64)), object)


def exact_softmax(x: Any) -> np.ndarray:
    """exp(x) over its sum, as the textbook has it (M4)."""
    e = exp(exact(x))
    return e / e.sum(-1, keepdims=True)


def exact_softmax_jacobian(x: Any) -> np.ndarray:
    """diag(s) - s s^T (M5)."""
    s = exact_softmax(x)
    return s[..., :, None] * (exact(np.eye(s.shape[-1])) - s[..., None, :])


def assert_close(got: Any, expected: Any, dtype: str, tolerance: float | None = None, size: Any = None) -> None:
    """`got` has that dtype and the shape of `expected`, and lies within the table's ulps (or those stated) of it.

    Of `size`, the size of the terms whose sum is expected, ulps count where it is given, instead of the sum's.
    XLA flushes what is below the least normal number of float32 and bfloat16 to 0, which counts as exact there.
    """
    assert str(got.dtype) == dtype
    assert got.shape == np.shape(expected)
    distances = _distances(got, expected, dtype, size)
    worst = np.unravel_index(np.argmax(distances), distances.shape) if distances.size else ()
    message = f"{np.max(distances, initial=0):.3g} ulps of {dtype}; the worst at {tuple(map(int, worst))}"
    assert np.max(distances, initial=0) <= (ULPS[dtype] if tolerance is None else tolerance), message


def precision(dtype: str) -> Any:
    """A context in which arrays of `dtype` exist."""
    return jax.enable_x64(dtype == "float64")


def loss_dtype(dtype: str) -> str:
    """Losses are at least float32."""
    return "float64" if dtype == "float64" else "float32"


def finite_differences(function: Any, x: Any) -> np.ndarray:
    """Central differences of `function` of a row, in every entry of the float64 row or rows `x`, in one batch."""
    size = np.shape(x)[-1]
    points = np.asarray(x)[..., None, :] + np.concatenate([STEP * np.eye(size), -STEP * np.eye(size)])
    values = np.asarray(jax.jit(jax.vmap(function))(points.reshape(-1, size)))
    values = values.reshape(*points.shape[:-1], *values.shape[1:])
    forward, backward = np.split(values, 2, points.ndim - 2)
    return np.moveaxis((forward - backward) / (2 * STEP), points.ndim - 2, -1)


def _distances(got: Any, expected: Any, dtype: str, size: Any) -> np.ndarray:
    size = expected if size is None else size
    entries = np.broadcast_arrays(exact(got), exact(expected), exact(size))
    info = jnp.finfo(dtype)
    triples = zip(*(array.flat for array in entries), strict=True)
    return np.array([_distance(*triple, info) for triple in triples]).reshape(entries[0].shape)


def _distance(got: Any, expected: Any, size: Any, info: Any) -> float:
    if not (MP.isfinite(got) and MP.isfinite(expected)):
        return 0.0 if got == expected or (MP.isnan(got) and MP.isnan(expected)) else float("inf")
    flushes, tiny = info.dtype != jnp.float16, float(info.tiny)
    if flushes and not got and abs(expected) < tiny:
        return 0.0
    spacing = MP.ldexp(1, max(MP.mag(size) - 1, int(info.minexp)) - int(info.nmant))
    return float(abs(got - expected) / (tiny if flushes and abs(size) < tiny else spacing))
