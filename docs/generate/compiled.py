"""The table and figure of what `jaxsoftmax bench --target --json` wrote under experiments/results/compiled."""

import json
import shlex
from collections.abc import Mapping
from functools import cache
from typing import Any

from docs.generate import compiled_figure
from docs.generate.benchmarks import Row, cases, shape_of
from docs.generate.figures import SCHEMES, path_of, pictures
from docs.generate.repository import RESULTS
from docs.generate.text import details, plain, table, versioned

FOLDER = RESULTS / "compiled"


@cache
def records() -> tuple[Mapping[str, Any], ...]:
    """Returns every record, by its file's name."""
    return tuple(json.loads(path.read_text("utf-8")) for path in sorted(FOLDER.glob("*.json")))


def render() -> str:
    """Returns one table for all targets, and how each record was made."""
    if not records():  # in a source distribution
        return ""
    by_target: dict[str, dict[tuple[str, ...], Row]] = {}
    for record in records():
        rows = (by_subject["jaxsoftmax"] for by_subject in cases(record["rows"]))
        by_target.setdefault(record["target"].split(":")[1], {}).update((_name(row), row) for row in rows)
    header = ("shape", "dtype", "function", "quantity", *by_target)
    lines = [
        (*name, *(_cell(rows.get(name)) for rows in by_target.values()))
        for name in dict.fromkeys(name for rows in by_target.values() for name in rows)
    ]
    made = "\n\n".join(
        f"`{shlex.join(record['command'])}`\n\nCompiled on {record['date'].partition(' ')[0]} for "
        f"{record['target']}, {plain(versioned(record['versions']))}. "
        f"Time: {record['time']}."
        for record in records()
    )
    alt = "the fused head compiled, value and gradients in bfloat16: time above its floor against temporary memory"
    shown = f"{pictures('compiled', alt)}\n\n{table(header, lines, len(by_target))}"
    return f"{shown}\n{details('note', 'How it was made', made)}"


_DRAWN = {"jaxsoftmax": "integer-labels", "jaxsoftmax, 256 MiB": "lean"}


def figures() -> Mapping[str, str]:
    """Returns the figure of the fused head as SVG, by its path on the site, for light and for dark pages."""
    drawn: dict[str, dict[str, dict[str, compiled_figure.Point]]] = {}
    for record in records():
        chip = record["target"].split(":")[1]
        for by_subject in cases(record["rows"]):
            case = by_subject["jaxsoftmax"]["case"]
            if case["kind"] == "linear" and case["quantity"] == "value and gradient" and case["shape"][0] == 8192:
                points = drawn.setdefault(shape_of(by_subject["jaxsoftmax"]), {}).setdefault(chip, {})
                points |= {name: _point(by_subject[subject]) for name, subject in _drawn_of(case["function"])}
    return {path_of("compiled", scheme): compiled_figure.draw(drawn, scheme) for scheme in SCHEMES}


def _drawn_of(function: str) -> list[tuple[str, str]]:
    own = [(name, "jaxsoftmax") for name, of in _DRAWN.items() if of == function]
    return [("optax", "optax"), *own] if function == "integer-labels" else own


def _point(row: Row) -> compiled_figure.Point:
    return row["temp_bytes"] / 2**30, row["to_floor"]


def _name(row: Row) -> tuple[str, ...]:
    case = row["case"]
    return shape_of(row), case["dtype"], case["function"], case["quantity"]


def _cell(row: Row | None) -> str:
    """The ratio to the base, the time, of the head its ratio to the floor, the memory, and a device's collectives."""
    if row is None:
        return ""
    if row["failure"]:
        return "no room"
    ratio = "no room" if row["to_base"] is None else f"{row['to_base']:.2f}"
    floor = "" if row["to_floor"] is None else f", {row['to_floor']:.2f} × floor"
    said = sum(row.get("collectives", {}).values())
    collectives = f", {said / 2**20:.0f} MiB in collectives" if said else ""
    return f"{ratio} ({row['seconds'] * 1e3:.3g} ms{floor}, {row['temp_bytes'] / 2**20:.1f} MiB{collectives})"
