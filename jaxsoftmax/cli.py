"""The command line: `jaxsoftmax verify` and `jaxsoftmax info`.

What a command needs beyond the package's own dependencies is imported when it runs: `--help` needs none of it, and a
missing extra costs one line instead of a traceback. Exit codes: 0 the certificate holds, 1 it fails, 2 nothing could
be judged or written, 130 interrupted.
"""

import argparse
import importlib
import json
import os
import platform
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from jaxsoftmax import __version__

if TYPE_CHECKING:
    from rich.console import Console

    from jaxsoftmax.verify._record import Report
    from jaxsoftmax.verify._theorem import Theorem

HOLDS, FAILS, REFUSED, INTERRUPTED = 0, 1, 2, 130
_PIPED_WIDTH = 160  # columns, where the output is no terminal and nothing else says how wide it is


class _RefusedError(Exception):
    """What was asked for can't be done; the message becomes one line on stderr."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise _RefusedError(f"{self.prog}: {message}")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line.

    Args:
      argv: the arguments after the program's name; `sys.argv[1:]` if None.

    Returns:
      The exit code. `--help` and `--version` leave by SystemExit(0), as argparse has it.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    try:
        arguments = _parser().parse_args(argv)
    except _RefusedError as error:
        return _complain(str(error), REFUSED)
    program = f"jaxsoftmax {arguments.command}"
    try:
        return arguments.run(arguments, ["jaxsoftmax", *argv])
    except _RefusedError as error:
        return _complain(f"{program}: {error}", REFUSED)
    except KeyboardInterrupt:
        return _complain(f"{program}: interrupted", INTERRUPTED)


def _complain(line: str, code: int) -> int:
    print(" ".join(line.split()), file=sys.stderr)
    return code


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="jaxsoftmax", description="Exact softmax losses for JAX, and their certificate.")
    parser.add_argument("--version", action="version", version=f"jaxsoftmax {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="{verify,info}")
    verify = commands.add_parser(
        "verify",
        help="judge values and derivatives against 50-digit arithmetic, and print the certificate",
        description="Judges values and derivatives on this machine against closed forms in 50-digit arithmetic. "
        "Exit code: 0 the certificate holds, 1 it fails, 2 nothing could be judged or written, 130 interrupted.",
        allow_abbrev=False,
    )
    verify.set_defaults(run=_verify)
    many: dict[str, Any] = {"action": "extend", "nargs": "+", "default": []}
    verify.add_argument("--theorem", **many, metavar="M", help="judge only these theorems, such as M5 (default: all)")
    verify.add_argument("--dtype", **many, help="judge only in these dtypes, such as float32 (default: all)")
    verify.add_argument(
        "--against",
        metavar="NAME",
        help="judge another implementation: jax, optax, or module:object, looked up in the working directory first",
    )
    verify.add_argument("--json", type=Path, metavar="FILE", help="write every row of the certificate as JSON")
    verify.add_argument("--html", type=Path, metavar="FILE", help="write the certificate as one page with its figures")
    verify.add_argument("--quick", action="store_true", help="check fewer rows")
    info = commands.add_parser("info", help="print the versions and devices in use", allow_abbrev=False)
    info.set_defaults(run=_info)
    return parser


def _info(arguments: argparse.Namespace, command: list[str]) -> int:
    print(f"jaxsoftmax {__version__}")
    for package in ("jax", "jaxlib", "optax", "numpy"):
        print(f"{package} {metadata.version(package)}")
    print(f"python {platform.python_version()}")
    for device in _devices():
        print(f"device {device.id}: {device.platform}, {device.device_kind}")
    return HOLDS


def _devices() -> list[Any]:
    import jax

    try:
        return jax.devices()
    except RuntimeError as error:
        raise _RefusedError(f"JAX finds no device: {error}") from error


def _verify(arguments: argparse.Namespace, command: list[str]) -> int:
    _require("mpmath", "rich", *(("jinja2", "matplotlib") if arguments.html else ()))
    from jaxsoftmax.verify import THEOREMS
    from jaxsoftmax.verify._table import print_report

    theorems = _known("theorem", arguments.theorem, THEOREMS)
    dtypes = _known("dtype", arguments.dtype, _dtypes(THEOREMS.values()))
    chosen = [theorem for number, theorem in THEOREMS.items() if theorems is None or _stands_for(number, theorems)]
    implementation = _implementation(arguments.against, chosen)
    files = _files(arguments)
    _devices()
    report = _certify(implementation, theorems, dtypes, arguments.quick)
    if not report.rows:
        raise _RefusedError(f"nothing was checked: {'; '.join(report.skipped) or 'no theorem speaks of this choice'}")
    if arguments.against is not None:
        report = replace(report, implementation=_label(arguments.against))
    contents = [(path, render(report, THEOREMS, command).encode("utf-8", "backslashreplace")) for path, render in files]
    trouble = [line for path, content in contents if (line := _write(path, content))]
    with suppress(SystemExit):  # rich exits where the reader of a pipe has gone; the verdict stands
        print_report(report, THEOREMS, _console(sys.stdout))
    if trouble:
        raise _RefusedError(", ".join(trouble))
    return HOLDS if report.passed else FAILS


def _require(*packages: str) -> None:
    for package in packages:
        try:
            importlib.import_module(package)
        except ModuleNotFoundError as error:
            raise _RefusedError(f"{error.name} is not installed: pip install 'jaxsoftmax[verify]'") from error


def _known(kind: str, asked: list[str], known: Iterable[str]) -> list[str] | None:
    """Returns the names asked for, each once, or None where nothing was asked."""
    unknown = [name for name in asked if not any(_stands_for(other, [name]) for other in known)]
    if unknown:
        raise _RefusedError(f"unknown {kind} {', '.join(map(repr, unknown))}; known: {', '.join(known)}")
    return list(dict.fromkeys(asked)) or None


def _stands_for(number: str, asked: list[str]) -> bool:
    """Returns whether a theorem is asked for by its number, or by that of which it is a named part (M8 of M8-empty)."""
    return number in asked or number.partition("-")[0] in asked


def _dtypes(theorems: Iterable["Theorem"]) -> list[str]:
    return list(dict.fromkeys(dtype for theorem in theorems for claim in theorem.claims for dtype in claim.dtypes))


def _implementation(against: str | None, theorems: list["Theorem"]) -> Any:
    if against is None:
        return importlib.import_module("jaxsoftmax")
    from jaxsoftmax.verify._certificate import DIFFERENTIAL
    from jaxsoftmax.verify._implementations import UnknownImplementationError, offered, resolve

    try:
        implementation = resolve(against)
    except UnknownImplementationError as error:
        raise _RefusedError(f"--against: {error}") from error
    functions = list(dict.fromkeys(f for theorem in theorems for f in theorem.functions if f != DIFFERENTIAL))
    if functions and not offered(implementation, functions):
        raise _RefusedError(f"--against: {against!r} offers none of the functions to judge: {', '.join(functions)}")
    return implementation


def _label(against: str) -> str:
    return "jax.nn" if against == "jax" else against


def _certify(implementation: Any, theorems: list[str] | None, dtypes: list[str] | None, quick: bool) -> "Report":
    from jaxsoftmax.verify import certify

    with _progress() as progress:
        return certify(implementation, theorems=theorems, dtypes=dtypes, quick=quick, progress=progress)


@contextmanager
def _progress() -> Iterator[Callable[[int, int, str], None]]:
    """Shows a bar with the time remaining on stderr, if that is a terminal."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = _console(sys.stderr)
    columns = (
        TextColumn("verify"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.description}", markup=False),
    )
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=None)

        def advance(done: int, total: int, label: str) -> None:
            bar.update(task, completed=done, total=total, description=label)

        yield advance


def _console(stream: Any) -> "Console":
    from rich.console import Console

    if hasattr(stream, "reconfigure"):
        stream.reconfigure(errors="replace")  # a terminal without ✓ or ∞ shows "?" for it
    console = Console(file=stream, markup=False, highlight=False, emoji=False)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = _PIPED_WIDTH
    return console


_Render = Callable[["Report", dict[str, "Theorem"], list[str]], str]


def _files(arguments: argparse.Namespace) -> list[tuple[Path, _Render]]:
    """Returns the files asked for, each with what renders it; proves first that each can be written."""
    renders: dict[str, _Render] = {"json": _as_json, "html": _as_page}
    files = [(getattr(arguments, name), render) for name, render in renders.items() if getattr(arguments, name)]
    for path, _ in files:
        _check_writable(path)
    if len({path.resolve() for path, _ in files}) < len(files):
        raise _RefusedError("--json and --html name the same file")
    return files


def _as_json(report: "Report", theorems: dict[str, "Theorem"], command: list[str]) -> str:
    document = {"command": command, "date": _now()} | report.as_dict()
    return json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def _as_page(report: "Report", theorems: dict[str, "Theorem"], command: list[str]) -> str:
    from jaxsoftmax.verify._page import render_page

    return render_page(report, theorems, command, _now())


def _now() -> str:
    return datetime.now(UTC).isoformat(sep=" ", timespec="seconds")


def _check_writable(path: Path) -> None:
    """Refuses a path that can't be written, and leaves nothing behind."""
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
        raise _RefusedError(_unwritable(path, error)) from error


def _write(path: Path, content: bytes) -> str | None:
    """Writes the whole file or leaves what was there; returns the complaint if it can't."""
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
