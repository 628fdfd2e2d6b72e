"""A table of what `jaxsoftmax bench --target --json` wrote under experiments/results/compiled."""

import json
import shlex
from collections.abc import Mapping
from functools import cache
from typing import Any

from docs.generate.benchmarks import Row, cases, shape_of
from docs.generate.repository import RESULTS
from docs.generate.text import details, plain, table

FOLDER = RESULTS / "compiled"


@cache
def records() -> tuple[Mapping[str, Any], ...]:
    """Returns every record, by its file's name."""
    return tuple(json.loads(path.read_text("utf-8")) for path in sorted(FOLDER.glob("*.json")))


def render() -> str:
    """Returns one table for all targets, and how each record was made."""
    if not records():  # in a source distribution
        return ""
    by_target = [
        {_name(row): row for row in (by_subject["jaxsoftmax"] for by_subject in cases(record["rows"]))}
        for record in records()
    ]
    header = ("shape", "dtype", "function", "quantity", *(record["target"].split(":")[1] for record in records()))
    lines = [
        (*name, *(_cell(rows.get(name)) for rows in by_target))
        for name in dict.fromkeys(name for rows in by_target for name in rows)
    ]
    made = "\n\n".join(
        f"`{shlex.join(record['command'])}`\n\nCompiled on {record['date'].partition(' ')[0]} for "
        f"{record['target']}, {plain(', '.join(f'{name} {v}' for name, v in record['versions'].items()))}. "
        f"Time: {record['time']}."
        for record in records()
    )
    return f"{table(header, lines, len(records()))}\n{details('note', 'How it was made', made)}"


def _name(row: Row) -> tuple[str, ...]:
    case = row["case"]
    return shape_of(row), case["dtype"], case["function"], case["quantity"]


def _cell(row: Row | None) -> str:
    """The ratio to the base, the time, of the head its ratio to the floor, and the temporary memory."""
    if row is None:
        return ""
    if row["failure"]:
        return "no room"
    ratio = "no room" if row["to_base"] is None else f"{row['to_base']:.2f}"
    floor = "" if row["to_floor"] is None else f", {row['to_floor']:.2f} × floor"
    return f"{ratio} ({row['seconds'] * 1e3:.3g} ms{floor}, {row['temp_bytes'] / 2**20:.1f} MiB)"
