"""The command's handling of Ctrl-C and failed imports before `cli` is imported, and of Ctrl-C at exit.

`cli` is imported after the package, and so after JAX, which takes seconds. Where the package is imported by
another program than `jaxsoftmax`, this module changes nothing.
"""

import _thread
import os
import signal
import sys
import threading
from contextlib import suppress
from pathlib import PurePath
from types import FrameType, TracebackType
from typing import Any, NoReturn

from jaxsoftmax import _terminal


def hand_over_to_cli() -> None:
    """Restores Python's own handling of Ctrl-C and of uncaught exceptions."""
    sys.excepthook = sys.__excepthook__
    _replace_handler(_interrupted, signal.default_int_handler)


def end_quietly_on_ctrl_c() -> None:
    """Makes Ctrl-C end the process silently: while exiting, Python would print a traceback."""
    _replace_handler(signal.default_int_handler, signal.SIG_DFL)


def _replace_handler(before: Any, after: Any) -> None:
    if signal.getsignal(signal.SIGINT) is before:  # SIGINT may be ignored, as in the background
        signal.signal(signal.SIGINT, after)


def _is_program(argv: list[str], orig_argv: list[str]) -> bool:
    """Returns whether this process is `jaxsoftmax` or `python -m jaxsoftmax`; its workers share `argv` alone."""
    if argv[:1] == ["-m"]:  # what Python puts there until it has imported the package of the module to run
        return "-m" in orig_argv and orig_argv[orig_argv.index("-m") :][1:2] == ["jaxsoftmax"]
    return bool(argv) and PurePath(argv[0]).stem == "jaxsoftmax" and argv[0] in orig_argv


def _interrupted(number: int, frame: FrameType | None) -> NoReturn:
    _leave("interrupted", _terminal.INTERRUPTED)


def _failed(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> NoReturn:
    _leave(f"cannot be imported: {kind.__name__}: {error}", _terminal.REFUSED)


def _raise_again(dropped: Any) -> None:
    """Interrupts again if Python dropped a KeyboardInterrupt, as it does in finalisers and callbacks."""
    if issubclass(dropped.exc_type, KeyboardInterrupt):
        threading.Timer(0.1, _thread.interrupt_main).start()  # not at once: the finaliser is still running
    else:
        sys.__unraisablehook__(dropped)


def _leave(reason: str, code: int) -> NoReturn:
    line = " ".join(f"jaxsoftmax: {reason}".split()) + "\n"
    with suppress(OSError):
        os.write(2, line.encode("utf-8", "backslashreplace"))
    os._exit(code)


if _is_program(sys.argv, sys.orig_argv):
    sys.excepthook = _failed
    sys.unraisablehook = _raise_again
    _replace_handler(signal.default_int_handler, _interrupted)  # imports may swallow or report an exception
