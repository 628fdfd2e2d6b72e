"""Which processes run, by the operating system's own account."""

import os
import time
from pathlib import Path

TABLE = Path("/proc")


def runs(pid):
    """Whether it does; one that has ended, and that nobody has asked how, does not."""
    if not TABLE.exists():
        return exists(pid)
    fields = fields_of(TABLE / str(pid) / "stat")
    return bool(fields) and fields[0] not in "ZX"


def children_of(pid):
    """Sorted, so in the order in which they were started."""
    found = {int(path.parent.name): fields_of(path) for path in TABLE.glob("[0-9]*/stat")}
    return sorted(child for child, fields in found.items() if fields and int(fields[1]) == pid)


def seconds_until(condition, within):
    """How long it takes to hold; fails after `within` seconds."""
    start = time.monotonic()
    while not condition():
        assert time.monotonic() - start < within
        time.sleep(0.02)
    return time.monotonic() - start


def exists(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def fields_of(path):
    """State, parent and so on; the name before them may hold anything."""
    try:
        return path.read_text().rsplit(")", 1)[1].split()
    except (OSError, IndexError):
        return []
