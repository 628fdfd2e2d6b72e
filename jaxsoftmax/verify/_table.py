"""A report as lines to read: what each theorem comes to on each function, and the verdict."""

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from operator import attrgetter

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from jaxsoftmax.verify._certificate import DIFFERENTIAL
from jaxsoftmax.verify._record import Report, Row
from jaxsoftmax.verify._theorem import Theorem

_LONGEST_DETAIL = 400
_SKIPPED_SHOWN = 8
_NOT_OFFERED = ": not offered"


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
        return max(self.rows, key=attrgetter("strain"))

    @property
    def passed(self) -> bool:
        """Whether every row holds."""
        return all(row.passed for row in self.rows)


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


def failures_of(report: Report) -> dict[str, tuple[Row, ...]]:
    """Returns the failing rows of each theorem that fails, the worst first."""
    failed = sorted(report.failed, key=attrgetter("strain"), reverse=True)
    return {
        theorem: tuple(row for row in failed if row.theorem == theorem)
        for theorem in dict.fromkeys(row.theorem for row in report.failed)
    }


def is_wrong_number(row: Row) -> bool:
    """Returns whether a failing row is one of a wrong number, not of a call that failed or gave a wrong shape."""
    return row.detail.startswith("got ")


def has_raised(row: Row) -> bool:
    """Returns whether a failing row is a call that raised; its detail is then the exception's name and message."""
    name, colon, _ = row.detail.partition(": ")
    return bool(colon) and name.isidentifier()


def never_returned(report: Report) -> tuple[str, ...]:
    """Returns a sentence about each function of which every call raised."""
    groups: dict[str, list[Row]] = {}
    for row in report.rows:
        groups.setdefault(row.function, []).append(row)
    return tuple(
        f"every call of {function} raised {_most_common([row.detail for row in rows])}"
        for function, rows in groups.items()
        if all(has_raised(row) for row in rows)
    )


def _most_common(details: list[str]) -> str:
    counts = Counter(shortened(one_line(detail), _LONGEST_DETAIL) for detail in details)
    (detail, times), *_ = counts.most_common(1)
    return detail if times == len(details) else f"an exception, most often {detail}"


def of_jax_itself(report: Report) -> str:
    """Returns a sentence about the rows that judge JAX's own differential, or nothing where there are none."""
    rows = [row for row in report.rows if row.function == DIFFERENTIAL]
    if not rows:
        return ""
    theorems = ", ".join(dict.fromkeys(row.theorem for row in rows))
    return f"of the rows, {len(rows)} ({theorems}) judge {DIFFERENTIAL} itself, not {report.implementation}"


def of_its_compiler(report: Report) -> str:
    """Returns a sentence about a compiler whose own faults may be among the failures, or nothing."""
    long = any("V = " in row.regime for row in report.failed)
    if not long or "cpu" not in report.device or not report.versions.get("jaxlib", "").startswith("0.10."):
        return ""
    return (
        "on a CPU jaxlib 0.10 adds up wrong entries in some vmapped sums (jax#39103): "
        "a rule that is right may fail in long rows; see whether it does with jax 0.12"
    )


def verdict(report: Report) -> str:
    """Returns the certificate's last line."""
    versions = ", ".join(f"{name} {report.versions[name]}" for name in ("jaxsoftmax", "jax") if name in report.versions)
    made_on = f"on {report.device}, {versions}, {report.seconds:.0f} s"
    if report.passed:
        theorems = len({row.theorem for row in report.rows})
        return f"certificate holds: {count(len(report.rows), 'row')} of {count(theorems, 'theorem')} {made_on}"
    failing = ", ".join(failures_of(report))
    return (
        f"certificate FAILS: {len(report.failed)} of {count(len(report.rows), 'row')}, "
        f"{'theorem' if len(failures_of(report)) == 1 else 'theorems'} {failing}, {made_on}"
    )


def count(number: int, noun: str) -> str:
    """Returns `number` with its noun."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def ulps(value: float) -> str:
    """Returns a number of ulps in three figures."""
    return f"{value:.3g}".replace("inf", "∞")


def where(row: Row) -> str:
    """Returns the dtype, transformation and regime of a row."""
    return f"{row.dtype}, {row.transformation}, {row.regime}"


def print_report(report: Report, theorems: Mapping[str, Theorem], console: Console) -> None:
    """Prints the table, what is wrong with each failing theorem, what was skipped, and the verdict."""
    console.print(Text(f"Certificate of {report.implementation}", style="bold"))
    console.print(Text("Of each line's rows the one nearest its bound is shown, or furthest beyond it.", style="dim"))
    for sentence in never_returned(report):
        console.print(Text(sentence, style="bold red"), soft_wrap=True)
    lines = lines_of(report)
    widths = _widths([line for group in lines.values() for line in group], console.width)
    for number, group in lines.items():
        console.print()
        console.print(Text.assemble((number, "bold cyan"), "  ", _statement(theorems, number)))
        console.print(_grid(group, widths))
    for number, rows in failures_of(report).items():
        _print_failure(number, rows, theorems, console)
    for remark in filter(None, (_skipped(report.skipped), of_jax_itself(report), of_its_compiler(report))):
        console.print()
        console.print(Text(remark, style="dim"))
    console.print()
    console.print(Text(verdict(report), style="bold green" if report.passed else "bold red"), soft_wrap=True)


def _statement(theorems: Mapping[str, Theorem], number: str) -> str:
    return one_line(theorems[number].statement) if number in theorems else ""


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
            Text("✓", style="green") if line.passed else Text("✗", style="bold red"),
            Text(_name(line), style=style),
            Text(count(len(line.rows), "row")),
            Text(f"{ulps(worst.error)} of {ulps(worst.bound)} ulps", style=style),
            Text(where(worst), style="dim"),
        )
    return grid


def _print_failure(number: str, rows: tuple[Row, ...], theorems: Mapping[str, Theorem], console: Console) -> None:
    worst = rows[0]
    console.print()
    console.print(Text.assemble((f"{number} fails", "bold red"), f" in {count(len(rows), 'row')}", _raised(rows)))
    if number in theorems and any(is_wrong_number(row) for row in rows):
        console.print(_indented(f"often: {one_line(theorems[number].symptom)}"))
    console.print(_indented(f"worst: {worst.function}: {worst.quantity}, {where(worst)}; judged by {worst.judge}"))
    if worst.detail:
        console.print(_indented(shortened(one_line(worst.detail), _LONGEST_DETAIL)))


def _raised(failing: tuple[Row, ...]) -> str:
    return ", each a call that raised" if all(has_raised(row) for row in failing) else ""


def _indented(text: str) -> Padding:
    return Padding(Text(text), (0, 0, 0, 2), expand=False)


def _skipped(skipped: tuple[str, ...]) -> str:
    if not skipped:
        return ""
    functions = [reason.removesuffix(_NOT_OFFERED) for reason in skipped if reason.endswith(_NOT_OFFERED)]
    others = (one_line(reason) for reason in skipped if not reason.endswith(_NOT_OFFERED))
    reasons = list(dict.fromkeys(re.sub(r" under \w+: ", ": ", reason) for reason in others))
    more = len(reasons) - _SKIPPED_SHOWN
    parts = [
        *reasons[:_SKIPPED_SHOWN],
        *([f"and {more} more, listed by --json"] if more > 0 else []),
        *([f"not offered: {', '.join(functions)}"] if functions else []),
    ]
    return f"skipped ({len(skipped)}): {'; '.join(parts)}"


def one_line(text: str) -> str:
    """Returns `text` with every run of white space as one blank."""
    return " ".join(text.split())


def shortened(text: str, length: int) -> str:
    """Returns `text`, cut after `length` characters."""
    return text if len(text) <= length else text[: length - 1] + "…"
