"""The theorems: each as a formula, with its proof, the lines of code, derivations as executed, and certified rows."""

import json
import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from itertools import groupby
from pathlib import Path
from typing import Any

from docs.generate import certificates, marks
from docs.generate.marks import Mark
from docs.generate.repository import RESULTS, url_of
from docs.generate.text import details, fenced, in_figures, plain, table
from jaxsoftmax.verify import THEOREMS, Row, Theorem

_EPS = 2.0**-52
_ADDRESS = re.compile(r"https?://\S+")


@cache
def formulas() -> Mapping[str, Any]:
    """Returns the data file: `groups` of numbers by title; of each of the `theorems` title, formula, note and proof."""
    return tomllib.loads(Path(__file__).with_name("theorems.toml").read_text("utf-8"))


def render(repository: str) -> str:
    """Returns the part of the page that is generated."""
    return "\n".join(
        f"## {group}\n\n" + "\n".join(_theorem(number, repository) for number in numbers)
        for group, numbers in formulas()["groups"].items()
    )


def _theorem(number: str, repository: str) -> str:
    entry = formulas()["theorems"][number]
    parts = [
        f"### {number}. {entry['title']} {{#{number.lower()}}}\n",
        displayed(number),
        f"{entry['note']}\n" if "note" in entry else "",
        _proof(entry.get("proof", ())),
        f"**In code:** {_linked(places(number), repository)}.\n",
        _checked(number, repository),
        _steps(number),
        *(_certified(theorem) for name, theorem in THEOREMS.items() if name.partition("-")[0] == number),
    ]
    return "\n".join(part for part in parts if part)


def displayed(number: str) -> str:
    """Returns a theorem's formula, one equation a line."""
    formula = formulas()["theorems"][number]["formula"].strip()
    return f"$$\n\\def\\arraystretch{{1.3}}\\begin{{gathered}}\n{formula}\n\\end{{gathered}}\n$$\n"


def _proof(steps: Sequence[Sequence[str]]) -> str:
    """Returns a list of the steps: each a reason, then the formula that it gives in lines of its own."""
    if not steps:
        return ""
    items = (f"{at}. {reason}:\n\n    $$\n    {formula}\n    $$\n" for at, (reason, formula) in enumerate(steps, 1))
    return "**Proof.**\n\n" + "\n".join(items)


def places(number: str) -> Sequence[Mark]:
    """Returns where a theorem is computed, once a function: in the package, or else in the experiments.

    Docstrings count only where no line of code carries the number.
    """
    of_package = [mark for mark in marks.of_package() if mark.theorem == number]
    found = of_package or [mark for mark in marks.of_source_documents() if mark.theorem == number]
    by_function: dict[tuple[str, str], Mark] = {}
    for mark in [mark for mark in found if mark.in_code] or found:
        by_function.setdefault((mark.path, mark.function), mark)
    return sorted(by_function.values(), key=lambda mark: (mark.path, mark.line))


def _linked(found: Iterable[Mark], repository: str) -> str:
    by_file = groupby(found, lambda mark: mark.path)
    return "; ".join(
        f"`{path}`: " + ", ".join(f"[`{mark.function}`]({url_of(repository, path, mark.line)})" for mark in of_file)
        for path, of_file in by_file
    )


@cache
def proved() -> Sequence[Mapping[str, Any]]:
    """Returns the derivations as `python -m experiments derivation` executed them."""
    return json.loads((RESULTS / "derivation.json").read_text("utf-8"))["measurements"]["proved"]


def _steps(number: str) -> str:
    chains = [chain for chain in proved() if number in chain["theorem"].split("/")]
    if not chains:
        return ""
    lines = sum(len(chain["lines"]) - 1 for chain in chains)
    ulps = max(line["difference"] for chain in chains for line in chain["lines"]) / _EPS
    count = _singular(f"{len(chains)} derivations, {lines} lines, each executed")
    summary = f"The same as the source documents derive it, in their own letters: {count}"
    worst = f"; the worst is off by {in_figures(ulps, 2)} ulps of float64"
    return details("quote", summary + worst, "\n".join(_chain(chain) for chain in chains))


def _singular(text: str) -> str:
    return re.sub(r"\b1 (derivation|line)s", r"1 \1", text)


def _chain(chain: Mapping[str, Any]) -> str:
    source = chain["source"]
    cited = f"[{plain(chain['document'])}]({source})" if _ADDRESS.fullmatch(source) else plain(source)
    title = chain["derivation"]
    return f"{plain(title[:1].upper() + title[1:])} ({cited}, in Chinese):\n\n" + fenced(
        "text", "\n".join(line["formula"] for line in chain["lines"])
    )


def _checked(number: str, repository: str) -> str:
    """Returns the command of a theorem's certificate, and the tests of it."""
    tests = _linked([mark for mark in marks.of_tests() if mark.theorem == number], repository)
    said = f"`jaxsoftmax verify --theorem {number} --verbose`"
    return f"**Checked by:** {said}{'; ' if tests else ''}{tests}.\n"


def _certified(theorem: Theorem) -> str:
    rows = [row for kept in certificates.kept() for row in kept.rows if row.theorem == theorem.number]
    worst = certificates.worst(certificates.by_digits(rows))
    held = f"{sum(row.passed for row in rows)} of {len(rows)} rows hold, with {' and '.join(certificates.names())}"
    if worst:
        held += (
            f"; of those judged by 50 digits the worst is {in_figures(worst.error)} of {in_figures(worst.bound)} ulps"
        )
    breaks = plain(theorem.typical_failure)
    said = f"`{theorem.statement}`\n\nThe bound: {plain(theorem.reason)}. What breaks it: {breaks}.\n\n"
    kind = "success" if all(row.passed for row in rows) else "failure"
    return details(kind, f"Certified as {theorem.number}: {held}", said + _rows_table(theorem))


def _rows_table(theorem: Theorem) -> str:
    names = certificates.names()
    claims = dict.fromkeys((claim.function, claim.quantity) for claim in theorem.claims)
    lines = []
    for function, quantity in claims:
        bounds = sorted(
            {each.bound for each in theorem.claims if (each.function, each.quantity) == (function, quantity)}
        )
        errors = [_worst_of(kept.rows, theorem.number, function, quantity) for kept in certificates.kept()]
        lines.append((f"`{function}`", plain(quantity), ", ".join(map(in_figures, bounds)), *errors))
    return table(("function", "quantity", "bound, ulps", *(f"worst, {name}" for name in names)), lines, len(names) + 1)


def _worst_of(rows: Iterable[Row], number: str, function: str, quantity: str) -> str:
    """Returns the worst error of a claim, on the function or on its forward-mode variant."""
    names = (function, f"forward_mode.{function}")
    of_claim = [row for row in rows if row.theorem == number and row.quantity == quantity and row.function in names]
    return certificates.error_of(certificates.by_digits(of_claim)) or "–"
