"""A worker answers, says what failed, and never outlives whoever started it."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from jaxsoftmax.bench._worker import Worker, WorkerDiedError, WorkerError
from tests.bench.processes import is_gone

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.skipif(os.name != "posix", reason="looks for processes by their number, and sends signals")

PARENT = """
import time
from jaxsoftmax.bench._worker import Worker
from tests.bench.test_worker import Echo
if __name__ == "__main__":
    with Worker(Echo, "there") as worker:
        print(worker.ask("pid"), flush=True)
        {then}
"""


class Echo:
    def __init__(self, place):
        self.place = place

    def where(self):
        return self.place

    def pid(self):
        return os.getpid()

    def fail(self):
        raise ValueError("two\nlines")

    def die(self):
        os._exit(3)

    def sleep(self):
        time.sleep(60)


def _sleep_in(worker):
    """Leaves the worker while it sleeps, as Ctrl-C would."""
    with worker:
        assert worker.ask("pid") == worker.pid
        worker._connection.send(("sleep", ()))
        raise TimeoutError


def _parent(tmp_path, then):
    script = tmp_path / "parent.py"
    script.write_text(PARENT.format(then=then))
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [sys.executable, script],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        start_new_session=True,
    )


def test_a_worker_answers_from_another_process_and_reports_what_fails_there():
    with Worker(Echo, "there") as worker:
        assert worker.ask("where") == "there"
        pid = worker.ask("pid")
        assert pid == worker.pid != os.getpid()
        with pytest.raises(WorkerError, match="ValueError: two\nlines"):
            worker.ask("fail")
        assert worker.ask("where") == "there"
        with pytest.raises(WorkerDiedError, match="exit code 3"):
            worker.ask("die")
    assert is_gone(pid)


def test_an_exception_ends_a_worker_that_is_busy():
    worker = Worker(Echo, "there")
    with pytest.raises(TimeoutError):
        _sleep_in(worker)
    assert is_gone(worker.pid)


@pytest.mark.slow
def test_a_worker_ends_when_its_parent_is_killed(tmp_path):
    parent = _parent(tmp_path, "time.sleep(60)")
    with parent:
        pid = int(parent.stdout.readline())
        parent.kill()
        parent.communicate(timeout=30)
    assert is_gone(pid)


@pytest.mark.slow
@pytest.mark.skipif(signal.getsignal(signal.SIGINT) is signal.SIG_IGN, reason="children inherit the ignored SIGINT")
def test_ctrl_c_ends_the_worker_without_a_word_from_it(tmp_path):
    parent = _parent(tmp_path, 'worker.ask("sleep")')
    with parent:
        pid = int(parent.stdout.readline())
        os.killpg(parent.pid, signal.SIGINT)
        _, error = parent.communicate(timeout=30)
    assert error.count("Traceback") == error.count("KeyboardInterrupt") == 1  # the parent's own
    assert is_gone(pid)
