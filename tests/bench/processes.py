"""Whether processes are gone; one that is dead, though nobody has asked for its exit code yet, is."""

import os
import time
from pathlib import Path

_ATTEMPTS, _PAUSE = 200, 0.05


def is_gone(pid):
    """Whether the process ends within ten seconds."""
    return _comes_true(lambda: not _is_alive(pid))


def is_session_empty(leader):
    """Whether, on Linux, every process of a session ends within ten seconds."""
    return _comes_true(lambda: leader not in {_fields(pid)[3] for pid in _every_pid() if _is_alive(pid)})


def _comes_true(condition):
    for _ in range(_ATTEMPTS):
        if condition():
            return True
        time.sleep(_PAUSE)
    return False


def _is_alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return not Path("/proc/self/stat").exists() or _fields(pid)[0] not in ("Z", None)


def _every_pid():
    return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdecimal()]


def _fields(pid):
    """State, parent, group and session of a process on Linux."""
    try:
        state, *numbers = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[:4]
    except OSError:
        return None, None, None, None
    return state, *map(int, numbers)
