"""What the command line says of itself: `jaxsoftmax info`, `--version`, and as a module."""

import subprocess
import sys
from pathlib import Path

import pytest

from jaxsoftmax import cli


def test_info_names_versions_and_devices(capsys):
    assert cli.main(["info"]) == 0
    names = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    assert names[:6] == ["jaxsoftmax", "jax", "jaxlib", "optax", "numpy", "python"]
    assert names[6] == "device"


def test_version_is_the_packages(capsys):
    with pytest.raises(SystemExit, match="0"):
        cli.main(["--version"])
    assert capsys.readouterr().out == f"jaxsoftmax {cli.__version__}\n"


def test_the_module_runs_as_a_command():
    command = [sys.executable, "-W", "error", "-m", "jaxsoftmax", "verify", "--theorem", "no such theorem"]
    finished = subprocess.run(command, capture_output=True, text=True, cwd=Path(cli.__file__).parents[1], check=False)
    assert finished.returncode == 2
    assert finished.stdout == ""
    assert finished.stderr.startswith("jaxsoftmax verify: unknown theorem 'no such theorem'; known: M")
    assert finished.stderr.count("\n") == 1
