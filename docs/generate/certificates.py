"""The kept certificates, read back: what `jaxsoftmax verify --json` wrote under experiments/results/certificate."""

import json
from collections.abc import Iterable
from functools import cache
from operator import attrgetter
from pathlib import Path

from docs.generate.repository import RESULTS
from docs.generate.text import in_figures, plain, table, versioned
from jaxsoftmax.verify import Report, Row

FOLDER = RESULTS / "certificate"
_DIGITS = "mpmath, 50 digits"


@cache
def kept() -> tuple[Report, ...]:
    """Returns every certificate, by its file's name.

    Raises:
      FileNotFoundError: there is none.
    """
    return tuple(_read(FOLDER, "--json FILE").values())


@cache
def of_peers() -> dict[str, Report]:
    """Returns the certificates of other libraries, by name.

    Raises:
      FileNotFoundError: there is none.
    """
    return _read(FOLDER / "peers", "--against")


def _read(folder: Path, options: str) -> dict[str, Report]:
    paths = sorted(folder.glob("*.json"))
    if not paths:
        raise FileNotFoundError(f"no certificate in {folder}: write one with jaxsoftmax verify {options}")
    return {path.stem: Report.from_dict(json.loads(path.read_text("utf-8"))) for path in paths}


def render_peers() -> str:
    """Returns what each function of another library comes to, and what that was made on."""
    rows = [
        (name, f"`{verdict.function}`", plain(verdict.summary))
        for name, report in of_peers().items()
        for verdict in report.verdicts
    ]
    made = "".join(f"- {name}: {plain(made_on(report))}\n" for name, report in of_peers().items())
    return f"{table(('library', 'function', 'what its certificate says'), rows, 0)}\nMade on:\n\n{made}"


def names() -> list[str]:
    """Returns what the columns of the kept certificates' errors are headed: "jax 0.12.0.1"."""
    return [f"jax {report.versions['jax']}" for report in kept()]


def made_on(report: Report) -> str:
    """Returns the device and the versions."""
    return f"{report.device}, {versioned(report.versions)}"


def by_digits(rows: Iterable[Row]) -> list[Row]:
    """Returns the rows judged by 50 digits: the bounds of other judges are those of the judges, not of the function."""
    return [row for row in rows if row.judge == _DIGITS]


def worst(rows: Iterable[Row]) -> Row | None:
    """Returns the row nearest its bound, or furthest beyond it; None of no rows."""
    return max(rows, key=attrgetter("bound_fraction"), default=None)


def error_of(rows: Iterable[Row]) -> str:
    """Returns the error of the worst row, in ulps."""
    row = worst(rows)
    return "" if row is None else in_figures(row.error)
