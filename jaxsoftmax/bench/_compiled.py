"""Every subject on every case, compiled for a machine that isn't here: estimated time, and memory."""

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from rich.console import Console
from rich.table import Table
from rich.text import Text

from jaxsoftmax.bench._case import DISTILLATION, SHARDED, VALUE, Case
from jaxsoftmax.bench._collectives import device_work
from jaxsoftmax.bench._inputs import specs
from jaxsoftmax.bench._record import case_from, typed
from jaxsoftmax.bench._subjects import FLOOR, SUBJECT, program, subjects_of
from jaxsoftmax.bench._table import duration
from jaxsoftmax.bench._targets import Cost, Target, costs

TIME_MARGIN = 1.05  # of the ratio to the base: a compiler's estimate is the same each time
MEMORY_MARGIN = 1.02
MEMORY_SLACK = 1 << 16  # bytes: below it are the row statistics
_HEADING = "compiled, not run"
_AXES = ("data", "vocab")
_TOKENS, _CLASSES = PartitionSpec("data"), PartitionSpec(None, "vocab")
Advance = Callable[[int, int, str], None]


@dataclass(frozen=True)
class CompiledRow:
    """One subject on one case."""

    case: Case
    subject: str
    seconds: float | None = None
    to_base: float | None = None  # the ratio to `Case.base`
    to_floor: float | None = None  # of the head in bfloat16: to its matrix products at the chip's peak rate
    temp_bytes: int | None = None
    collectives: dict[str, int] = field(default_factory=dict)  # of a program over a mesh: bytes a device, by name
    dearest: tuple[Cost, ...] = ()  # instructions, as many as were asked for
    failure: str = ""  # the first line of the exception


@dataclass(frozen=True)
class CompiledRecord:
    """Every row, and for what and with what it was compiled."""

    command: list[str]
    date: str
    target: str
    time: str  # what kind of time it is
    versions: dict[str, str]
    rows: tuple[CompiledRow, ...]

    def as_json(self) -> bytes:
        """The record as a file."""
        return (json.dumps({_HEADING: True} | asdict(self), indent=1, ensure_ascii=False) + "\n").encode()


def record_from(document: Any) -> CompiledRecord:
    """Returns the record that `as_json` has written.

    Raises:
      ValueError: it is no such data.
    """
    try:
        fields: dict[str, Any] = {name: value for name, value in document.items() if name != _HEADING}
        fields["rows"] = tuple(map(_row_from, document["rows"]))
        return typed(CompiledRecord(**fields))
    except (ArithmeticError, AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"no record of compiled programs ({type(error).__name__}: {error})") from error


def _row_from(row: dict[str, Any]) -> CompiledRow:
    collectives = {name: int(size) for name, size in row["collectives"].items()}
    dearest = tuple(typed(Cost(**cost)) for cost in row["dearest"])
    made = {"case": case_from(row["case"]), "collectives": collectives, "dearest": dearest}
    return typed(CompiledRow(**row | made))


def cases_in(record: CompiledRecord, kind: str | None) -> tuple[Case, ...]:
    """Returns the cases, of one kind if it is given, of which jaxsoftmax was compiled."""
    cases = (row.case for row in record.rows if row.subject == SUBJECT and not row.failure)
    return tuple(case for case in dict.fromkeys(cases) if kind in (None, case.kind))


def regressions(before: Sequence[CompiledRow], after: Sequence[CompiledRow]) -> list[str]:
    """Returns what has become worse in the rows of jaxsoftmax, a line each.

    That is a ratio to the base, or where that can't be compiled to the floor, more than `TIME_MARGIN` times the earlier
    one; temporary memory more than `MEMORY_MARGIN` times the earlier and `MEMORY_SLACK` above it; bytes of a collective
    more than `MEMORY_MARGIN` times the earlier; or a program that can't be compiled any more.
    """
    earlier = {row.case: row for row in before if row.subject == SUBJECT and not row.failure}
    worse = []
    for row in after:
        old = earlier.get(row.case) if row.subject == SUBJECT else None
        if old is None:
            continue
        if row.failure:
            worse.append(f"{row.case.label}: can't be compiled: {row.failure}")
        for name in (row.case.base, "floor"):
            new_ratio, old_ratio = (each.to_floor if name == "floor" else each.to_base for each in (row, old))
            if new_ratio is not None and old_ratio is not None:
                if new_ratio > TIME_MARGIN * old_ratio:
                    worse.append(f"{row.case.label}: {new_ratio:.3g} times {name}, was {old_ratio:.3g}")
                break
        allowed = max(MEMORY_MARGIN * (old.temp_bytes or 0), (old.temp_bytes or 0) + MEMORY_SLACK)
        if (row.temp_bytes or 0) > allowed:
            worse.append(f"{row.case.label}: {row.temp_bytes} bytes of temporary memory, was {old.temp_bytes}")
        for name, size in row.collectives.items():
            if size > MEMORY_MARGIN * old.collectives.get(name, 0):
                worse.append(f"{row.case.label}: {size} bytes of {name}, was {old.collectives.get(name, 0)}")
    return worse


def compile_for(
    target: Target, cases: Sequence[Case], peers: tuple[str, ...], detail: int, advance: Advance
) -> tuple[CompiledRow, ...]:
    """Compiles each subject of each case.

    Args:
      target: the machine that programs are compiled for.
      cases: the losses, or other functions, and their shapes and dtypes.
      peers: the libraries that are compiled beside jaxsoftmax and the base of its ratios.
      detail: of how many instructions, the dearest, the time is kept.
      advance: called as advance(done, total, label) before each.
    """
    steps = [(case, subject) for case in cases for subject in subjects_of(case, peers) if subject != FLOOR]
    rows: dict[tuple[Case, str], CompiledRow] = {}
    for done, (case, subject) in enumerate(steps):
        advance(done, len(steps), f"{case.label}: {subject}")
        rows[case, subject] = _compiled(target, case, subject, detail)
    return tuple(_beside(row, rows[row.case, row.case.base]) for row in rows.values())


def _compiled(target: Target, case: Case, subject: str, detail: int) -> CompiledRow:
    sharded = case.function == SHARDED
    mesh = _mesh(target.devices if sharded else target.devices[:1])
    places = (_TOKENS, _CLASSES, _TOKENS) if sharded else [PartitionSpec()] * len(specs(case))
    arrays = [
        jax.ShapeDtypeStruct(shape, dtype, sharding=NamedSharding(mesh, place))
        for (shape, dtype), place in zip(specs(case), places, strict=True)
    ]
    try:
        compiled: Any = jax.jit(program(subject, case, mesh if sharded else None)).lower(*arrays).compile()
        text = compiled.as_text()
        instructions = costs(target.chip, text)
        said = device_work(text, mesh.devices.shape).bytes_said(_AXES) if sharded else {}
    except Exception as error:  # as where it would take more memory than the machine has
        return CompiledRow(case, subject, failure=next(iter(str(error).splitlines()), type(error).__name__))
    temporary = compiled.memory_analysis().temp_size_in_bytes
    seconds = sum((cost.seconds for cost in instructions), 0.0)
    has_floor = case.kind == "linear" and case.dtype == "bfloat16"
    to_floor = seconds * target.chip.peak * mesh.size / _flops(case) if has_floor else None
    return CompiledRow(case, subject, seconds, None, to_floor, temporary, said, tuple(instructions[:detail]))


def _mesh(devices: Any) -> Mesh:
    """A mesh of tokens by classes, at least as many shards of tokens."""
    classes = 2 ** (int(math.log2(len(devices))) // 2)
    return Mesh(np.reshape(devices, (-1, classes)), _AXES)


def _flops(case: Case) -> int:
    """Returns those of the products: one for the loss, three with the gradients; one more for a teacher."""
    teacher = 2 if case.function == DISTILLATION else 0
    return (teacher + (2 if case.quantity == VALUE else 6)) * math.prod(case.shape)


def _beside(row: CompiledRow, base: CompiledRow) -> CompiledRow:
    if row.seconds is None or not base.seconds:
        return row
    return replace(row, to_base=row.seconds / base.seconds)


def print_record(record: CompiledRecord, console: Console) -> None:
    """Prints a line for each row, and the dearest instructions."""
    console.print(Text(f"compiled for {record.target}, not run; time: {record.time}", style="bold"), soft_wrap=True)
    for case in dict.fromkeys(row.case for row in record.rows):
        console.print(Text(case.label, style="bold"), soft_wrap=True)
        table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim", pad_edge=False)
        for name in ("", "time", f"× {case.base}", "× floor", "temp MiB"):
            table.add_column(name, justify="right" if name else "left", no_wrap=True)
        for row in (row for row in record.rows if row.case == case and row.seconds is not None):
            table.add_row(*_cells(row), style="bold" if row.subject == SUBJECT else "")
            for name, size in row.collectives.items():
                table.add_row(f"  {size / 2**20:.1f} MiB in {name}", style="dim")
            for cost in row.dearest:
                table.add_row(f"  {cost.trips} × {cost.name}", duration(cost.seconds), "", "", "", style="dim")
        console.print(table)
        for row in (row for row in record.rows if row.case == case and row.failure):
            console.print(Text(f"{row.subject} can't be compiled: {row.failure}", style="red"), soft_wrap=True)
    console.print(Text("; ".join(f"{name} {version}" for name, version in record.versions.items()), style="dim"))


def _cells(row: CompiledRow) -> tuple[str, ...]:
    ratios = ("" if ratio is None else f"{ratio:.2f}" for ratio in (row.to_base, row.to_floor))
    return row.subject, duration(row.seconds or 0.0), *ratios, f"{(row.temp_bytes or 0) / 2**20:.1f}"
