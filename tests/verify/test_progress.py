"""What the commands say of their progress where stderr is no terminal."""

import os
import sys
from types import SimpleNamespace

import pytest

from jaxsoftmax import _terminal


@pytest.fixture
def clock(monkeypatch):
    """The time in seconds, which stands until a test moves it."""
    clock = SimpleNamespace(seconds=0.0)
    monkeypatch.setattr(_terminal, "time", SimpleNamespace(monotonic=lambda: clock.seconds))
    return clock


def _run(clock, steps, seconds_a_step):
    with _terminal.progress("verify") as advance:
        for done in range(steps + 1):
            clock.seconds = done * seconds_a_step
            advance(done, steps, "a step")


def test_a_long_run_says_at_each_tenth_what_it_took_and_what_remains(clock, capsys):
    _run(clock, 200, 2.0)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 10
    assert lines[0] == "verify: 20 of 200 after 40 s, about 360 s to go"
    assert lines[-1] == "verify: 200 of 200 after 400 s, about 0 s to go"


def test_a_run_of_few_steps_says_each(clock, capsys):
    _run(clock, 3, 60.0)
    assert [line.split(" after ")[0] for line in capsys.readouterr().err.splitlines()] == [
        "verify: 1 of 3",
        "verify: 2 of 3",
        "verify: 3 of 3",
    ]


def test_lines_are_ten_seconds_apart_at_least(clock, capsys):
    _run(clock, 100, 0.4)
    assert [line.split()[1] for line in capsys.readouterr().err.splitlines()] == ["25", "50", "75", "100"]


@pytest.mark.parametrize("steps", [0, 1, 1000])
def test_a_short_run_is_silent(clock, capsys, steps):
    _run(clock, steps, 9.0 / max(steps, 1))
    assert capsys.readouterr() == ("", "")


def test_a_run_goes_on_where_nobody_reads_its_progress(clock, monkeypatch):
    reader, writer = os.pipe()
    os.close(reader)
    monkeypatch.setattr(sys, "stdout", sys.stdout)  # to be restored
    with open(writer, "w") as closed:
        monkeypatch.setattr(sys, "stderr", closed)
        _terminal.guard_streams()
        _run(clock, 10, 60.0)
    assert clock.seconds == 600.0
