"""The results of all experiments and benchmarks in a directory, read back from their JSON and PNG files."""

import base64
import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from matplotlib.image import imread


class UnreadableResultsError(Exception):
    """The results are missing or broken; the message is one line for the user."""


@dataclass(frozen=True)
class Picture:
    """A figure as a data URI."""

    name: str
    uri: str
    width: int  # pixels
    height: int


@dataclass(frozen=True)
class Result:
    """What one experiment wrote."""

    experiment: str
    claim: str
    passed: bool
    checks: dict[str, bool]
    conclusion: list[str]
    quick: bool
    seconds: float
    resumed: bool  # so that the seconds are of its last start
    command: str
    seed: int
    versions: dict[str, str]
    machine: dict[str, Any]
    figures: list[Picture]


@dataclass(frozen=True)
class Benchmark:
    """What one run of the benchmark wrote, in short: this library's times as ratios to optax's, over its cases."""

    name: str
    command: str
    date: str
    versions: dict[str, str]
    cases: int
    fastest: float
    median: float
    slowest: float


_KINDS: dict[str, tuple[type, ...]] = {
    "experiment": (str,),
    "claim": (str,),
    "passed": (bool,),
    "checks": (dict,),
    "conclusion": (list,),
    "quick": (bool,),
    "seconds": (int, float),
    "command": (str,),
    "seed": (int,),
    "versions": (dict,),
    "machine": (dict,),
    "figures": (list,),
}


def gather(directory: Path, order: Sequence[str]) -> list[Result]:
    """Returns every experiment's result in ``directory``, those named in ``order`` first.

    Raises:
        UnreadableResultsError: if there is none, or one is broken or lacks a figure.
    """
    if not directory.is_dir():
        raise UnreadableResultsError(f"expected a directory of results, got {directory}")
    results = [_result(path) for path in sorted(directory.glob("*.json"))]
    if not results:
        raise UnreadableResultsError(f"no results in {directory}: run python -m experiments first")
    rank = {name: index for index, name in enumerate(order)}
    return sorted(results, key=lambda result: rank.get(result.experiment, len(rank)))


def gather_benchmarks(directory: Path) -> list[Benchmark]:
    """Returns every benchmark in ``directory`` in short, none if there is no such directory.

    Raises:
        UnreadableResultsError: if one is broken.
    """
    return [_benchmark(path) for path in sorted(directory.glob("*.json"))]


def _result(path: Path) -> Result:
    document = _document(path)
    for key, kinds in _KINDS.items():
        if key not in document:
            raise UnreadableResultsError(f"{path} is no result: it lacks {key!r}")
        if not isinstance(document[key], kinds):
            expected, got = " or ".join(kind.__name__ for kind in kinds), type(document[key]).__name__
            raise UnreadableResultsError(
                f"{path} is no result of an experiment: expected {key!r} as {expected}, got {got}"
            )
    kept: dict[str, Any] = {key: document[key] for key in _KINDS}
    kept["resumed"] = document.get("resumed", False)
    kept["figures"] = [_picture(path, str(name)) for name in document["figures"]]
    return Result(**kept)


def _document(path: Path) -> Mapping[str, Any]:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UnreadableResultsError(f"cannot read {path}: {error.strerror or error}") from error
    except ValueError as error:
        raise UnreadableResultsError(f"{path} is not JSON: {error}") from error
    if not isinstance(document, dict):
        raise UnreadableResultsError(f"{path}: expected a JSON object, got {type(document).__name__}")
    return document


def _picture(result: Path, name: str) -> Picture:
    path = result.parent / name
    try:
        height, width = imread(path).shape[:2]
        encoded = base64.b64encode(path.read_bytes()).decode("ascii")
    except FileNotFoundError as error:
        raise UnreadableResultsError(f"{result} names a figure that is missing: {path}") from error
    except (OSError, SyntaxError, ValueError) as error:  # Pillow raises a SyntaxError for a broken PNG
        raise UnreadableResultsError(f"{result} names a figure that cannot be read: {path}: {error}") from error
    return Picture(path.stem, f"data:image/png;base64,{encoded}", width, height)


def _benchmark(path: Path) -> Benchmark:
    document = _document(path)
    try:
        ratios = [
            row["to_base"]["median"] for row in document["rows"] if row["subject"] == "jaxsoftmax" and row["to_base"]
        ]
        return Benchmark(
            name=path.stem,
            command=shlex.join(document["command"]),
            date=document["date"],
            versions=document["versions"],
            cases=len(ratios),
            fastest=min(ratios),
            median=median(ratios),
            slowest=max(ratios),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise UnreadableResultsError(f"{path} is no record of a benchmark ({type(error).__name__}: {error})") from error
