"""The command line: `jaxsoftmax verify`, `jaxsoftmax bench` and `jaxsoftmax info`.

What a command needs beyond the package's own dependencies is imported when it runs: `--help` needs none of it, and a
missing extra costs one line instead of a traceback. Exit codes: 0 the certificate holds or the benchmark has run, 1 the
certificate fails, or a benchmark has become worse or could not run this library, 2 nothing could be judged, measured or
written, 70 an error of jaxsoftmax itself, which comes with its traceback, 130 interrupted. `main` turns a refusal into
one line and an exit code; `command` also handles streams, signals and crashes.
"""

import argparse
import os
import platform
import sys
import traceback
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, NoReturn

from jaxsoftmax import __version__, _startup, _terminal
from jaxsoftmax._terminal import RefusedError
from jaxsoftmax.bench._case import DTYPES, FUNCTIONS, KINDS, LARGEST
from jaxsoftmax.bench._presets import PEERS, PRESETS


class _UsageError(Exception):
    """The parser refuses an argument; the message names the program."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise _UsageError(f"{self.prog}: {message}")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line.

    Args:
      argv: the arguments after the program's name; `sys.argv[1:]` if None.

    Returns:
      The exit code. `--help` and `--version` leave by SystemExit(0), as argparse has it.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    program = "jaxsoftmax"
    try:
        try:
            arguments = _parser().parse_args(argv)
            program = f"jaxsoftmax {arguments.command}"
            return arguments.run(arguments, ["jaxsoftmax", *argv])
        finally:
            sys.stdout.flush()  # a full device may show only here
    except _UsageError as error:
        return _complain(str(error), _terminal.REFUSED)
    except RefusedError as error:
        return _complain(f"{program}: {error}", _terminal.REFUSED)
    except KeyboardInterrupt:
        return _complain(f"{program}: interrupted", _terminal.INTERRUPTED)


def command() -> NoReturn:
    """Runs the command line as a program of its own."""
    try:
        _startup.hand_over_to_cli()
        _terminal.guard_streams()
        code = main()
        _startup.end_quietly_on_ctrl_c()
    except SystemExit:
        raise
    except KeyboardInterrupt:  # a second one, while the first was being reported
        code = _terminal.INTERRUPTED
    except BaseException:
        traceback.print_exc()
        code = _terminal.CRASHED
    if code == _terminal.INTERRUPTED:  # exit at once: XLA may still use memory that an orderly exit frees
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def _complain(line: str, code: int) -> int:
    print(" ".join(line.split()), file=sys.stderr, flush=True)
    return code


_OTHER_CODES = "70 an error of jaxsoftmax itself, 130 interrupted"
_MANY: dict[str, Any] = {"action": "extend", "nargs": "+", "default": []}


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="jaxsoftmax", description="Exact softmax losses for JAX, their certificate and their benchmark."
    )
    parser.add_argument("--version", action="version", version=f"jaxsoftmax {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="{verify,bench,info}")
    _add_verify(commands)
    _add_bench(commands)
    info = commands.add_parser(
        "info",
        help="print the versions and devices in use",
        description="Prints the versions and devices in use. Exit code: 0 they are printed, 2 JAX finds no device, or "
        f"they could not be written, {_OTHER_CODES}.",
        allow_abbrev=False,
    )
    info.set_defaults(run=_info)
    return parser


def _add_verify(commands: Any) -> None:
    verify = commands.add_parser(
        "verify",
        help="judge values and derivatives against 50-digit arithmetic, and print the certificate",
        description="Judges values and derivatives on this machine against closed forms in 50-digit arithmetic. "
        "Exit code: 0 every function that is offered is judged and holds, 1 one fails, 2 one couldn't be judged, or a "
        f"file not written, {_OTHER_CODES}.",
        allow_abbrev=False,
    )
    verify.set_defaults(run=_verify)
    add = verify.add_argument
    add("--theorem", **_MANY, metavar="M", help="judge only these theorems, such as M5 (default: all)")
    add("--dtype", **_MANY, help="judge only in these dtypes, such as float32 (default: all)")
    add(
        "--against",
        metavar="NAME",
        help="judge another implementation: jax, optax, or a module (or module:object) with functions of this "
        "library's names, looked up in the working directory first",
    )
    add("--json", type=Path, metavar="FILE", help="write every row of the certificate as JSON")
    add("--html", type=Path, metavar="FILE", help="write the certificate as one page with its figures")
    add("--quick", action="store_true", help="check fewer rows")
    add("--verbose", action="store_true", help="show every quantity of every function, and what was not judged of each")


def _add_bench(commands: Any) -> None:
    bench = commands.add_parser(
        "bench",
        help="measure time, memory and accuracy beside other libraries, on this machine",
        description="Measures the losses beside optax, other libraries and a floor, the least that can be done, in "
        "rounds of one call each, on this machine. Exit code: 0 measured, 1 a loss of jaxsoftmax failed or, with "
        f"--check, has become slower, larger or less exact, 2 nothing could be measured or written, {_OTHER_CODES}.",
        allow_abbrev=False,
    )
    bench.set_defaults(run=_bench)
    add = bench.add_argument
    add("kind", nargs="?", choices=KINDS, help="the loss over given logits, or of hidden @ kernel (default: both)")
    add("--shape", **_MANY, type=_shape, metavar="N,[D,]V", help="tokens, width (linear) and classes")
    functions = list(dict.fromkeys(sum(FUNCTIONS.values(), ())))
    offered = "; ".join(f"{kind}: {', '.join(names)}" for kind, names in FUNCTIONS.items())
    add("--function", **_MANY, choices=functions, metavar="FUNCTION", help=f"of {offered}")
    add("--dtype", **_MANY, choices=DTYPES, metavar="DTYPE", help=f"some of {', '.join(DTYPES)}")
    add(
        "--peer",
        **_MANY,
        choices=PEERS,
        metavar="PEER",
        help=f"some of {', '.join(PEERS)} (the base of the ratios is always there)",
    )
    add("--preset", choices=PRESETS, help="the shapes, dtypes and peers where none are given (default: cpu)")
    add("--quick", action="store_true", help="a few tiny shapes; no fresh processes for peak memory")
    add("--repetitions", type=_count, metavar="ROUNDS", help="rounds (default: 5 to 201, as many as fit in 6 s)")
    add("--huge-pages", action="store_true", help="run with glibc.malloc.hugetlb=1 (Linux)")
    add(
        "--target",
        metavar="TARGET",
        help="compile for tpu:v5p:2x2x1, cuda:h200 or the like, which isn't here; run nothing",
    )
    add("--detail", type=_count, metavar="K", default=0, help="with --target, show the K dearest instructions")
    add("--check", type=Path, metavar="FILE", help="run, or compile, the cases of an earlier --json again, and compare")
    add("--json", type=Path, metavar="FILE", help="write every row as JSON")
    add("--plot", type=Path, metavar="FILE", help="draw time and memory against vocabulary and tokens, as PNG")


def _shape(text: str) -> tuple[int, ...]:
    shape = tuple(map(_number, text.split(",")))
    if len(shape) not in (2, 3) or not all(shape) or shape[-1] < 2:
        expected = f"N,V or N,D,V in whole numbers from 1 to {LARGEST}, V from 2"
        raise argparse.ArgumentTypeError(f"expected {expected}, got {text!r}")
    return shape


def _count(text: str) -> int:
    if not _number(text):
        raise argparse.ArgumentTypeError(f"expected a whole number from 1 to {LARGEST}, got {text!r}")
    return _number(text)


def _number(text: str) -> int:
    """Returns a whole number from 1 to `LARGEST`; 0 for any other text."""
    number = int(text) if text.isdecimal() and len(text) <= len(str(LARGEST)) else 0
    return number if number <= LARGEST else 0


def _info(arguments: argparse.Namespace, command: list[str]) -> int:
    print(f"jaxsoftmax {__version__}")
    for package in ("jax", "jaxlib", "optax", "numpy"):
        print(f"{package} {metadata.version(package)}")
    print(f"python {platform.python_version()}")
    for device in _terminal.devices():
        print(f"device {device.id}: {device.platform}, {device.device_kind}")
    return _terminal.PASSED


def _verify(arguments: argparse.Namespace, command: list[str]) -> int:
    _terminal.require("verify", "mpmath", "rich", *(("jinja2", "matplotlib") if arguments.html else ()))
    from jaxsoftmax.verify._command import run

    return run(arguments, command)


def _bench(arguments: argparse.Namespace, command: list[str]) -> int:
    _terminal.require("bench", "rich", *(("matplotlib",) if arguments.plot else ()))
    from jaxsoftmax.bench._command import run

    return run(arguments, command)
