"""A record as lines to read: a table for each case, then what it was made on."""

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from jaxsoftmax.bench._case import Case
from jaxsoftmax.bench._record import Record, Row
from jaxsoftmax.bench._subjects import SUBJECT
from jaxsoftmax.bench._timing import Spread

_COLUMNS = ("× floor", "temp MiB", "peak MiB", "compile s", "grad error", "worst token")
_WIDTH = 100  # enough for every column
_UNITS = (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6))


def print_record(record: Record, console: Console) -> None:
    """Prints the table of each case, the peers that are absent, and the machine."""
    for case in dict.fromkeys(row.case for row in record.rows):
        _print_case(case, [row for row in record.rows if row.case == case], console)
    for peer, reason in record.absent.items():
        console.print(Text(f"{peer}: {reason}", style="yellow"), soft_wrap=True)
    console.print(Text(made_on(record), style="dim"), soft_wrap=True)


def made_on(record: Record) -> str:
    """Returns machine, versions and settings in one line."""
    machine = record.machine
    memory = machine.get("memory_bytes")
    parts = [
        f"{machine.get('cpu')}, {machine.get('cores')} cores" + (f", {memory / 2**30:.0f} GiB" if memory else ""),
        str(machine.get("device")),
        *(f"{name} {version}" for name, version in record.versions.items()),
        *(f"{name}={value}" for name, value in record.environment.items()),
    ]
    return "; ".join(parts)


def _print_case(case: Case, rows: Sequence[Row], console: Console) -> None:
    rounds = max(row.rounds for row in rows)
    console.print(Text.assemble((case.label, "bold"), (f"  {rounds} rounds", "dim")), soft_wrap=True)
    lines = [_cells(row) for row in rows if not row.failure]
    columns = ("", "median", f"× {case.base}", *_COLUMNS)
    shown = [at for at in range(len(columns)) if any(cells[at] for cells in lines)]
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim", pad_edge=False)
    for at in shown:
        table.add_column(columns[at], justify="right" if at else "left", no_wrap=True)
    for cells in lines:
        table.add_row(*(cells[at] for at in shown), style="bold" if cells[0] == SUBJECT else "")
    console.print(table, width=max(console.width, _WIDTH), crop=False)  # wrapped by a narrow terminal, but whole
    for row in rows:
        if row.failure:
            console.print(Text(f"{row.subject} failed: {row.failure}", style="red"), soft_wrap=True)
    console.print()


def _cells(row: Row) -> list[str]:
    return [
        row.subject,
        "" if row.seconds is None else duration(row.seconds.median),
        _ratio(row.to_base, with_spread=True),
        _ratio(row.to_floor, with_spread=False),
        _mebibytes(row.temp_bytes),
        _mebibytes(row.peak_bytes),
        "" if row.compile_seconds is None else f"{row.compile_seconds:.2f}",
        _error(row.gradient_error),
        _error(row.worst_token_error),
    ]


def duration(seconds: float) -> str:
    """Returns a time in three figures."""
    unit, scale = next((pair for pair in _UNITS if seconds >= pair[1]), _UNITS[-1])
    return f"{seconds / scale:#.3g}".rstrip(".") + f" {unit}"


def _ratio(ratio: Spread | None, *, with_spread: bool) -> str:
    if ratio is None:
        return ""
    return f"{ratio.median:.2f}" + (f" ({ratio.lower:.2f}–{ratio.upper:.2f})" if with_spread else "")


def _mebibytes(size: int | None) -> str:
    if size is None:
        return ""
    return f"{size / 2**20:.1f}" if size >= 1 << 20 else f"{size / 2**20:.2g}"


def _error(error: float | None) -> str:
    return "" if error is None else f"{error:.1e}"
