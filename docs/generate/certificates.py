"""The kept certificates, read back: what `jaxsoftmax verify --json` wrote under experiments/results/certificate."""

import json
from collections.abc import Iterable
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any

from docs.generate.repository import RESULTS
from docs.generate.text import figures
from jaxsoftmax.verify import Row

FOLDER = RESULTS / "certificate"
_DIGITS = "mpmath, 50 digits"
_FIELDS = [field.name for field in fields(Row)]


@dataclass(frozen=True)
class Certificate:
    """One record."""

    name: str  # "jax 0.12.0.1"
    made_on: str
    passed: bool
    rows: tuple[Row, ...]


@cache
def kept(folder: Path = FOLDER) -> tuple[Certificate, ...]:
    """Returns every certificate of the folder, by its file's name.

    Raises:
      FileNotFoundError: there is none.
    """
    paths = sorted(folder.glob("*.json"))
    if not paths:
        raise FileNotFoundError(f"no certificate in {folder}: write one with jaxsoftmax verify --json FILE")
    return tuple(_certificate(json.loads(path.read_text("utf-8"))) for path in paths)


def _certificate(document: dict[str, Any]) -> Certificate:
    versions = document["versions"]
    rows = tuple(
        Row(**{name: row[name] for name in _FIELDS} | {"error": float(row["error"])}) for row in document["rows"]
    )
    made_on = f"{document['device']}, " + ", ".join(f"{name} {version}" for name, version in versions.items())
    return Certificate(f"jax {versions['jax']}", made_on, document["passed"], rows)


def by_digits(rows: Iterable[Row]) -> list[Row]:
    """Returns the rows judged by 50 digits: the bounds of other judges are those of the judges, not of the function."""
    return [row for row in rows if row.judge == _DIGITS]


def worst(rows: Iterable[Row]) -> Row | None:
    """Returns the row nearest its bound, or furthest beyond it; None of no rows."""
    return max(rows, key=lambda row: row.error / row.bound if row.bound else row.error, default=None)


def error_of(rows: Iterable[Row]) -> str:
    """Returns the error of the worst row, in ulps."""
    row = worst(rows)
    return "" if row is None else figures(row.error)
