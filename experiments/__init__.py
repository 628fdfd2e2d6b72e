"""Experiments: one claim a file, each derived or measured again every time it runs.

Run them all with ``python -m experiments``, or one with, for example, ``python -m experiments.jacobian``.
"""

import os
import sys
from types import TracebackType


def _end_in_one_line(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Reports a Ctrl-C that arrives while the imports still run; any other error keeps its traceback."""
    if not issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, error, trace)
        return
    print("experiments: interrupted", file=sys.stderr, flush=True)
    os._exit(130)


# Python sets `argv[0]` to "-m" only while it imports the package of a module started by `python -m`, so an
# ordinary `import experiments` changes nothing. `_experiment.run` handles a Ctrl-C that comes after the imports.
if sys.argv[:1] == ["-m"]:
    sys.excepthook = _end_in_one_line
