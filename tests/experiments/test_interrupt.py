"""Ctrl-C ends a running experiment in one line, whether it comes during the imports or during the measurement."""

import os
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest

import experiments

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(os.name != "posix", reason="sends SIGINT as a terminal does"),
    pytest.mark.skipif(signal.getsignal(signal.SIGINT) is signal.SIG_IGN, reason="children inherit the ignored SIGINT"),
]


def start(results, *options, module="derivation", arguments=()):
    command = [sys.executable, *options, "-m", "experiments", module, "--results", str(results), *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def interrupted(process):
    process.send_signal(signal.SIGINT)
    output, error = process.communicate(timeout=60)
    return process.returncode, output, error


def test_ctrl_c_during_the_imports_is_one_line_and_exit_130(tmp_path):
    process = start(tmp_path / "results", "-X", "importtime")
    for line in process.stderr:
        if line.rstrip().endswith("| experiments"):
            break
    code, output, error = interrupted(process)
    said = [line for line in error.splitlines() if not line.startswith("import time:")]
    assert (code, output, said) == (130, "", ["experiments: interrupted"])
    assert not (tmp_path / "results").exists()


def test_ctrl_c_during_the_measurement_is_one_line_and_exit_130_and_leaves_no_file(tmp_path):
    process = start(tmp_path / "results")
    while not (tmp_path / "results").exists():
        assert process.poll() is None
        time.sleep(0.05)
    time.sleep(1.0)
    code, output, error = interrupted(process)
    assert (code, output, error) == (130, "", "experiments derivation: interrupted\n")
    assert list((tmp_path / "results").iterdir()) == []


@pytest.mark.parametrize(
    ("module", "arguments"), [("softmax_collapse", []), ("language_model", ["--quick", "--steps", "4000"])]
)
def test_ctrl_c_during_training_is_one_line_and_leaves_only_a_checkpoint(tmp_path, module, arguments):
    process = start(tmp_path, module=module, arguments=arguments)
    while not any(tmp_path.glob(".*.checkpoints/*0")):
        assert process.poll() is None
        time.sleep(0.05)
    time.sleep(0.3)
    code, output, error = interrupted(process)
    assert (code, output, error) == (130, "", f"experiments {module}: interrupted\n")
    assert [path.suffix for path in tmp_path.iterdir()] == [".checkpoints"]


def test_ctrl_c_that_python_drops_in_a_finaliser_comes_again():
    with pytest.raises(KeyboardInterrupt):  # noqa: PT012, the interrupt comes during the sleep
        experiments._raise_again(SimpleNamespace(exc_type=KeyboardInterrupt))
        time.sleep(10)
