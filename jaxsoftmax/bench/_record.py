"""What a benchmark records: rows, and the record that holds them, as plain data and back."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from types import GenericAlias
from typing import Any, TypeVar, get_origin, get_type_hints

from jaxsoftmax.bench._case import Case
from jaxsoftmax.bench._timing import Spread


@dataclass(frozen=True)
class Row:
    """One subject on one case. What was not measured, or cannot be, is None."""

    case: Case
    subject: str  # "jaxsoftmax", a peer, or "floor"
    rounds: int = 0
    seconds: Spread | None = None
    to_base: Spread | None = None  # quartiles of the time ratio to `Case.base`, within each round
    to_floor: Spread | None = None
    compile_seconds: float | None = None
    temp_bytes: int | None = None  # as XLA has planned them
    output_bytes: int | None = None
    peak_bytes: int | None = None  # by which one call raised the peak of a fresh process
    gradient_error: float | None = None  # in norm, relative to float64
    worst_token_error: float | None = None  # the same of the worst token's gradient in its logits
    failure: str = ""  # the first line of the exception


@dataclass(frozen=True)
class Record:
    """Every row of a run, and what it was made on."""

    command: list[str]
    date: str
    machine: dict[str, Any]
    versions: dict[str, str]
    environment: dict[str, str]
    absent: dict[str, str]
    rows: tuple[Row, ...]

    def as_dict(self) -> dict[str, Any]:
        """The record as plain data; an error of nan or infinity becomes a string."""
        document = asdict(self)
        for row in document["rows"]:
            for name in ("gradient_error", "worst_token_error"):
                if row[name] is not None and not math.isfinite(row[name]):
                    row[name] = str(row[name])
        return document


def record_from(document: Any) -> Record:
    """Returns the record that `as_dict` has made plain data of.

    Raises:
      ValueError: it is no such data.
    """
    try:
        return typed(Record(**document | {"rows": tuple(_row(row) for row in document["rows"])}))
    except (ArithmeticError, AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"no record of a benchmark ({type(error).__name__}: {error})") from error


def _row(row: Mapping[str, Any]) -> Row:
    spreads = {
        name: None if row[name] is None else Spread(**{at: float(value) for at, value in row[name].items()})
        for name in ("seconds", "to_base", "to_floor")
    }
    errors = {name: None if row[name] is None else float(row[name]) for name in ("gradient_error", "worst_token_error")}
    return typed(Row(**{**row, **spreads, **errors, "case": case_from(row["case"])}))


def case_from(case: Any) -> Case:
    """Returns the case that `asdict` has made plain data of."""
    return Case(**case | {"shape": tuple(map(int, case["shape"]))})


_Made = TypeVar("_Made")


def typed(made: _Made) -> _Made:
    """Returns an object of a dataclass whose fields are of their types, at least on the outside."""
    for name, hint in get_type_hints(type(made)).items():
        value, kind = getattr(made, name), get_origin(hint) if isinstance(hint, GenericAlias) else hint
        if not isinstance(value, kind):
            raise TypeError(f"{name} is {value!r:.40}")
    return made
