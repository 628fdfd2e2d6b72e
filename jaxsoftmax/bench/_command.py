"""The command `jaxsoftmax bench`: what was asked for, the measurement, its files, and the comparison."""

import argparse
import json
import math
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from rich.console import Console
from rich.text import Text

from jaxsoftmax import _terminal
from jaxsoftmax._terminal import RefusedError
from jaxsoftmax.bench import _compiled, _machine, _targets
from jaxsoftmax.bench._case import SHARDED, Case, shape_text
from jaxsoftmax.bench._compiled import CompiledRecord, CompiledRow
from jaxsoftmax.bench._inputs import specs
from jaxsoftmax.bench._measure import Effort, measure
from jaxsoftmax.bench._presets import PRESETS, Preset, cases_of
from jaxsoftmax.bench._record import Record, Row, record_from
from jaxsoftmax.bench._regression import cases_to_repeat, differences, regressions
from jaxsoftmax.bench._subjects import SUBJECT, absent
from jaxsoftmax.bench._table import made_on, print_record

_QUICK_SECONDS = 0.2
_COMPILED = ("optax", "jax")  # peers that a program for another machine is compiled of
_LARGEST_RECORD = 1 << 28  # bytes of a file of --check
_HUGE_PAGES = "glibc.malloc.hugetlb=1"


@dataclass(frozen=True)
class _Plan:
    """What is to be measured."""

    cases: tuple[Case, ...]
    peers: tuple[str, ...]
    effort: Effort
    earlier: Record | None  # to compare with


def run(arguments: argparse.Namespace, command: list[str]) -> int:
    """Runs the command; returns its exit code."""
    if arguments.target is not None:
        return _compile(arguments, command)
    if arguments.detail:
        raise RefusedError("--detail is of --target")
    if SHARDED in arguments.function:
        raise RefusedError(f"--function {SHARDED} is of --target")
    plan = _plan(arguments)
    files = {f"--{name}": getattr(arguments, name) for name in ("json", "plot") if getattr(arguments, name)}
    _terminal.require_writable(files)
    _require_another_file(arguments)
    _require_memory(plan.cases)
    if arguments.plot:
        _require_sweep(plan.cases)
    if arguments.huge_pages:
        _run_with_huge_pages()
    # The other processes need memory of a GPU too.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    _terminal.devices()
    record = _measured(plan, command)
    contents = {}
    if arguments.json:
        contents[arguments.json] = _as_json(record)
    if arguments.plot:
        contents[arguments.plot] = _as_png(record, plan.cases)
    trouble = _terminal.write_files(contents)
    worse = [] if plan.earlier is None else regressions(plan.earlier.rows, record.rows)
    _print(record, plan.earlier, worse)
    if trouble:
        raise RefusedError(trouble)
    return _terminal.FAILED if _has_failed(record.rows) or worse else _terminal.PASSED


def _compile(arguments: argparse.Namespace, command: list[str]) -> int:
    """Compiles the cases for a machine that isn't here."""
    for option in ("plot", "huge_pages", "repetitions"):
        if getattr(arguments, option):
            raise RefusedError(f"--target runs nothing: leave out --{option.replace('_', '-')}")
    if others := [peer for peer in arguments.peer if peer not in _COMPILED]:
        raise RefusedError(f"--target compiles {' and '.join(_COMPILED)}, not {others[0]}")
    _require_another_file(arguments)
    if arguments.json:
        _terminal.require_writable({"--json": arguments.json})
    earlier = _compiled_earlier(arguments) if arguments.check else None
    try:
        target = _targets.target(arguments.target)
    except ValueError as error:
        raise RefusedError(f"--target: {error}") from error
    preset = PRESETS[arguments.preset or "target"]
    peers = tuple(peer for peer in dict.fromkeys(arguments.peer or preset.peers) if peer in _COMPILED)
    if earlier is None:
        cases = _asked_for(preset, arguments)
    else:
        cases, peers = _compiled.cases_in(earlier, arguments.kind), ()
    date = _terminal.now()
    with _terminal.progress("bench") as advance:
        rows = _compiled.compile_for(target, cases, peers, arguments.detail, advance)
    versions = _machine.versions(("libtpu", "jax-cuda12-plugin"))
    record = CompiledRecord(command, date, target.name, target.chip.kind_of_time, versions, rows)
    trouble = _terminal.write_files({arguments.json: record.as_json()} if arguments.json else {})
    console = _terminal.console(sys.stdout)
    _compiled.print_record(record, console)
    worse = [] if earlier is None else _compiled.regressions(earlier.rows, rows)
    if earlier is not None:
        _print_verdict(console, worse, "is no slower and no larger", earlier.date)
    if trouble:
        raise RefusedError(trouble)
    return _terminal.FAILED if worse or (earlier is None and _has_failed(rows)) else _terminal.PASSED


def _compiled_earlier(arguments: argparse.Namespace) -> CompiledRecord:
    _require_no_cases(arguments)
    record = _read(arguments.check, _compiled.record_from, "jaxsoftmax bench --target --json")
    if record.target != arguments.target:
        raise RefusedError(f"--check: {arguments.check} is of {record.target}, and --target of {arguments.target}")
    if not _compiled.cases_in(record, arguments.kind):
        kind = f"{arguments.kind} " if arguments.kind else ""
        raise RefusedError(f"--check: {arguments.check} holds no {kind}case that was compiled")
    return record


def _has_failed(rows: Sequence[Row | CompiledRow]) -> bool:
    """Returns whether jaxsoftmax has failed on a case; refuses where everything has: that says nothing about it."""
    if all(row.failure for row in rows):
        raise RefusedError(f"nothing ran: {rows[0].failure}")
    return any(row.failure for row in rows if row.subject == SUBJECT)


def _plan(arguments: argparse.Namespace) -> _Plan:
    quick = {"seconds": _QUICK_SECONDS, "fresh": False} if arguments.quick else {}
    if arguments.check is not None:
        _require_no_cases(arguments)
        earlier = _read(arguments.check, record_from, "jaxsoftmax bench --json")
        cases = _cases_again(arguments.check, earlier, arguments.kind, arguments.quick)
        effort = Effort(**quick | {"repetitions": arguments.repetitions, "fresh": False})
        return _Plan(cases, (), effort, earlier)
    preset = PRESETS[arguments.preset or "cpu"]
    cases = _asked_for(preset, arguments)
    effort = Effort(**quick, repetitions=arguments.repetitions)
    return _Plan(cases, tuple(dict.fromkeys(arguments.peer)) or preset.peers, effort, None)


def _asked_for(preset: Preset, arguments: argparse.Namespace) -> tuple[Case, ...]:
    chosen = arguments.shape, arguments.dtype, arguments.function
    try:
        return cases_of(preset, arguments.kind, *chosen, arguments.quick)
    except ValueError as error:
        raise RefusedError(str(error)) from error


def _require_no_cases(arguments: argparse.Namespace) -> None:
    for option in ("shape", "dtype", "function", "peer", "preset"):
        if getattr(arguments, option):
            raise RefusedError(f"--check runs the cases of its file: leave out --{option}")


def _require_another_file(arguments: argparse.Namespace) -> None:
    for name in ("json", "plot"):
        path = getattr(arguments, name)
        if arguments.check and path and arguments.check.resolve() == path.resolve():
            raise RefusedError(f"--{name} would overwrite the file of --check")


_Read = TypeVar("_Read", Record, CompiledRecord)


def _read(path: Path, record_of: Callable[[Any], _Read], written_by: str) -> _Read:
    """Returns the record in a file of --check."""
    try:
        with path.open("rb") as file:
            content = file.read(_LARGEST_RECORD + 1)
        if len(content) > _LARGEST_RECORD:
            raise ValueError(f"it is larger than {_LARGEST_RECORD} bytes")
        return record_of(json.loads(content.decode("utf-8")))
    except OSError as error:
        raise RefusedError(f"--check: cannot read {path}: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:  # no JSON, no UTF-8, no record; or JSON that is nested too deeply
        raise RefusedError(f"--check: {path} was not written by {written_by}: {error}") from error


def _cases_again(path: Path, earlier: Record, kind: str | None, quick: bool) -> tuple[Case, ...]:
    try:
        return cases_to_repeat(earlier, kind, quick)
    except ValueError as error:
        raise RefusedError(f"--check: {path} holds {error}") from error


def _require_memory(cases: tuple[Case, ...]) -> None:
    """Refuses a case whose inputs alone, made in float32, take more memory than this machine has."""
    memory = _machine.memory_bytes() or sys.maxsize
    for case in cases:
        needed = sum(4 * math.prod(shape) for shape, _ in specs(case))
        if needed > memory:
            gibibytes = f"{needed / 2**30:.3g} GiB, and this machine has {memory / 2**30:.3g}"
            raise RefusedError(f"{case.kind} {shape_text(case.shape)}: the inputs take {gibibytes}")


def _require_sweep(cases: tuple[Case, ...]) -> None:
    from jaxsoftmax.bench._plots import sweeps

    if not sweeps(cases):
        raise RefusedError("--plot needs shapes that differ in their tokens or their classes alone: try --preset sweep")


def _run_with_huge_pages() -> None:
    """Starts this process again with huge pages, unless it has them."""
    if sys.platform != "linux":
        raise RefusedError("--huge-pages is a setting of glibc, on Linux")
    settings = os.environ.get("GLIBC_TUNABLES", "")
    if _HUGE_PAGES in settings.split(":"):
        return
    tunables = ":".join(filter(None, [settings, _HUGE_PAGES]))
    os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], os.environ | {"GLIBC_TUNABLES": tunables})


def _measured(plan: _Plan, command: list[str]) -> Record:
    missing = absent(plan.peers, {case.kind for case in plan.cases})
    peers = tuple(peer for peer in plan.peers if peer not in missing)
    date = _terminal.now()
    with _terminal.progress("bench") as advance:
        rows = measure(plan.cases, peers, plan.effort, advance)
    return Record(command, date, _machine.machine(), _machine.versions(peers), _machine.environment(), missing, rows)


def _as_json(record: Record) -> bytes:
    text = json.dumps(record.as_dict(), indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    return text.encode("utf-8", "backslashreplace")


def _as_png(record: Record, cases: tuple[Case, ...]) -> bytes:
    from jaxsoftmax.bench._plots import draw, sweeps

    return draw(record.rows, sweeps(cases), made_on(record))


def _print(record: Record, earlier: Record | None, worse: list[str]) -> None:
    console = _terminal.console(sys.stdout)
    print_record(record, console)
    if earlier is None:
        return
    for line in differences(earlier, record):
        console.print(Text(f"differs from the earlier run: {line}", style="yellow"), soft_wrap=True)
    _print_verdict(console, worse, "is no slower, no larger and no less exact", earlier.date)


def _print_verdict(console: Console, worse: list[str], holds: str, date: str) -> None:
    for line in worse:
        console.print(Text(f"worse: {line}", style="red"), soft_wrap=True)
    verdict = f"jaxsoftmax {'has become WORSE' if worse else holds} than on {date}"
    console.print(Text(verdict, style="bold red" if worse else "bold green"))
