"""What the commands share: one-line errors, optional packages, consoles, progress, atomic file writes."""

import importlib
import io
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from rich.console import Console

PASSED, FAILED, REFUSED, CRASHED, INTERRUPTED = 0, 1, 2, 70, 130  # 70: EX_SOFTWARE of BSD's sysexits.h
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
        except ImportError as error:
            raise RefusedError(f"cannot import {package}: {error}") from error


def devices() -> list[Any]:
    """Returns the devices that JAX sees; refuses if there is none."""
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
        print(line, file=sys.stderr, flush=True)

    return advance


class _GuardedStream:
    """A standard stream that discards its output once a write has failed."""

    def __init__(self, stream: Any, refusal: str = "") -> None:
        """`refusal` is the message of a failed write; "" ignores it. A closed pipe is always ignored."""
        self._stream = stream
        self._refusal = refusal

    def __getattr__(self, name: str) -> Any:
        """Returns the wrapped stream's attribute."""
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Writes; drops the text once the stream has failed."""
        self._attempt(self._stream.write, text)
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        """Writes each line; drops the text once the stream has failed."""
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """Has the stream pass on what it still holds."""
        self._attempt(self._stream.flush)

    def close(self) -> None:
        """Flushes only: code under test must not close the process's streams."""
        self.flush()

    def _attempt(self, call: Callable[..., Any], *arguments: str) -> None:
        try:
            call(*arguments)
        except OSError as error:
            # What the stream holds still would fail again when Python ends.
            with open(os.devnull, "wb") as nowhere:
                os.dup2(nowhere.fileno(), self._stream.fileno())
            if self._refusal and not isinstance(error, BrokenPipeError):
                raise RefusedError(f"{self._refusal}: {error.strerror or error}") from error


def guard_streams() -> None:
    """Keeps a failing stdout or stderr from causing a traceback, and from hiding the verdict.

    Where the reader of a pipe has gone, the rest is dropped without a word and the exit code stays that of the run, as
    ripgrep does it: 141, with which SIGPIPE ends other tools, would hide whether the certificate holds. A stdout that
    fails otherwise, on a full device say, is refused. Of a stderr that fails there is nowhere to tell.
    """
    sys.stdout = cast(Any, _GuardedStream(sys.stdout or io.StringIO(), "cannot write to stdout"))  # None if closed
    sys.stderr = cast(Any, _GuardedStream(sys.stderr or io.StringIO()))


def console(stream: Any) -> "Console":
    """Returns a console that writes text as it is."""
    from rich.console import Console

    if hasattr(stream, "reconfigure"):
        stream.flush()  # as `reconfigure` does, but guarded
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
        with suppress(FileNotFoundError):
            path.stat()  # fails on links in a loop, and on names that are too long
        if path.is_dir():
            raise IsADirectoryError(0, "is a directory")
        if path.exists() and not os.access(path, os.W_OK):
            raise PermissionError(0, "permission denied")
        if not _is_special(path):
            part = _part(path)
            try:
                part.write_bytes(b"\n")  # a full device takes an empty file
            finally:
                part.unlink(missing_ok=True)
    except OSError as error:
        raise RefusedError(_unwritable(path, error)) from error


def write_files(contents: Mapping[Path, bytes]) -> str:
    """Writes each file whole or leaves what was there; returns the complaints about those it can't."""
    return ", ".join(complaint for path, content in contents.items() if (complaint := _write(path, content)))


def _write(path: Path, content: bytes) -> str | None:
    try:
        if _is_special(path):
            with suppress(BrokenPipeError):  # as of stdout: its reader has gone
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
