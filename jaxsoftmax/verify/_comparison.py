"""A result beside what is expected, and what can be said of one that fails."""

from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxsoftmax.verify import _oracle
from jaxsoftmax.verify._implementations import said
from jaxsoftmax.verify._record import Row
from jaxsoftmax.verify._regimes import VOCAB
from jaxsoftmax.verify._theorem import Claim, Inputs

_LONGEST_CASE = 300  # characters: longer inputs are named by their regime alone


def of_regime(result: Any, rows: int, start: int, expected: _oracle.Expected) -> Any:
    """A regime's rows of a batch's result; of anything but an array for each row, what is wrong."""
    if not isinstance(result, np.ndarray | np.generic | jax.Array):
        return result
    got = np.asarray(result)
    if got.ndim == 0 or len(got) != rows:
        return _WrongShapeError(f"shape {got.shape} for {rows} rows, expected {(rows, *expected.value.shape[1:])}")
    return got[start : start + len(expected.value)]


@dataclass(frozen=True)
class Comparison:
    """An array beside what is expected, or why they can't be compared."""

    got: Any
    expected: _oracle.Expected
    errors: np.ndarray  # in ulps, of every entry; infinite where nothing could be compared
    reason: str = ""

    @property
    def error(self) -> float:
        """The largest error, in ulps."""
        return float(np.max(self.errors, initial=0.0))


def compared(result: Any, expected: _oracle.Expected, dtype: str) -> Comparison:
    """The comparison of a result, which may be an exception, or anything that a rule returns."""
    if isinstance(result, np.ndarray):
        reason = _oracle.mismatch(result, expected, dtype)
    else:
        reason = _raised(result) if isinstance(result, BaseException) else f"{type(result).__name__}, expected an array"
    errors = np.asarray(np.inf) if reason else _oracle.ulps(np.asarray(result), expected, dtype)
    return Comparison(result, expected, errors, reason)


def explained(row: Row, claim: Claim, inputs: Inputs, seen: Comparison) -> Row:
    """A row that fails, with its first failing input and what came of that."""
    if seen.reason:
        return replace(row, detail=seen.reason)
    bad = ~(seen.errors <= row.bound)
    first = int(np.argmax(bad.reshape(len(bad), -1).any(1)))
    worst = np.argmax(np.where(bad[first], seen.errors[first], -1.0)) if bad.ndim > 1 else 0
    where = (first, *map(int, np.unravel_index(worst, bad.shape[1:])))
    detail = _oracle.difference(seen.got, seen.expected, where) + _recognised(claim, inputs, seen, first, row.dtype)
    return replace(row, detail=detail, **_case(claim, inputs, first, _lost(seen)))


def _recognised(claim: Claim, inputs: Inputs, seen: Comparison, first: int, dtype: str) -> str:
    """What is wrong, if a known mistake gives the very numbers."""
    if claim.mistakes is None:
        return ""
    got, bad = np.ravel(seen.got[first]), np.ravel(~(seen.errors[first] <= claim.bound))
    for name, numbers in claim.mistakes(*(array[first] for array in inputs.arrays)):
        mistaken = numbers.ravel()
        if bad[: mistaken.value.size].any() and np.all(
            _oracle.ulps(got[: mistaken.value.size], mistaken, dtype) <= claim.bound
        ):
            return f": {name}"
    return ""


def _lost(seen: Comparison) -> np.ndarray:
    """Of each row, whether an entry has no digit right."""
    no_digit = ~(seen.errors * float(jnp.finfo(seen.got.dtype).eps) < 0.5)
    return np.any(no_digit.reshape(len(no_digit), -1), axis=1)


def _shown(array: np.ndarray) -> str:
    """An input as text; integer arrays are named as labels."""
    name = ("labels " if array.ndim else "label ") if array.dtype.kind in "iu" else ""
    return name + np.array2string(array, threshold=8, edgeitems=3, separator=", ")


def _case(claim: Claim, inputs: Inputs, first: int, lost: np.ndarray) -> dict[str, Any]:
    """The first failing input as text; of confident rows also its gap, the gap before, and where digits are lost."""
    arrays = [array[first] for array in inputs.arrays]
    shown = " ".join(" and ".join(map(_shown, arrays)).split())
    case = {"case": shown if len(shown) <= _LONGEST_CASE else ""}
    of_rows = claim.rowwise and arrays[0].shape == (VOCAB,)
    if not inputs.regime.startswith("confident gap") or not of_rows:
        return case
    gaps = [float(top - second) for second, top in np.sort(inputs.arrays[0], -1)[:, -2:]]
    lost_from = gaps[int(np.argmax(lost))] if lost.any() else None
    return case | {"gap": gaps[first], "holds_to": gaps[first - 1] if first else None, "lost_from": lost_from}


class _WrongShapeError(Exception):
    """A result that doesn't have a row for each row of inputs."""


def _raised(error: BaseException) -> str:
    return str(error) if isinstance(error, _WrongShapeError) else said(error).splitlines()[0]


def worst_entry(errors: np.ndarray) -> tuple[int, ...]:
    return tuple(map(int, np.unravel_index(np.argmax(errors), errors.shape)))
