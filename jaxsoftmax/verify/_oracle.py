"""Exact values of one row's functions, at 50 digits, and errors against them in ulps."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax.numpy as jnp
import mpmath
import numpy as np
from numpy.typing import ArrayLike

DIGITS = 50
_ZERO, _ONE, _INFINITY = mpmath.mpf(0), mpmath.mpf(1), mpmath.mpf("inf")


def _rounded(values: np.ndarray) -> np.ndarray:
    """To float64; an object that stands in several places is rounded once."""
    known: dict[int, float] = {}
    for value in values.flat:
        if id(value) not in known:
            known[id(value)] = float(value)
    return np.array([known[id(value)] for value in values.flat], np.float64).reshape(values.shape)


@dataclass(frozen=True)
class Expected:
    """An exact result, and the magnitude to whose ulp it is promised: of itself, or of the terms that are rounded.

    Sums and products of results, and of results with exact numbers, carry magnitudes along: that of A @ e is |A| @ |e|.
    """

    value: Any  # array-like of numbers; kept as an array of mpmath's
    _magnitude: Any = None  # None: that of the value
    parts: tuple[tuple[str, tuple[int, ...]], ...] = ()  # names and shapes of what is joined end to end in each row
    __array_ufunc__ = None  # arrays leave a product with a result to the result

    def __post_init__(self) -> None:
        value = np.asarray(self.value, object)
        object.__setattr__(self, "value", value)
        if self._magnitude is not None:
            object.__setattr__(self, "_magnitude", np.broadcast_to(self._magnitude, value.shape))

    @cached_property
    def magnitude(self) -> np.ndarray:
        """The magnitude of each entry, which is never negative."""
        return abs(self.value) if self._magnitude is None else self._magnitude

    def __add__(self, other: Any) -> "Expected":
        other = _result(other)
        return Expected(self.value + other.value, self.magnitude + other.magnitude, self.parts or other.parts)

    __radd__ = __add__

    def __neg__(self) -> "Expected":
        return Expected(-self.value, self._magnitude, self.parts)

    def __sub__(self, other: Any) -> "Expected":
        return self + -_result(other)

    def __rsub__(self, other: Any) -> "Expected":
        return _result(other) + -self

    def __mul__(self, other: Any) -> "Expected":
        other = _result(other)
        return Expected(self.value * other.value, self.magnitude * other.magnitude, self.parts or other.parts)

    __rmul__ = __mul__

    def __truediv__(self, divisor: Any) -> "Expected":
        return Expected(self.value / divisor, self.magnitude / abs(divisor), self.parts)

    def __matmul__(self, other: Any) -> "Expected":
        other = _result(other)
        return Expected(self.value @ other.value, self.magnitude @ other.magnitude)

    def __rmatmul__(self, matrix: np.ndarray) -> "Expected":
        return _result(matrix) @ self

    def __getitem__(self, index: Any) -> "Expected":
        return Expected(self.value[index], self.magnitude[index])

    @property
    def T(self) -> "Expected":
        """Transposed."""
        return Expected(self.value.T, self.magnitude.T)

    def ravel(self) -> "Expected":
        """Flattened."""
        return Expected(np.ravel(self.value), np.ravel(self.magnitude))

    def sum(self, axis: int | None = None) -> "Expected":
        """The sum of all entries, or along an axis."""
        return Expected(np.sum(self.value, axis), np.sum(self.magnitude, axis))

    @cached_property
    def high(self) -> np.ndarray:
        """The value, rounded to float64."""
        return _rounded(self.value)

    @cached_property
    def low(self) -> np.ndarray:
        """What the rounding left, so that high + low holds 32 digits."""
        known: dict[int, float] = {}
        for value, high in zip(self.value.flat, self.high.flat, strict=True):
            if id(value) not in known:
                known[id(value)] = float(value - mpmath.mpf(high)) if math.isfinite(high) else 0.0
        return np.array([known[id(value)] for value in self.value.flat]).reshape(self.value.shape)

    @cached_property
    def high_magnitude(self) -> np.ndarray:
        """The magnitude, rounded to float64; 0 where it isn't finite."""
        magnitude = np.abs(self.high) if self._magnitude is None else _rounded(self._magnitude)
        return np.where(np.isfinite(magnitude), magnitude, 0)

    @classmethod
    def stack(cls, rows: "Sequence[Expected]") -> "Expected":
        """The results of several rows."""
        value = np.stack([row.value for row in rows])
        to_itself = all(row._magnitude is None for row in rows)
        return cls(value, None if to_itself else np.stack([row.magnitude for row in rows]), rows[0].parts)

    def place(self, where: tuple[int, ...]) -> str:
        """An index of an entry as a person reads it: of joined parts the part's name, and the index in that."""
        *row, start = map(int, where)
        for name, shape in self.parts:
            size = math.prod(shape)
            if start < size:
                index = ", ".join(str(int(i)) for i in np.unravel_index(start, shape))
                return " ".join([name, *([f"[{index}]"] if index else []), *(f"of row {i}" for i in row)])
            start -= size
        return str([int(i) for i in where])


def _result(other: Any) -> Expected:
    """A result, or an exact number or array as one."""
    return other if isinstance(other, Expected) else itself(other)


def exact(array: ArrayLike) -> np.ndarray:
    """The very numbers of a machine array, as mpmath numbers: equal ones are one object."""
    distinct, places = np.unique(np.asarray(array, np.float64), return_inverse=True)
    return np.array([mpmath.mpf(value) for value in distinct], object)[places.reshape(-1)].reshape(np.shape(array))


def itself(value: Any) -> Expected:
    """A result promised to its own last bits."""
    return Expected(value)


@dataclass(frozen=True)
class ExactRow:
    """A row of logits, in mpmath. Equal logits are computed once."""

    x: np.ndarray

    @cached_property
    def _distinct(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        seen = {id(value): value for value in self.x}
        places = {value: i for i, value in enumerate(dict.fromkeys(seen.values()))}
        place_of = {name: places[value] for name, value in seen.items()}
        index = np.array([place_of[id(value)] for value in self.x], int)
        return np.array(list(places), object), index, np.bincount(index, minlength=len(places))

    @cached_property
    def maximum(self) -> mpmath.mpf:
        """The largest logit; 0 for a row of -inf alone."""
        return max((value for value in self._distinct[0] if value != -_INFINITY), default=_ZERO)

    @cached_property
    def _exponentials(self) -> np.ndarray:
        return np.array([mpmath.exp(value - self.maximum) for value in self._distinct[0]], object)

    def _sum_without(self, place: int, terms: np.ndarray) -> mpmath.mpf:
        """The sum over the row of `terms`, one for each distinct logit, with one entry of those left out."""
        counts = self._distinct[2].copy()
        counts[place] -= 1
        return sum((int(n) * term for n, term in zip(counts, terms, strict=True) if n), _ZERO)

    @cached_property
    def remainder(self) -> mpmath.mpf:
        """The sum of the exponentials with one maximum left out."""
        places = np.flatnonzero(self._distinct[0] == self.maximum)
        return self._sum_without(places[0], self._exponentials) if places.size else -_ONE

    @cached_property
    def _distinct_probs(self) -> np.ndarray:
        return self._exponentials / (1 + self.remainder) if self.remainder >= 0 else self._exponentials

    @cached_property
    def probs(self) -> np.ndarray:
        """Softmax (M4); 0 for a row of -inf alone."""
        return self._distinct_probs[self._distinct[1]]

    @cached_property
    def lse(self) -> mpmath.mpf:
        """Log-sum-exp (M18)."""
        return -_INFINITY if self.remainder < 0 else self.maximum + mpmath.log1p(self.remainder)

    @cached_property
    def nll(self) -> np.ndarray:
        """Minus log-softmax (M19)."""
        return ((self.maximum - self._distinct[0]) + mpmath.log1p(self.remainder))[self._distinct[1]]

    def complement(self, i: int) -> mpmath.mpf:
        """1 - s_i, as the sum of the others."""
        return self._sum_without(self._distinct[1][i], self._distinct_probs)

    @cached_property
    def jacobian(self) -> np.ndarray:
        """diag(s) - s s^T (M5)."""
        matrix = -np.outer(self.probs, self.probs)
        for i in range(len(self.x)):
            matrix[i, i] = self.probs[i] * self.complement(i)
        return matrix

    def jacobian_product(self, v: np.ndarray) -> Expected:
        """J v = s * (v - <s, v>), to the ulp of its terms s_j (|v_j| + <s, |v|>) (M6).

        Less the entry of v at the maximum throughout, so that a confident row's tails keep their digits (M21).
        """
        centred = v - v[np.argmax(self.x)]
        value = self.probs * (centred - np.dot(self.probs, centred))
        return Expected(value, self.probs * (np.abs(v) + np.dot(self.probs, np.abs(v))))

    def label_gradient(self, label: int) -> np.ndarray:
        """Softmax minus one-hot, s - e_y (M11, M20)."""
        gradient = self.probs.copy()
        gradient[label] = -self.complement(label)
        return gradient


def end_to_end(parts: Mapping[str, Expected]) -> Expected:
    """Named results flattened, one after the other."""
    return Expected(
        np.concatenate([part.ravel().value for part in parts.values()]),
        np.concatenate([part.ravel().magnitude for part in parts.values()]),
        tuple((name, part.value.shape) for name, part in parts.items()),
    )


def ulps(got: np.ndarray, expected: Expected, dtype: str) -> np.ndarray:
    """The error of each entry in ulps of the expected magnitude; infinite where a NaN or infinity is out of its place.

    An ulp of y is eps |y|, with eps of `got`'s dtype, or the smallest normal number where |y| is below it: XLA CPU and
    accelerators flush subnormal numbers to 0.
    """
    info, wide = jnp.finfo(got.dtype), got.astype(np.float64)
    smallest = float(info.smallest_normal)
    ulp = np.where(expected.high_magnitude < smallest, smallest, float(info.eps) * expected.high_magnitude)
    ulp = np.maximum(ulp, np.finfo(np.float64).smallest_subnormal)
    with np.errstate(invalid="ignore", over="ignore"):
        error = np.abs((wide - expected.high) - expected.low) / ulp
    special = ~np.isfinite(expected.high) | ~np.isfinite(wide)
    same = (wide == expected.high) | (np.isnan(wide) & np.isnan(expected.high))
    return np.where(same & (special | (expected.low == 0)), 0, np.where(special, np.inf, error))


def mismatch(got: np.ndarray, expected: Expected, dtype: str) -> str:
    """Why an array can't be compared with what is expected; empty if it can."""
    if got.shape != expected.value.shape:
        return f"shape {got.shape}, expected {expected.value.shape}"
    if not jnp.issubdtype(got.dtype, jnp.floating):
        return f"dtype {got.dtype}, expected a floating one"
    if jnp.finfo(got.dtype).eps > jnp.finfo(dtype).eps:
        return f"dtype {got.dtype}, expected at least {dtype}"
    return ""


def difference(got: np.ndarray, expected: Expected, where: tuple[int, ...]) -> str:
    """An entry beside what it should be."""
    exactly = mpmath.nstr(mpmath.mpf(expected.value[where]), 17)
    return f"got {float(got[where])!r}, expected {exactly} at {expected.place(where)}"
