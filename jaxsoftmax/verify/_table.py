"""A report as lines to read: a line for each theorem, what is wrong with each function, and the conclusion."""

import io
from collections.abc import Mapping
from dataclasses import dataclass
from operator import attrgetter

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from jaxsoftmax.verify import _diagnosis
from jaxsoftmax.verify._record import DIFFERENTIAL, HOLDS, Report, Row, Verdict
from jaxsoftmax.verify._theorem import Theorem
from jaxsoftmax.verify._theorems import THEOREMS

_WIDTH = 120  # of what `print(report)` shows
_ULP = (
    "An ulp is the distance from a number to the next of its dtype. Of the rows of each line the one nearest its bound "
    "is shown, or furthest beyond it."
)


@dataclass(frozen=True)
class Line:
    """Every row of one theorem about one quantity of one function."""

    theorem: str
    function: str
    quantity: str
    rows: tuple[Row, ...]

    @property
    def worst(self) -> Row:
        """The row nearest its bound, or furthest beyond it."""
        return worst_of(self.rows)

    @property
    def passed(self) -> bool:
        """Whether every row holds."""
        return all(row.passed for row in self.rows)


def worst_of(rows: tuple[Row, ...]) -> Row:
    """Returns the row nearest its bound, or furthest beyond it."""
    return max(rows, key=attrgetter("bound_fraction"))


def lines_of(report: Report) -> dict[str, tuple[Line, ...]]:
    """Returns the lines of each theorem that was checked, in the order of the report."""
    groups: dict[tuple[str, str, str], list[Row]] = {}
    for row in report.rows:
        groups.setdefault((row.theorem, row.function, row.quantity), []).append(row)
    lines = [Line(*names, rows=tuple(rows)) for names, rows in groups.items()]
    return {
        theorem: tuple(line for line in lines if line.theorem == theorem)
        for theorem in dict.fromkeys(line.theorem for line in lines)
    }


def of_jax_itself(report: Report) -> str:
    """Returns a sentence about the rows that judge JAX's own differential, or nothing where there are none."""
    rows = [row for row in report.rows if row.function == DIFFERENTIAL]
    if not rows:
        return ""
    theorems = ", ".join(dict.fromkeys(row.theorem for row in rows))
    failed = sum(not row.passed for row in rows)
    outcome = f"{failed} FAIL" if failed else "all hold"
    count = _diagnosis.count(len(rows), "row")
    return f"Of {DIFFERENTIAL} itself, which counts for no function: {count} of {theorems}, {outcome}."


def of_its_compiler(report: Report) -> str:
    """Returns a sentence about a compiler whose own faults may be among the failures, or nothing."""
    # What fails in short rows too is not the compiler's.
    short = {(row.function, row.quantity) for row in report.failed if "V = " not in row.regime}
    long = {(row.function, row.quantity) for row in report.failed if "V = " in row.regime}
    if not long - short or "cpu" not in report.device or not report.versions.get("jaxlib", "").startswith("0.10."):
        return ""
    return (
        "On a CPU jaxlib 0.10 adds up wrong entries in some vmapped sums (jax#39103): "
        "a rule that is right may fail in long rows; see whether it does with jax 0.12."
    )


def ulps(value: float) -> str:
    """Returns a number of ulps in three figures."""
    return f"{value:.3g}".replace("inf", "∞")


def where(row: Row) -> str:
    """Returns the dtype, transformation and regime of a row."""
    return f"{row.dtype}, {row.transformation}, {row.regime}"


def as_text(report: Report) -> str:
    """Returns what `print_report` prints, without colours."""
    stream = io.StringIO()
    console = Console(file=stream, width=_WIDTH, markup=False, highlight=False, emoji=False, color_system=None)
    print_report(report, THEOREMS, console)
    return stream.getvalue().rstrip("\n")


def print_report(report: Report, theorems: Mapping[str, Theorem], console: Console, *, verbose: bool = False) -> None:
    """Prints a line for each theorem, what is wrong with each function that fails, and the conclusion.

    Args:
      report: the certificate.
      theorems: the theorems by number, for their names, statements and symptoms.
      console: where to.
      verbose: whether each theorem is stated, with a line for each function and quantity, and every function has its
        verdict and what was not judged of it.
    """
    console.print(Text(f"Certificate of {report.implementation}", style="bold"))
    console.print(Text(_ULP, style="dim"))
    console.print()
    (_print_every_line if verbose else _print_theorems)(report, theorems, console)
    for verdict in report.verdicts:
        if verbose or verdict.verdict != HOLDS:
            _print_verdict(verdict, theorems, console)
        if verbose:
            for gap in verdict.gaps:
                console.print(_indented(f"not judged, {gap.reason}: {', '.join(gap.unjudged)}", style="dim"))
    for remark in filter(None, (of_jax_itself(report), of_its_compiler(report))):
        console.print()
        console.print(Text(remark, style="dim"))
    console.print()
    outcome, *rest = _diagnosis.conclusion(report)
    console.print(Text(outcome, style="bold green" if report.passed else "bold red"), soft_wrap=True)
    for sentence in rest:
        console.print(Text(sentence), soft_wrap=True)


def _print_theorems(report: Report, theorems: Mapping[str, Theorem], console: Console) -> None:
    grid = Table.grid(padding=(0, 2, 0, 0))
    for _ in range(3):
        grid.add_column(no_wrap=True)
    for _ in range(2):
        grid.add_column(justify="right", no_wrap=True)
    grid.add_column(overflow="fold", ratio=1)
    for number, lines in lines_of(report).items():
        if report.judged and all(line.function == DIFFERENTIAL for line in lines):
            continue
        rows = sum((line.rows for line in lines), ())
        shown = [line for line in lines if not line.passed] or list(lines)
        style, worst = "red" if not shown[0].passed else "", worst_of(rows)
        grid.add_row(
            _mark(shown[0].passed),
            Text(number, style="bold cyan"),
            Text(theorems[number].name if number in theorems else "", style=style),
            Text(_diagnosis.count(len(rows), "row")),
            Text(f"{ulps(worst.error)} of {ulps(worst.bound)} ulps", style=style),
            Text(_families([line.function for line in shown]), style="dim"),
        )
    for number, reasons in _of_no_row(report).items():
        name = theorems[number].name if number in theorems else ""
        grid.add_row("–", Text(number, style="bold cyan"), name, "", "", Text(f"not judged: {reasons}", style="dim"))
    console.print(grid)


def _of_no_row(report: Report) -> dict[str, str]:
    """Why nothing was judged, of each theorem of which that is so though its function is offered."""
    found: dict[str, list[str]] = {}
    for gap in report.gaps:
        for number in gap.theorems:
            found.setdefault(number, []).append(f"{gap.function}: {gap.reason}")
    judged = {row.theorem for row in report.rows}
    return {number: "; ".join(reasons) for number, reasons in found.items() if number not in judged}


def _families(functions: list[str]) -> str:
    """Functions with their variants: "softmax (and analytic, forward_mode)"."""
    plain = dict.fromkeys(name for name in functions if "." not in name)
    families = dict.fromkeys(name.partition(".")[0] for name in functions if "." in name)
    if not plain:
        return ", ".join(dict.fromkeys(functions))
    return ", ".join(plain) + (f" (and {', '.join(families)})" if families else "")


def _print_every_line(report: Report, theorems: Mapping[str, Theorem], console: Console) -> None:
    lines = lines_of(report)
    widths = _widths([line for group in lines.values() for line in group], console.width)
    for number, group in lines.items():
        statement = _diagnosis.one_line(theorems[number].statement) if number in theorems else ""
        console.print(Text.assemble((number, "bold cyan"), "  ", statement))
        console.print(_grid(group, widths))
        console.print()


def _widths(lines: list[Line], available: int) -> tuple[int, int]:
    """Returns the widths of the columns that hold names and places, as wide as they need or as there is room for."""
    room = max(available - 42, 30)  # the mark, the count, the error beside its bound, and the gaps between
    names = max((len(_name(line)) for line in lines), default=0)
    places = max((len(where(line.worst)) for line in lines), default=0)
    names = min(names, max(room - places, room // 2))
    return names, min(places, room - names)


def _name(line: Line) -> str:
    return f"{line.function}: {line.quantity}"


def _grid(lines: tuple[Line, ...], widths: tuple[int, int]) -> Table:
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(width=1)
    grid.add_column(width=widths[0], overflow="fold")
    grid.add_column(width=9, justify="right")
    grid.add_column(width=20, justify="right")
    grid.add_column(width=widths[1], overflow="fold")
    for line in lines:
        worst, style = line.worst, "" if line.passed else "red"
        grid.add_row(
            _mark(line.passed),
            Text(_name(line), style=style),
            Text(_diagnosis.count(len(line.rows), "row")),
            Text(f"{ulps(worst.error)} of {ulps(worst.bound)} ulps", style=style),
            Text(where(worst), style="dim"),
        )
    return grid


def _mark(passed: bool) -> Text:
    return Text("✓", style="green") if passed else Text("✗", style="bold red")


def _print_verdict(verdict: Verdict, theorems: Mapping[str, Theorem], console: Console) -> None:
    holds = verdict.verdict == HOLDS
    if not holds:
        console.print()
    head = (f"{verdict.function} {verdict.verdict}", "" if holds else "bold red")
    console.print(Text.assemble(head, f": {verdict.summary}"), soft_wrap=True)
    for failure in _diagnosis.failures_of(verdict):
        if not failure.repeats:
            _print_failure(failure, theorems, console)


def _print_failure(failure: _diagnosis.Failure, theorems: Mapping[str, Theorem], console: Console) -> None:
    """The simplest failing row: where it is, its input, what came, and what often breaks the theorem."""
    row = failure.rows[0]
    console.print(_indented(f"{failure.aspect}: {row.quantity} ({row.theorem}), {where(row)}"))
    lines = [
        f"input {row.case}" if row.case else "",
        _diagnosis.shortened(_diagnosis.one_line(row.detail), _diagnosis.LONGEST_DETAIL),
    ]
    if failure.aspect == _diagnosis.COTANGENTS:
        lines.append("what came is divided by the cotangent that was pulled back, one of -2, 4 and -8")
    elif row.theorem in theorems and _diagnosis.is_wrong_number(row):
        lines.append(f"often: {_diagnosis.one_line(theorems[row.theorem].typical_failure)}")
    for line in filter(None, lines):
        console.print(_indented(line, 4))


def _indented(text: str, by: int = 2, style: str = "") -> Padding:
    return Padding(Text(text, style=style), (0, 0, 0, by), expand=False)
