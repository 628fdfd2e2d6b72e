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
_OWN = "jaxsoftmax"
PEERS = {"optax": "optax", "torch": "PyTorch"}


@cache
def cases() -> tuple[Mapping[str, Any], ...]:
    """Returns every case: a row of logits, an option, and what each loss makes of them."""
    found = tomllib.loads(Path(__file__).with_name("infinities.toml").read_text("utf-8"))
    return tuple(
        {"logits": logits, "option": option, "row": found["rows"][logits], "keywords": found["keywords"][option]}
        | {_column(library, loss): outcome for library, of in by_library.items() for loss, outcome in of.items()}
        for option, by_logits in found["outcomes"].items()
        for logits, by_library in by_logits.items()
    )


def render() -> str:
    """Returns a table for each option."""
    options = dict.fromkeys(case["option"] for case in cases())
    return "\n".join(
        details("abstract", option or "without options", _table([case for case in cases() if case["option"] == option]))
        for option in options
    )


def _table(of_option: list[Mapping[str, Any]]) -> str:
    columns = [
        name for library in (_OWN, *PEERS) for loss in LOSSES if (name := _column(library, loss)) in of_option[0]
    ]
    lines = [(case["logits"], *(_cell(case[column]) for column in columns)) for case in of_option]
    return table(("logits", *map(_title, columns)), lines)


def _column(library: str, loss: str) -> str:
    return loss if library == _OWN else f"{library}_{loss}"


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
