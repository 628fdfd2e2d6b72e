"""A measurement: every subject on every case, those that fail recorded, and memory in fresh processes."""

import os
import signal
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from jaxsoftmax.bench import _measure
from jaxsoftmax.bench._case import GRADIENT, IN_GRAPH, LARGEST, VALUE, Case
from jaxsoftmax.bench._inputs import inputs
from jaxsoftmax.bench._jax_runner import JaxRunner
from jaxsoftmax.bench._measure import Effort, measure
from jaxsoftmax.bench._memory import PeakMemory
from jaxsoftmax.bench._reference import judge
from jaxsoftmax.bench._worker import Worker
from tests.bench.processes import is_session_empty
from tests.tiers import in_tiers

LINEAR = Case("linear", (20, 6, 40), "float32", quantity=GRADIENT)
PLAIN = Case("plain", (20, 40), "float32", quantity=GRADIENT)
BRIEF = Effort(seconds=0.0, fresh=False)


def _ignore(done, total, label):
    pass


class FakeRunner:
    """Stands in for a compiled program: its clock ticks as planted, and its gradient is the textbook's or wrong."""

    compile_seconds, temp_bytes, output_bytes = 0.5, 10, 20
    seconds_of = {"jaxsoftmax": 2.0, "optax": 4.0, "floor": 1.0}  # noqa: RUF012  # never changed
    calls: list = []  # noqa: RUF012  # shared on purpose: of all runners

    def __init__(self, subject, case, arrays):
        if subject == "jax":
            raise NotImplementedError("no such shape\nand a long story")
        self.subject, self.arrays = subject, arrays

    def seconds(self):
        self.calls.append(self.subject)
        return self.seconds_of[self.subject]

    def gradients(self):
        return (np.full(self.arrays[0].shape, 1.0 if self.subject == "optax" else 0.0),)


@pytest.fixture
def fake(monkeypatch):
    monkeypatch.setattr(_measure, "JaxRunner", FakeRunner)
    monkeypatch.setattr(FakeRunner, "calls", [])
    return FakeRunner


def test_after_a_warm_up_of_each_the_subjects_take_turns(fake):
    measure([PLAIN], (), Effort(repetitions=2, fresh=False), _ignore)
    assert fake.calls == ["jaxsoftmax", "optax", "floor"] * 3


def test_ratios_are_those_of_the_planted_clock(fake):
    rows = {row.subject: row for row in measure([PLAIN], (), BRIEF, _ignore)}
    assert {name: row.to_base.median for name, row in rows.items()} == {"jaxsoftmax": 0.5, "optax": 1.0, "floor": 0.25}
    assert {name: row.to_floor.median for name, row in rows.items()} == {"jaxsoftmax": 2.0, "optax": 4.0, "floor": 1.0}
    assert rows["jaxsoftmax"].gradient_error == pytest.approx(1.0)
    assert rows["floor"].gradient_error is None


def test_a_subject_that_fails_is_recorded_and_the_others_go_on(fake):
    rows = {row.subject: row for row in measure([PLAIN], ("jax",), BRIEF, _ignore)}
    assert list(rows) == ["jaxsoftmax", "optax", "jax", "floor"]
    assert rows["jax"].failure == "NotImplementedError: no such shape"
    assert rows["jax"].seconds is None
    assert rows["jaxsoftmax"].rounds == 5


def test_a_subject_that_fails_in_a_later_round_is_recorded_and_the_others_start_again(fake, monkeypatch):
    def seconds(self):
        self.calls.append(self.subject)
        if (self.subject, self.calls.count("optax")) == ("optax", 3):
            raise MemoryError("out of memory")
        return 1.0

    monkeypatch.setattr(fake, "seconds", seconds)
    rows = {row.subject: row for row in measure([PLAIN], (), BRIEF, _ignore)}
    assert rows["optax"].failure == "MemoryError: out of memory"
    assert rows["jaxsoftmax"].to_base is None
    assert rows["jaxsoftmax"].rounds == rows["floor"].rounds == 5


def test_data_too_large_for_the_machine_fails_every_subject_in_one_line_each(fake):
    rows = measure([Case("plain", (1 << 20, LARGEST), "float32")], (), BRIEF, _ignore)
    assert [row.subject for row in rows] == ["jaxsoftmax", "optax", "floor"]
    assert all("MemoryError: Unable to allocate" in row.failure for row in rows)


def test_gradients_that_cannot_be_had_are_a_failure(fake, monkeypatch):
    def gradients(self):
        if self.subject == "optax":
            raise MemoryError("out of memory")
        return (np.asarray(self.arrays[0]),)

    monkeypatch.setattr(fake, "gradients", gradients)
    rows = {row.subject: row for row in measure([PLAIN], (), BRIEF, _ignore)}
    assert rows["optax"].failure == "MemoryError: out of memory"
    assert rows["jaxsoftmax"].failure == ""


def test_progress_counts_every_step_to_the_last(fake):
    seen = []
    measure(
        [PLAIN, Case("linear", (2, 3, 4), "float32")], (), BRIEF, lambda done, total, label: seen.append((done, total))
    )
    assert seen == [(done, 10) for done in range(10)]


PASSES = {(20, 40): (VALUE, GRADIENT, IN_GRAPH), (20, 6, 40): (VALUE, GRADIENT)}


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize(("kind", "shape"), [("plain", (20, 40)), ("linear", (20, 6, 40))])
def test_every_subject_runs_in_every_pass(kind, shape, dtype):
    cases = [Case(kind, shape, dtype, quantity=quantity) for quantity in PASSES[shape]]
    rows = measure(cases, ("jax",), BRIEF, _ignore)
    assert [row.failure for row in rows] == [""] * 4 * len(cases)
    bound = 1e-6 if dtype == "float32" else 0.05
    errors = [row.gradient_error for row in rows if row.subject != "floor" and row.case.quantity != VALUE]
    assert max(errors) < bound


@in_tiers("subject", ["jaxsoftmax", "optax", "jax"], first=["jaxsoftmax"])
def test_value_is_that_of_the_first_output_with_the_gradient(subject):
    value = JaxRunner(subject, Case("linear", LINEAR.shape, "float32"), inputs(LINEAR)).call()
    with_gradient, _ = JaxRunner(subject, LINEAR, inputs(LINEAR)).call()
    assert float(value) == pytest.approx(float(with_gradient), rel=1e-6)


@pytest.mark.skipif(find_spec("tokamax") is None, reason="tokamax is not installed")
@pytest.mark.filterwarnings("default")  # tokamax warns of what it does itself
def test_tokamax_agrees_where_its_blocks_divide_the_vocabulary():
    case = Case("linear", (64, 8, 2048), "float32", quantity=GRADIENT)
    runner = JaxRunner("tokamax", case, inputs(case))
    assert judge(case, inputs(case))(runner.gradients()).norm < 1e-6


@pytest.mark.slow
@pytest.mark.skipif(find_spec("torch") is None, reason="torch is not installed")
def test_torch_agrees_from_a_process_of_its_own_that_lives_from_case_to_case():
    in_graph = Case("plain", (20, 40), "float32", quantity=IN_GRAPH)
    low = Case("linear", (20, 6, 40), "bfloat16", quantity=GRADIENT)
    rows = [row for row in measure([PLAIN, LINEAR, in_graph], ("torch",), BRIEF, _ignore) if row.subject == "torch"]
    assert [row.failure for row in rows] == [""] * 3
    assert max(row.gradient_error for row in rows) < 1e-6
    (row,) = [row for row in measure([low], ("torch",), BRIEF, _ignore) if row.subject == "torch"]
    assert row.gradient_error < 0.05


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the peak from before the call is not forgotten")
@pytest.mark.parametrize(
    ("subject", "held"),
    [("optax", 1), pytest.param("jax", 3, marks=pytest.mark.slow), pytest.param("floor", 1, marks=pytest.mark.slow)],
)
def test_the_peak_of_a_fresh_process_is_what_the_subject_holds_beside_its_inputs(subject, held):
    case = Case("plain", (512, 32768), "float32", quantity=GRADIENT)
    with Worker(PeakMemory, "cpu") as worker:
        peak = worker.ask("of", subject, case)
    assert peak / (4 * 512 * 32768) == pytest.approx(held, rel=0.1)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")
@pytest.mark.skipif(signal.getsignal(signal.SIGINT) is signal.SIG_IGN, reason="children inherit the ignored SIGINT")
def test_ctrl_c_during_the_measurement_is_one_line_and_exit_130_and_leaves_no_file(tmp_path):
    command = [sys.executable, "-m", "jaxsoftmax", "bench", "--shape", "64,8,4096", "--repetitions", "1000000"]
    command += ["--json", str(tmp_path / "f.json"), "--plot", str(tmp_path / "f.png"), "--shape", "64,8,2048"]
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
        start_new_session=True,
    )
    with process:
        time.sleep(6.0)
        assert process.poll() is None
        os.killpg(process.pid, signal.SIGINT)
        output, error = process.communicate(timeout=60)
    assert (process.returncode, output, error) == (130, "", "jaxsoftmax bench: interrupted\n")
    assert list(tmp_path.iterdir()) == []
    assert is_session_empty(process.pid)
