"""Several processes give the run of one, another run is noticed, and a dead process ends the job."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from experiments.__main__ import main as run_experiments
from experiments.data.digits import standardised_digits
from experiments.multihost import claim as multihost
from experiments.multihost import worker
from experiments.multihost.job import shape_over
from experiments.multihost.sharded_training import (
    BATCH,
    Batch,
    Run,
    batches,
    mesh_of,
    sharded,
    train_alone,
    train_on_mesh,
    ulps_apart,
)
from experiments.runner.processes import ProcessDiedError, ProcessGroup
from tests.experiments.process_table import TABLE, children_of, runs, seconds_until

ROOT = Path(__file__).parents[2]
STEPS = 13  # an epoch of 11 batches, the last of which is short, and two more
reads_process_table = pytest.mark.skipif(not (TABLE / "self/stat").exists(), reason="looks for processes in /proc")


@pytest.fixture(scope="module")
def digits():
    return standardised_digits(seed=0)


@pytest.fixture(scope="module")
def alone(digits):
    return train_alone(digits, batches(digits, STEPS, 0))


def measured(directory, *options):
    assert run_experiments(["multihost", "--quick", "--results", str(directory), *options]) == 0
    return json.loads((directory / "multihost.json").read_text())["measurements"]


@pytest.mark.slow
def test_four_processes_with_half_the_digits_and_classes_each_give_the_run_of_one(tmp_path):
    found = measured(tmp_path, "--processes", "4", "--mesh", "2x2")
    held = {"mesh": "2x2", "processes": 4, "devices": 4, "own_digits": 64, "own_classes": 5}
    assert found["process 0"] == held


@pytest.mark.slow
@pytest.mark.parametrize("mesh", ["3x1", "1x3"])  # neither 128 digits nor 10 classes come in threes
def test_three_processes_give_the_run_of_one(mesh, tmp_path):
    assert measured(tmp_path, "--processes", "3", "--mesh", mesh)["process 0"]["mesh"] == mesh


@pytest.mark.slow
def test_mesh_of_one_process_gives_the_run_without_a_mesh(digits, alone):
    mesh = mesh_of((jax.device_count(), 1))
    assert ulps_apart(train_on_mesh(mesh, digits, batches(digits, STEPS, 0), lambda step, loss: None), alone).holds


@pytest.mark.slow
def test_run_with_one_label_wrong_in_one_step_is_noticed(digits, alone):
    def mislabelled():
        for step, batch in enumerate(batches(digits, STEPS, 0)):
            wrong = np.where(np.arange(len(batch.y)) == 0, (batch.y + 1) % 10, batch.y)
            yield batch if step != 5 else Batch(batch.x, wrong)

    apart = ulps_apart(train_alone(digits, mislabelled()), alone)
    assert apart.losses[:5].max() == 0.0
    assert not apart.holds


@pytest.mark.slow
@pytest.mark.parametrize("part", Run._fields)
@pytest.mark.parametrize("error", [1e-5, np.nan])
def test_one_wrong_number_of_a_run_is_noticed(alone, part, error):
    wrong = getattr(alone, part).copy()
    wrong.flat[np.abs(wrong).argmax()] *= 1 + error
    assert not ulps_apart(alone._replace(**{part: wrong}), alone).holds
    assert ulps_apart(alone, alone).worst == 0.0


def test_epoch_is_every_digit_once(digits):
    epoch = list(batches(digits, 11, seed=0))
    assert [len(batch.y) for batch in epoch] == [128] * 10 + [67]
    together = np.concatenate([batch.x for batch in epoch]), digits.train_x.astype(np.float32)
    rows, expected = (np.unique(x, axis=0, return_counts=True) for x in together)
    np.testing.assert_array_equal(rows[0], expected[0])
    np.testing.assert_array_equal(rows[1], expected[1])


def test_short_batch_is_padded_with_ignored_labels(digits):
    x, y = sharded(mesh_of((jax.device_count(), 1)), Batch(digits.train_x[:67], digits.train_y[:67]))
    assert len(x) == len(y) == BATCH
    assert (y[:67] == digits.train_y[:67]).all()
    assert (y[67:] == -1).all()


@pytest.mark.parametrize(("devices", "shape"), [(1, (1, 1)), (2, (2, 1)), (4, (2, 2)), (6, (3, 2)), (7, (7, 1))])
def test_default_mesh_is_as_square_as_possible(devices, shape):
    assert shape_over(devices, None) == shape


WRONG = ["--processes 0", "--processes x", "--processes 65", "--mesh 3x2 --processes 4", "--mesh 2xx", "--mesh 0x4"]
WRONG += ["--steps 0", "--steps 1.5"]


@pytest.mark.parametrize("options", WRONG)
def test_wrong_input_is_one_line_and_exit_2(options, capsys):
    with pytest.raises(SystemExit, match="2"):
        run_experiments(["multihost", *options.split()])
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize("options", ["--mesh 4", "--processes 0", "--worker", "--results here", "--seed x"])
def test_wrong_input_to_a_worker_is_one_line_and_exit_2(options, capsys):
    with pytest.raises(SystemExit, match="2"):
        worker.main(options.split())
    assert capsys.readouterr().err.count("\n") == 1


@pytest.fixture
def job(tmp_path):
    """A launcher of two processes in the midst of their steps."""
    endless = ["--processes", "2", "--steps", "100000000", "--results", str(tmp_path / "results")]
    command = [sys.executable, "-m", "experiments", "multihost", *endless]
    here, pipes = os.environ | {"TMPDIR": str(tmp_path)}, {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, cwd=ROOT, env=here, text=True, **pipes) as launcher:
        try:
            seconds_until(lambda: any('"step"' in path.read_text() for path in tmp_path.glob("*/0.out")), within=60.0)
            yield launcher
        finally:
            launcher.kill()


@pytest.mark.slow
@reads_process_table
def test_killed_process_ends_the_job_with_its_name_in_seconds(job, tmp_path):
    workers = children_of(job.pid)
    os.kill(workers[1], signal.SIGKILL)
    output, error = job.communicate(timeout=15)
    assert (job.returncode, output) == (1, "")
    named = f"experiments multihost: error: process 1 (pid {workers[1]}) was killed by SIGKILL;"
    assert error.startswith(named)
    assert not any(map(runs, workers))
    assert [path.name for path in tmp_path.iterdir()] == ["results"]


@pytest.mark.slow
@reads_process_table
@pytest.mark.skipif(signal.getsignal(signal.SIGINT) is signal.SIG_IGN, reason="children inherit the ignored SIGINT")
@pytest.mark.parametrize(
    ("sent", "code", "said"),
    [(signal.SIGKILL, -9, ""), (signal.SIGTERM, -15, ""), (signal.SIGINT, 130, "experiments multihost: interrupted\n")],
)
def test_no_process_outlives_its_launcher(sent, code, said, job):
    workers = children_of(job.pid)
    assert len(workers) == 2
    job.send_signal(sent)
    assert job.communicate(timeout=15) == ("", said)
    assert job.returncode == code
    seconds_until(lambda: not any(map(runs, workers)), within=15.0)


FAILING = """
import sys
from experiments.multihost import worker

def five(each):
    for _ in range(5):
        yield next(each)
    raise RuntimeError("out of digits")

def train(mesh, digits, each, report):
    return train_on_mesh(mesh, digits, five(each), report)

train_on_mesh, worker.train_on_mesh = worker.train_on_mesh, train
sys.exit(worker.main(sys.argv[1:]))
"""


@pytest.mark.slow
def test_process_that_fails_does_not_wait_for_those_that_wait_for_it():
    port = multihost._free_port()
    commands = [multihost._command(multihost.Job(2, (2, 1), 100_000), 0, port, index) for index in range(2)]
    commands[1][1:3] = ["-c", FAILING]
    start = time.monotonic()
    out_of_digits = pytest.raises(ProcessDiedError, match=r"^process 1 (.|\n)*RuntimeError: out of digits$")
    with ProcessGroup(commands, multihost._environment(port), ROOT) as group, out_of_digits:
        list(group.lines())
    assert time.monotonic() - start < 60.0


@pytest.mark.slow
def test_worker_without_flags_joins_the_others_of_a_slurm_job_and_compares():
    """As `srun --ntasks=2` starts them; JAX makes the port of the job's number."""
    port = 61440 + os.getpid() % 4096
    job = {"SLURM_JOB_ID": str(port - 61440), "SLURM_STEP_NODELIST": "localhost", "SLURM_STEP_NUM_NODES": "1"}
    environment = multihost._environment(port) | job | {"SLURM_NTASKS": "2"}
    command = [sys.executable, "-m", "experiments.multihost.worker", "--mesh", "1x2", "--steps", str(STEPS)]
    tasks = [
        subprocess.Popen(command, cwd=ROOT, env=environment | place, stdout=subprocess.PIPE, text=True)
        for place in ({"SLURM_PROCID": str(task), "SLURM_LOCALID": str(task)} for task in range(2))
    ]
    try:
        outputs = [task.communicate(timeout=100)[0] for task in tasks]
    finally:
        for task in tasks:
            task.kill()
    assert [task.returncode for task in tasks] == [0, 0]
    assert json.loads(outputs[0].splitlines()[-1])["equals_one_device"] is True
