"""The machinery that every experiment shares: exit codes, one-line errors, whole files."""

import json
import math
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure

from experiments.runner import results as result_files
from experiments.runner.experiment import Experiment, Outcome, run

ROOT = Path(__file__).parents[2]


def experiment_that(measure):
    return Experiment("sample", "A claim.", measure)


def outcome_with(holds):
    return Outcome({"the part": holds}, ["1 of 1."], {"value": math.inf}, figures={"sample": Figure()})


def test_failed_claim_exits_1_and_is_named(tmp_path, capsys):
    assert run(experiment_that(lambda options, progress: outcome_with(False)), ["--results", str(tmp_path)]) == 1
    assert "FAILS" in capsys.readouterr().out
    assert json.loads((tmp_path / "sample.json").read_text())["passed"] is False


def test_infinity_is_written_as_a_string(tmp_path):
    assert run(experiment_that(lambda options, progress: outcome_with(True)), ["--results", str(tmp_path)]) == 0
    assert json.loads((tmp_path / "sample.json").read_text())["measurements"] == {"value": "inf"}


def test_quick_run_leaves_the_full_runs_results(tmp_path, monkeypatch):
    monkeypatch.setattr(result_files, "DEFAULT_DIRECTORY", tmp_path)
    monkeypatch.setattr(result_files, "QUICK_DIRECTORY", tmp_path / "quick")
    for options in (["--quick"], []):
        assert run(experiment_that(lambda options, progress: outcome_with(True)), options) == 0
    assert [json.loads((folder / "sample.json").read_text())["quick"] for folder in (tmp_path, tmp_path / "quick")] == [
        False,
        True,
    ]


def test_what_a_run_keeps_for_going_on_is_removed_when_its_results_are_written(tmp_path):
    written = []
    outcome = replace(
        outcome_with(True), resumed=True, finish=lambda: written.extend(path.name for path in tmp_path.iterdir())
    )
    assert run(experiment_that(lambda options, progress: outcome), ["--results", str(tmp_path)]) == 0
    assert sorted(written) == ["sample.json", "sample.png"]
    assert json.loads((tmp_path / "sample.json").read_text())["resumed"] is True


def test_interrupt_is_one_line_and_exit_130_and_leaves_no_file(tmp_path, capsys):
    def interrupted(options, progress):
        raise KeyboardInterrupt

    assert run(experiment_that(interrupted), ["--results", str(tmp_path)]) == 130
    assert capsys.readouterr().err.strip() == "experiments sample: interrupted"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("code", "output"), [(130, ""), pytest.param(1, "an orderly end\n", marks=pytest.mark.slow)])
def test_interrupted_process_ends_at_once_and_any_other_in_order(code, output):
    program = (
        "import atexit; from experiments.runner.experiment import leave; atexit.register(print, 'an orderly end'); "
    )
    ended = subprocess.run([sys.executable, "-c", f"{program} leave({code})"], cwd=ROOT, capture_output=True, text=True)
    assert (ended.returncode, ended.stdout) == (code, output)


def test_unwritable_results_are_one_line_and_exit_2(tmp_path, capsys):
    (tmp_path / "file").write_text("")

    assert (
        run(experiment_that(lambda options, progress: outcome_with(True)), ["--results", str(tmp_path / "file")]) == 2
    )

    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "cannot write results" in error


@pytest.mark.parametrize("arguments", [["--quik"], ["--seed", "-1"], ["--seed", "x"], ["--results"]])
def test_bad_arguments_are_one_line_and_exit_2(arguments, capsys):
    with pytest.raises(SystemExit, match="2"):
        run(experiment_that(lambda options, progress: outcome_with(True)), arguments)
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert " _" not in error  # a private name


def test_interrupted_write_leaves_the_old_file_and_no_part(tmp_path, monkeypatch):
    path = tmp_path / "result.json"
    result_files.write_json(path, {"value": 1})
    monkeypatch.setattr(os, "fsync", raise_interrupt)

    with pytest.raises(KeyboardInterrupt):
        result_files.write_json(path, {"value": 2})

    assert json.loads(path.read_text()) == {"value": 1}
    assert list(tmp_path.iterdir()) == [path]


def raise_interrupt(_):
    raise KeyboardInterrupt


def test_arrays_and_numpy_scalars_are_written_as_json(tmp_path):
    result_files.write_json(
        tmp_path / "a.json", {"a": np.array([1.0, np.nan]), "b": np.float32(0.5), "c": (True, None)}
    )
    assert json.loads((tmp_path / "a.json").read_text()) == {"a": [1.0, "nan"], "b": 0.5, "c": [True, None]}
