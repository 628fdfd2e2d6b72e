"""What the losses make of NaN, of infinite logits and of extreme weights, from the table that the tests check."""

import math
import tomllib
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from docs.generate.text import details, in_figures, table

# The loss, and its gradient in the logits.
Outcome = tuple[float, list[float]]
LOSSES = {"integer": "integer label", "float": "float labels"}
PEERS = {"optax": "optax", "torch": "PyTorch"}


@cache
def cases() -> tuple[Mapping[str, Any], ...]:
    """Returns every case: a row of logits, an option, and what each loss makes of them."""
    path = Path(__file__).with_name("infinities.toml")
    return tuple(tomllib.loads(path.read_text("utf-8"))["case"])


def render() -> str:
    """Returns a table for each option."""
    options = dict.fromkeys(case["option"] for case in cases())
    return "\n".join(
        details("abstract", option or "without options", _table([case for case in cases() if case["option"] == option]))
        for option in options
    )


def _table(of_option: list[Mapping[str, Any]]) -> str:
    columns = [
        name for peer in ("", *PEERS) for loss in LOSSES if (name := f"{peer}_{loss}".strip("_")) in of_option[0]
    ]
    lines = [(case["logits"], *(_cell(case[column]) for column in columns)) for case in of_option]
    return table(("logits", *map(_title, columns)), lines)


def _title(column: str) -> str:
    peer, _, loss = column.rpartition("_")
    return f"{PEERS[peer]}, {LOSSES[loss]}" if peer else LOSSES[loss]


def _cell(outcome: Outcome) -> str:
    loss, gradient = outcome
    entries = "NaN" if all(map(math.isnan, gradient)) else f"({', '.join(map(_number, gradient))})"
    return f"{_number(loss)}; {entries}"


def _number(value: float) -> str:
    if math.isnan(value):
        return "NaN"
    return ("−" if value < 0 else "") + in_figures(abs(value), 2)
