"""Every line of the source documents' derivations is an equality, executed in float64.

Each derivation is a list of expressions e₁ = e₂ = … , one printed line each. The first is the textbook value, or its
derivative by JAX; where the library computes it, the last lines are its. Wrong lines are planted too: a check that
cannot fail proves nothing.
"""

from collections.abc import Callable, Sequence
from functools import partial

import jax
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from rich.markup import escape
from rich.progress import Progress
from rich.table import Table

from experiments.derivation.equalities import (
    TOLERANCE_ULPS,
    CheckedLine,
    Derivation,
    Document,
    Point,
    check,
    draw_points,
)
from experiments.derivation.source_documents import DOCUMENTS
from experiments.runner.experiment import Experiment, Options, Outcome

_EPS = float(np.finfo(np.float64).eps)
_CLASSES = (2, 5, 16)
_CLASSES_QUICK = (5,)
_POINTS = 64

Checked = list[tuple[Derivation, list[CheckedLine]]]


def measure(options: Options, progress: Progress) -> Outcome:
    """Executes every derivation at random points, and every planted wrong line."""
    with jax.enable_x64(True):
        rng = np.random.default_rng(options.seed)
        classes = _CLASSES_QUICK if options.quick else _CLASSES
        batches = [draw_points(rng, n, _POINTS) for n in classes]
        task = progress.add_task("documents", total=2 * len(DOCUMENTS) * len(batches))
        advance = partial(progress.advance, task)
        proved = [(document, check_all(document.derivations, batches, advance)) for document in DOCUMENTS]
        planted = [(document, check_all(document.planted, batches, advance)) for document in DOCUMENTS]
    return judge(proved, planted, classes)


def check_all(
    derivations: Sequence[Derivation], batches: Sequence[Point], advance: Callable[[], None] = lambda: None
) -> Checked:
    """Returns each derivation with its lines, the worst over the batches of points."""
    batched = []
    for points in batches:
        batched.append(check(derivations, points))
        advance()
    return [
        (derivation, [max(lines, key=lambda checked: checked.difference) for lines in zip(*chains, strict=True)])
        for derivation, *chains in zip(derivations, *batched, strict=True)
    ]


def judge(
    proved: list[tuple[Document, Checked]], planted: list[tuple[Document, Checked]], classes: Sequence[int]
) -> Outcome:
    """Turns the checked lines into a verdict: all printed lines hold, and every planted line is caught."""
    equalities, wrong = _equalities(proved), _equalities(planted)
    failed = [checked for checked in equalities if not checked.holds]
    caught = [checked for checked in wrong if not checked.holds]
    of_library = sum(checked.line.names_the_library for checked in equalities)
    theorems = sorted(
        {name for _, checked in proved for derivation, _ in checked for name in derivation.theorem.split("/")},
        key=lambda name: int(name.removeprefix("M")),
    )
    worst = max(equalities, key=lambda checked: checked.difference)
    conclusion = [
        f"{len(equalities) - len(failed)} of {len(equalities)} equalities hold ({len(equalities) - of_library} of the "
        f"documents, {of_library} of this library), in {sum(len(checked) for _, checked in proved)} derivations of "
        f"{', '.join(theorems)}, at {_POINTS} random points for each of n = {', '.join(map(str, classes))} classes.",
        f"The worst line is off by {worst.ulps:.1f} ulps of float64, {worst.difference:.1e} relative "
        f"(allowed: {TOLERANCE_ULPS:.0f} ulps): {worst.line.formula}.",
        f"{len(caught)} of {len(wrong)} lines planted wrong are caught; the least wrong of them is off by "
        f"{min(checked.difference for checked in wrong):.1e} relative.",
    ]
    return Outcome(
        checks={"every line holds": not failed, "every planted wrong line is caught": len(caught) == len(wrong)},
        conclusion=conclusion,
        measurements={"proved": _as_records(proved), "planted": _as_records(planted), "classes": list(classes)},
        tables=[
            _table(proved, "Derivations", "ok", "WRONG"),
            _table(planted, "Planted wrong lines", "MISSED", "caught"),
        ],
        figures={"derivation": _figure(proved, planted)},
    )


def _equalities(documents: list[tuple[Document, Checked]]) -> list[CheckedLine]:
    """Returns every line after the first of its derivation: the first only says what is derived."""
    return [checked for _, derivations in documents for _, chain in derivations for checked in chain[1:]]


def _as_records(documents: list[tuple[Document, Checked]]) -> list[dict[str, object]]:
    return [
        {
            "document": document.name,
            "source": document.source,
            "theorem": derivation.theorem,
            "derivation": derivation.title,
            "lines": [
                {"formula": checked.line.formula, "difference": checked.difference, "ok": checked.holds}
                for checked in chain
            ],
        }
        for document, derivations in documents
        for derivation, chain in derivations
    ]


def _table(documents: list[tuple[Document, Checked]], title: str, holding: str, wrong: str) -> Table:
    """Returns the lines as a table; ``holding`` and ``wrong`` are the verdicts on a line that holds or does not."""
    table = Table("line", "formula", "worst relative difference", "ulps", "verdict", title=title)
    number = 0
    for document, derivations in documents:
        table.add_section()
        if derivations:
            table.add_row("", f"[bold]{escape(document.name)}[/bold]")
        for derivation, chain in derivations:
            number += 1
            table.add_row(str(number), f"[italic]({derivation.theorem}) {escape(derivation.title)}[/italic]")
            for position, checked in enumerate(chain, start=1):
                verdict = holding if checked.holds else wrong
                numbers = (f"{checked.difference:.1e}", f"{checked.ulps:.2g}", verdict) if position > 1 else ()
                table.add_row(f"{number}.{position}", f"  {escape(checked.line.formula)}", *numbers)
    return table


def _figure(proved: list[tuple[Document, Checked]], planted: list[tuple[Document, Checked]]) -> Figure:
    """Returns one row of dots a document: its lines on the left of the tolerance, its planted lines on the right."""
    figure = Figure(figsize=(9.0, 4.2), layout="constrained")
    axes: Axes = figure.add_subplot()
    for row, (_, checked) in enumerate(proved):
        _dots(axes, row, checked, "tab:blue", "o", "line of a derivation" if row == 0 else None)
    for row, (_, checked) in enumerate(planted):
        _dots(axes, row, checked, "tab:red", "X", "planted wrong line" if row == 0 else None)
    axes.axvline(
        TOLERANCE_ULPS * _EPS, color="black", linestyle="--", linewidth=1.0, label=f"{TOLERANCE_ULPS:.0f} ulps"
    )
    axes.set_xscale("log")
    axes.set_xlim(_EPS / 8, 30.0)
    axes.set_yticks(range(len(proved)), [document.name for document, _ in proved])
    axes.invert_yaxis()
    axes.set_xlabel("worst relative difference from the derivation's first line (0 drawn at the left edge)")
    axes.grid(axis="x", alpha=0.3)
    axes.legend(loc="upper center", fontsize="small")
    return figure


def _dots(axes: Axes, row: int, derivations: Checked, color: str, marker: str, label: str | None) -> None:
    differences = np.array([checked.difference for _, chain in derivations for checked in chain[1:]])
    shown = np.clip(differences, _EPS / 6, 20.0)
    spread = row + 0.25 * np.cos(np.arange(len(shown)) * 2.4)  # vertical spread, only so that dots stay apart
    colors = to_rgba(color, 0.6)
    axes.scatter(shown, spread, color=[colors], marker=marker, s=22, linewidths=0, label=label)


EXPERIMENT = Experiment("derivation", "Every printed line of the source documents' derivations holds.", measure)
