"""A group of processes ends as one, whoever dies first."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from experiments.runner import processes as _processes
from experiments.runner.processes import ProcessDiedError, ProcessGroup
from tests.experiments.process_table import runs, seconds_until

pytestmark = pytest.mark.skipif(os.name != "posix", reason="sends signals")
ROOT = Path(__file__).parents[2]

SAY_PID = "import os, sys, time; print(os.getpid(), flush=True);"
SLEEP = SAY_PID + "time.sleep(60)"
STUBBORN = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN);" + SLEEP
FAIL = "import sys; print('the reason', file=sys.stderr); sys.exit(3)"
FOLLOW = "from experiments.runner.processes import end_with_parent; end_with_parent();" + SLEEP
LAUNCH = f"""
import os, sys
from pathlib import Path
from experiments.runner.processes import ProcessGroup
with ProcessGroup([[sys.executable, "-c", {FOLLOW!r}]] * 2, os.environ, Path.cwd()) as group:
    for line in group.lines():
        print(line, flush=True)
"""


def group_of(*programs):
    return ProcessGroup([[sys.executable, "-c", program] for program in programs], os.environ, ROOT)


def pids_of(group):
    return [process.pid for process in group._processes]


def run_out(group):
    with group:
        list(group.lines())


def test_lines_are_those_of_process_0_and_end_when_all_have_ended():
    start = time.monotonic()
    with group_of("print('one'); print('two')", "import time; print('three'); time.sleep(0.5)") as group:
        assert list(group.lines()) == ["one", "two"]
        assert time.monotonic() - start >= 0.5


def test_killed_process_is_named_and_the_others_are_ended():
    group = group_of(SLEEP, f"import os, signal; os.kill(os.getpid(), {signal.SIGKILL:d})", SLEEP)
    with pytest.raises(ProcessDiedError) as caught:
        run_out(group)
    pids = pids_of(group)
    assert str(caught.value) == f"process 1 (pid {pids[1]}) was killed by SIGKILL; all others have been ended"
    assert not any(map(runs, pids))


def test_failed_process_is_named_with_its_last_words():
    group = group_of(SLEEP, FAIL)
    with pytest.raises(ProcessDiedError, match=r"^process 1 .* ended with exit code 3; .*\n  the reason$"):
        run_out(group)
    assert not any(map(runs, pids_of(group)))


def test_process_that_ignores_sigterm_is_killed(monkeypatch):
    monkeypatch.setattr(_processes, "_GRACE_SECONDS", 0.2)
    with group_of(STUBBORN) as group:
        pid = int(next(group.lines()))
        start = time.monotonic()
    assert time.monotonic() - start < 5.0
    assert not runs(pid)


def test_leaving_the_context_early_ends_them_all_and_leaves_no_file():
    with group_of(SLEEP, SLEEP) as group:
        next(group.lines())
        output = Path(group._output.name)
        assert all(map(runs, pids_of(group)))
    assert not any(map(runs, pids_of(group)))
    assert not output.exists()


def test_group_whose_second_process_cannot_start_ends_the_first():
    group = ProcessGroup([[sys.executable, "-c", SLEEP], ["/nonexistent"]], os.environ, ROOT)
    with pytest.raises(FileNotFoundError):
        run_out(group)
    assert [runs(pid) for pid in pids_of(group)] == [False]


def test_children_of_a_killed_parent_end(tmp_path):
    here = os.environ | {"TMPDIR": str(tmp_path)}  # what a killed parent leaves behind
    parent = subprocess.Popen([sys.executable, "-c", LAUNCH], stdout=subprocess.PIPE, text=True, cwd=ROOT, env=here)
    with parent:
        pid = int(parent.stdout.readline())
        assert runs(pid)
        parent.kill()
    seconds_until(lambda: not runs(pid), within=10.0)
