"""A checkpoint gives back every bit; one that is half-written, or of another run, is not taken."""

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.runner.checkpoints import Checkpoints, checkpoints_of
from experiments.runner.results import UnwritableResultsError

ROOT = Path(__file__).parents[2]
SETTINGS = {"seed": 0, "sizes": (2, 3), "rate": 0.1}


def every_kind_of_leaf(seed):
    with jax.enable_x64(True):
        double = jnp.array([seed / 3, 5e-324])
    return {
        "float32": jnp.array([seed / 3, -0.0, jnp.inf, jnp.nan, 1e-45]),
        "float64": double,
        "bfloat16": jnp.array([seed / 3], jnp.bfloat16),
        "numpy": np.array([seed * 1e-300, np.nan, -0.0]),
        "scalars": (np.float64(seed / 10), np.int64(2**62 + seed), seed / 10, seed),
        "integers": (jnp.array(seed), np.arange(3, dtype=np.uint32) + np.uint32(seed)),
        "keys": [jax.random.key(seed), jax.random.PRNGKey(seed), jax.random.split(jax.random.key(seed))],
    }


def bits(tree):
    def of(leaf):
        is_key = jnp.issubdtype(getattr(leaf, "dtype", np.float64), jax.dtypes.prng_key)
        array = np.asarray(jax.random.key_data(leaf) if is_key else leaf)
        return str(array.dtype), array.shape, array.tobytes()

    return jax.tree.map(of, tree)


@pytest.fixture
def directory(tmp_path):
    return tmp_path / ".sample.checkpoints"


@pytest.fixture
def opened(directory):
    """Opens the checkpoints again each time, as another process would."""
    every = []

    def open_again():
        every.append(Checkpoints(directory))
        return every[-1]

    yield open_again
    for checkpoints in every:
        checkpoints.close()


def test_restored_tree_is_the_saved_one_bit_for_bit(opened, capfd):
    tree, another = every_kind_of_leaf(seed=3), every_kind_of_leaf(seed=4)
    opened().save(3, tree)
    step, restored = opened().latest(another)
    assert step == 3
    assert bits(restored) == bits(tree)
    assert jax.tree.structure(restored) == jax.tree.structure(tree)
    output, error = capfd.readouterr()
    assert output == ""
    assert error.startswith("resuming at step 3 ")
    assert error.count("\n") == 1


def test_newest_checkpoint_alone_is_kept(opened, directory):
    checkpoints = opened()
    for step in (1, 2, 10):
        checkpoints.save(step, {"x": np.full(2, step)})
    assert [path.name for path in directory.iterdir()] == ["10"]
    assert opened().latest({"x": np.zeros(2, int)})[1]["x"].tolist() == [10, 10]


def test_there_is_none_before_the_first_and_nothing_is_left_behind(opened, tmp_path):
    assert opened().latest({"x": np.zeros(2)}) is None
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("like", [{"x": np.zeros(3)}, {"x": np.zeros(2, np.float32)}, {"y": np.zeros(2)}])
def test_checkpoint_of_another_tree_is_removed(opened, tmp_path, like):
    opened().save(1, {"x": np.zeros(2)})
    assert opened().latest(like) is None
    assert list(tmp_path.iterdir()) == []


def test_run_starts_from_the_beginning_after_another_tree(opened):
    opened().save(5, {"x": np.zeros(3)})
    checkpoints = opened()
    assert checkpoints.latest({"x": np.zeros(2)}) is None
    checkpoints.save(1, {"x": np.ones(2)})
    assert opened().latest({"x": np.zeros(2)})[0] == 1


def test_complete_run_leaves_nothing(opened, tmp_path):
    checkpoints = opened()
    checkpoints.save(1, {"x": np.zeros(2)})
    checkpoints.remove()
    checkpoints.remove()
    assert list(tmp_path.iterdir()) == []


ENDLESS = """
import itertools, sys
from pathlib import Path
import numpy as np
from experiments.runner.checkpoints import Checkpoints
checkpoints = Checkpoints(Path(sys.argv[1]))
for step in itertools.count(1):
    checkpoints.save(step, {str(part): np.full(2**16, step) for part in range(8)})
    print(step, flush=True)
"""


@pytest.mark.slow
def test_whenever_it_is_killed_the_checkpoint_is_whole_and_not_older_than_the_last_one_reported(directory):
    for delay in (0.0, 0.01, 0.03):
        command = [sys.executable, "-c", ENDLESS, str(directory)]
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
            process.stdout.readline()
            time.sleep(delay)
            process.send_signal(signal.SIGKILL)
            reported = [1, *map(int, process.stdout.read().split())][-1]
        checkpoints = Checkpoints(directory)
        step, tree = checkpoints.latest({str(part): np.zeros(2**16, int) for part in range(8)})
        assert reported <= step <= reported + 1
        assert {int(value) for part in tree.values() for value in part} == {step}
        checkpoints.remove()


def test_half_written_checkpoint_is_not_taken(opened, directory, monkeypatch, capfd):
    checkpoints = opened()
    checkpoints.save(1, {"x": np.ones(2)})
    with monkeypatch.context() as killed:
        killed.setattr(os, "rename", interrupt)
        killed.setattr(Path, "rename", interrupt)
        with pytest.raises(KeyboardInterrupt):
            checkpoints.save(2, {"x": np.zeros(2)})
    assert len(list(directory.iterdir())) == 2
    assert opened().latest({"x": np.zeros(2)})[0] == 1
    assert capfd.readouterr().err.count("\n") == 1


def interrupt(*_):
    raise KeyboardInterrupt


@pytest.mark.skipif(signal.getsignal(signal.SIGINT) is signal.SIG_IGN, reason="Ctrl-C is ignored here")
def test_ctrl_c_in_the_middle_of_a_save_waits_for_its_end(opened, monkeypatch):
    checkpoints = opened()
    rename = os.rename
    monkeypatch.setattr(os, "rename", lambda *paths, **options: (signal.raise_signal(signal.SIGINT), rename(*paths)))
    with pytest.raises(KeyboardInterrupt):
        checkpoints.save(1, {"x": np.ones(2)})
    monkeypatch.undo()
    assert opened().latest({"x": np.zeros(2)})[0] == 1


@pytest.mark.parametrize("change", [{"seed": 1}, {"sizes": (2, 4)}, {"rate": np.nextafter(0.1, 1)}, {"more": None}])
def test_each_settings_have_their_own_beside_the_results(tmp_path, capfd, change):
    long, short = (checkpoints_of(tmp_path, "sample", settings) for settings in (SETTINGS, SETTINGS | change))
    long.save(5000, {"x": np.ones(2)})
    assert short.latest({"x": np.zeros(2)}) is None
    short.save(10, {"x": np.zeros(2)})
    short.remove()
    assert capfd.readouterr().err == ""
    assert checkpoints_of(tmp_path, "sample", SETTINGS).latest({"x": np.zeros(2)})[0] == 5000
    long.remove()
    assert list(tmp_path.iterdir()) == []


def test_checkpoint_that_cannot_be_written_is_one_line(opened, directory, monkeypatch):
    checkpoints = opened()
    checkpoints.save(1, {"x": np.ones(2)})
    monkeypatch.setattr(checkpoints._opened, "save", full_disk)
    with pytest.raises(UnwritableResultsError, match="No space left on device") as found:
        checkpoints.save(2, {"x": np.ones(2)})
    assert str(directory) in str(found.value)


def full_disk(*_, **__):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
