"""A table of what `jaxsoftmax bench --target --json` wrote under experiments/results/compiled."""

import json
import shlex
from collections.abc import Mapping
from functools import cache
from typing import Any

from docs.generate.benchmarks import cases, shape_of
from docs.generate.repository import RESULTS
from docs.generate.text import details, plain, table

FOLDER = RESULTS / "compiled"
_OWN = "jaxsoftmax"


@cache
def records() -> tuple[Mapping[str, Any], ...]:
    """Returns every record, by its file's name."""
    return tuple(json.loads(path.read_text("utf-8")) for path in sorted(FOLDER.glob("*.json")))


def render() -> str:
    """Returns one table for all targets, and how each record was made."""
    if not records():  # in a source distribution
        return ""
    by_target = [{_name(of_case): of_case for of_case in map(_rows, cases(record["rows"]))} for record in records()]
    header = ("shape", "dtype", "function", "quantity", *(record["target"].split(":")[1] for record in records()))
    lines = [
        (*name, *(_cell(cases_of_target.get(name, {})) for cases_of_target in by_target))
        for name in dict.fromkeys(name for cases_of_target in by_target for name in cases_of_target)
    ]
    made = "\n\n".join(
        f"`{shlex.join(record['command'])}`\n\nCompiled on {record['date'].partition(' ')[0]} for "
        f"{record['target']}, {plain(', '.join(f'{name} {v}' for name, v in record['versions'].items()))}. "
        f"Time: {record['time']}."
        for record in records()
    )
    return f"{table(header, lines, len(records()))}\n{details('note', 'How it was made', made)}"


def _rows(by_subject: Mapping[str, Any]) -> dict[str, Any]:
    own = by_subject[_OWN]
    base = next((by_subject[name] for name in ("optax", "jax") if name in by_subject), own)
    return {"own": own, "base": base}


def _name(rows: Mapping[str, Any]) -> tuple[str, ...]:
    case = rows["own"]["case"]
    return shape_of(rows["own"]), case["dtype"], case["function"], case["quantity"]


def _cell(rows: Mapping[str, Any]) -> str:
    """The ratio to the base, the time, and the temporary memory."""
    if not rows or rows["own"]["failure"]:
        return "no room" if rows else ""
    own = rows["own"]
    return f"{own['to_base']:.2f} ({own['seconds'] * 1e3:.3g} ms, {own['temp_bytes'] / 2**20:.1f} MiB)"
