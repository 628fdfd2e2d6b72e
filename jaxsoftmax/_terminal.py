"""What the commands share: refusals in one line, packages that may be missing, consoles, progress, whole files."""

import importlib
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

PASSED, FAILED, REFUSED, INTERRUPTED = 0, 1, 2, 130
_PIPED_WIDTH = 160  # columns, where the output is no terminal and nothing else says how wide it is
_SILENCE = 10.0  # seconds at least from one line of progress to the next

Advance = Callable[[int, int, str], None]  # steps done, steps in all, what the next one is


class RefusedError(Exception):
    """What was asked for can't be done; the message becomes one line on stderr."""


def require(extra: str, *packages: str) -> None:
    """Refuses where a package of an extra is not installed."""
    for package in packages:
        try:
            importlib.import_module(package)
        except ModuleNotFoundError as error:
            raise RefusedError(f"{error.name} is not installed: pip install 'jaxsoftmax[{extra}]'") from error


def devices() -> list[Any]:
    """Returns the devices that JAX sees, of which there must be one."""
    import jax

    try:
        return jax.devices()
    except (RuntimeError, AssertionError) as error:  # the second of a platform whose plugin is not installed
        raise RefusedError(f"JAX finds no device: {str(error) or 'is that of JAX_PLATFORMS installed?'}") from error


def now() -> str:
    """Returns the date and time in UTC."""
    return datetime.now(UTC).isoformat(sep=" ", timespec="seconds")


@contextmanager
def progress(title: str) -> Iterator[Advance]:
    """Shows on stderr a bar with the time remaining, or a line for each tenth of a long run if that is no terminal."""
    stderr = console(sys.stderr)
    if not stderr.is_terminal:
        yield _lines(title)
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
    from rich.table import Column

    columns = (
        TextColumn(title),
        BarColumn(bar_width=20),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        # In a narrow terminal it is the label that gives way, not the time.
        TextColumn("{task.description}", markup=False, table_column=Column(ratio=1, no_wrap=True)),
    )
    with Progress(*columns, console=stderr, transient=True, expand=True) as bar:
        task = bar.add_task("", total=None)

        def advance(done: int, total: int, label: str) -> None:
            bar.update(task, completed=done, total=total, description=label)

        yield advance


def _lines(title: str) -> Advance:
    start = last = time.monotonic()
    tenths = 0

    def advance(done: int, total: int, label: str) -> None:
        nonlocal last, tenths
        at = time.monotonic()
        if done == 0 or 10 * done // total == tenths or at - last < _SILENCE:
            return
        last, tenths = at, 10 * done // total
        took, left = at - start, (at - start) * (total - done) / done
        line = f"{title}: {done} of {total} after {took:.0f} s, about {left:.0f} s to go"
        with suppress(OSError):  # the run goes on where nobody reads the lines any more
            print(line, file=sys.stderr, flush=True)

    return advance


def console(stream: Any) -> "Console":
    """Returns a console that writes text as it is."""
    from rich.console import Console

    if hasattr(stream, "reconfigure"):
        stream.reconfigure(errors="replace")  # a terminal without ✓ or ∞ shows "?" for it
    console = Console(file=stream, markup=False, highlight=False, emoji=False)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = _PIPED_WIDTH
    return console


def require_writable(files: Mapping[str, Path]) -> None:
    """Refuses output files, by option, of which one can't be written or two are the same; leaves nothing behind."""
    for path in files.values():
        _check_writable(path)
    if len({path.resolve() for path in files.values()}) < len(files):
        raise RefusedError(f"{' and '.join(files)} name the same file")


def _check_writable(path: Path) -> None:
    try:
        if path.is_dir():
            raise IsADirectoryError(0, "is a directory")
        if path.exists() and not os.access(path, os.W_OK):
            raise PermissionError(0, "permission denied")
        if not _is_special(path):
            part = _part(path)
            part.touch(exist_ok=False)
            part.unlink()
    except OSError as error:
        raise RefusedError(_unwritable(path, error)) from error


def write_files(contents: Mapping[Path, bytes]) -> str:
    """Writes each file whole or leaves what was there; returns the complaints about those it can't."""
    return ", ".join(complaint for path, content in contents.items() if (complaint := _write(path, content)))


def _write(path: Path, content: bytes) -> str | None:
    try:
        if _is_special(path):
            path.write_bytes(content)
            return None
        part = _part(path)
        try:
            part.write_bytes(content)
            os.replace(part, path.resolve())
        except BaseException:
            with suppress(OSError):
                part.unlink(missing_ok=True)
            raise
    except OSError as error:
        return _unwritable(path, error)
    return None


def _is_special(path: Path) -> bool:
    return path.exists() and not path.is_file()  # a pipe or /dev/stdout is written to, never replaced


def _part(path: Path) -> Path:
    return path.resolve().parent / f".{os.getpid()}.jaxsoftmax.part"


def _unwritable(path: Path, error: OSError) -> str:
    return f"cannot write {path}: {error.strerror or error}"
