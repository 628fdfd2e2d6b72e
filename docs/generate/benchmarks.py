"""Tables and figures of what `jaxsoftmax bench --json` wrote under experiments/results/bench."""

import json
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from docs.generate import benchmark_figures
from docs.generate.figures import SCHEMES, path_of, pictures
from docs.generate.repository import RESULTS
from docs.generate.text import details, in_figures, plain, table, versioned

FOLDER = RESULTS / "bench"
_OWN = "jaxsoftmax"
_KINDS = {"linear": "The fused head, over hidden states and a kernel", "plain": "The loss over given logits"}
_DRAWN = "value and gradient"
_DRAWN_OF = ("integer-labels", _DRAWN, "ordinary")
_MEBIBYTE = 2.0**20
_BASES = ("optax", "jax", "without parts")

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Record:
    """One file."""

    stem: str
    command: str
    made_on: str
    jax: str  # its version
    rows: Sequence[Row]

    def of_kind(self, kind: str) -> list[Row]:
        """Returns the rows in which that loss was measured."""
        return [row for row in self.rows if row["case"]["kind"] == kind]


@cache
def records() -> tuple[Record, ...]:
    """Returns every record, by its file's name."""
    return tuple(_record(path.stem, json.loads(path.read_text("utf-8"))) for path in sorted(FOLDER.glob("*.json")))


def _record(stem: str, document: Mapping[str, Any]) -> Record:
    machine, versions = document["machine"], document["versions"]
    made_on = [f"{machine['cpu']}, {machine['cores']} cores", versioned(versions), document["date"].partition(" ")[0]]
    return Record(stem, shlex.join(document["command"]), ", ".join(made_on), versions["jax"], document["rows"])


def cases(rows: Iterable[Row]) -> list[dict[str, Row]]:
    """Returns the rows of each case by subject."""
    grouped: dict[tuple[Any, ...], dict[str, Row]] = {}
    for row in rows:
        case = row["case"]
        key = (tuple(case["shape"]), case["dtype"], case["function"], case["quantity"], case["logits"])
        grouped.setdefault(key, {})[row["subject"]] = row
    return list(grouped.values())


def shape_of(row: Row) -> str:
    """Returns tokens × embed × vocab, in one line."""
    return "\N{NO-BREAK SPACE}×\N{NO-BREAK SPACE}".join(map(str, row["case"]["shape"]))


def figures() -> Mapping[str, str]:
    """Returns the figures as SVG, by their paths on the site, for light and for dark pages."""
    drawn = {}
    for kind in _KINDS:
        of_kind = {record.jax: _points(record.of_kind(kind)) for record in _longest(kind)}
        for scheme in SCHEMES:
            drawn[path_of(kind, scheme)] = benchmark_figures.draw(of_kind, scheme)
    return drawn


def _longest(kind: str) -> list[Record]:
    """Returns, of each version of JAX in order, the record with the most rows of the kind, or the last such by name."""
    by_length = sorted(records(), key=lambda record: (len(record.of_kind(kind)), record.stem))
    longest = {record.jax: record for record in by_length if record.of_kind(kind)}
    return [longest[version] for version in sorted(longest)]


def _points(rows: Sequence[Row]) -> dict[str, dict[str, tuple[float, float, float]]]:
    """Returns the quartiles of each subject's ratios to the base, by case and subject."""
    points: dict[str, dict[str, tuple[float, float, float]]] = {}
    for by_subject in cases(rows):
        case = by_subject[_OWN]["case"]
        if (case["function"], case["quantity"], case["logits"]) != _DRAWN_OF:
            continue
        label = f"{shape_of(by_subject[_OWN])}, {case['dtype']}"
        points[label] = {
            subject: (row["to_base"]["lower"], row["to_base"]["median"], row["to_base"]["upper"])
            for subject, row in by_subject.items()
            if subject != base_of(by_subject) and row["to_base"]
        }
    return points


def render() -> str:
    """Returns the figures and tables of every record."""
    return "\n".join(_of_kind(kind, title) for kind, title in _KINDS.items())


def _of_kind(kind: str, title: str) -> str:
    alt = f"{title}: time of {_DRAWN} as a ratio to optax's, by shape and dtype"
    tables = "\n".join(_of_record(record, rows) for record in records() if (rows := record.of_kind(kind)))
    return f"### {title}\n\n{pictures(kind, alt)}\n\n{tables}"


def _of_record(record: Record, rows: Sequence[Row]) -> str:
    by_case = cases(rows)
    bases = {base_of(by_subject) for by_subject in by_case}
    subjects = [name for name in dict.fromkeys(row["subject"] for row in rows) if name not in (_OWN, *bases)]
    header = ("shape", "dtype", "quantity", "base", "this library", *subjects, "temp MiB", "base's", "error", "base's")
    lines = [_line(by_subject, [_OWN, *subjects]) for by_subject in by_case]
    made = f"`{record.command}`\n\nMade on {plain(record.made_on)}.\n"
    anchor = f"{record.stem.replace('.', '-')}-{rows[0]['case']['kind']}"
    title = f"#### `{record.stem}`, jax {record.jax} {{#{anchor}}}"
    return f"{title}\n\n{table(header, lines, len(header) - 4)}\n{details('note', 'How it was made', made)}"


def _line(by_subject: Mapping[str, Row], subjects: Sequence[str]) -> tuple[str, ...]:
    name = base_of(by_subject)
    own, base = by_subject[_OWN], by_subject[name]
    case = own["case"]
    ratios = (ratio(by_subject.get(subject)) for subject in subjects)
    memory = (mebibytes(own["temp_bytes"]), mebibytes(base["temp_bytes"]))
    errors = (_error(own["gradient_error"]), _error(base["gradient_error"]))
    function = [] if case["function"] == "integer-labels" else [case["function"]]
    logits = [] if case["logits"] == "ordinary" else [case["logits"]]
    quantity = ", ".join([*function, case["quantity"], *logits])
    return (shape_of(own), case["dtype"], quantity, name, *ratios, *memory, *errors)


def base_of(by_subject: Mapping[str, Row]) -> str:
    """Returns what a case's ratios are taken to: optax, jax for what optax has not, or the loss without its parts."""
    return next(name for name in _BASES if name in by_subject)


def ratio(row: Row | None) -> str:
    """Returns the median of the ratios to the base, with the quartiles."""
    if row is None or row["to_base"] is None:
        return ""
    spread = row["to_base"]
    return f"{spread['median']:.2f} ({spread['lower']:.2f}–{spread['upper']:.2f})"


def mebibytes(size: int | None) -> str:
    """Returns a size in MiB."""
    return "" if size is None else in_figures(size / _MEBIBYTE)


def _error(error: float | str | None) -> str:
    return "" if error is None else f"{float(error):.1e}"
