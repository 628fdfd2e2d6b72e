"""Experiments: each claim has its folder, NAME/claim.py; the other folders hold what they share.

Run them all with ``python -m experiments``, or one with, for example, ``python -m experiments jacobian``.
"""

import _thread
import os
import sys
import threading
from types import TracebackType
from typing import Any


def _end_in_one_line(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Reports a Ctrl-C that arrives while the imports still run; any other error keeps its traceback."""
    if not issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, error, trace)
        return
    print("experiments: interrupted", file=sys.stderr, flush=True)
    os._exit(130)


def _raise_again(dropped: Any) -> None:
    """Has a Ctrl-C come again that Python dropped, as it drops whatever is raised in a finaliser or a callback."""
    if issubclass(dropped.exc_type, KeyboardInterrupt):
        threading.Timer(0.1, _thread.interrupt_main).start()  # not at once: the finaliser is still running
    else:
        sys.__unraisablehook__(dropped)


# Python sets `argv[0]` to "-m" only while it imports the package of a module started by `python -m`, so an
# ordinary `import experiments` changes nothing. `main` handles a Ctrl-C that comes after the imports.
if sys.argv[:1] == ["-m"]:
    sys.excepthook = _end_in_one_line
    sys.unraisablehook = _raise_again
