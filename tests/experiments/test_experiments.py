"""Each experiment's claim holds in its quick version, and its result files are whole."""

import json
import sys

import pytest

from experiments.__main__ import NAMES
from experiments.__main__ import main as run_experiments

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
PNG_END = b"IEND\xaeB`\x82"


def strict_json(path):
    def refuse(constant):
        raise ValueError(f"{constant} is not JSON")

    return json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_claim_holds_and_its_files_are_whole(name, tmp_path, capsys):
    assert run_experiments([name, "--quick", "--results", str(tmp_path)]) == 0

    document = strict_json(tmp_path / f"{name}.json")
    assert document["passed"] is True
    assert document["seed"] == 0
    assert document["versions"]["jax"]
    assert document["command"] == f"python -m experiments {name} --quick --results {tmp_path}"
    assert len(document["figures"]) >= 1
    for figure in document["figures"]:
        image = (tmp_path / figure).read_bytes()
        assert image.startswith(PNG_SIGNATURE)
        assert image.endswith(PNG_END)
        assert len(image) < 200_000
    assert {path.name for path in tmp_path.iterdir()} == {f"{name}.json", *document["figures"]}
    printed = capsys.readouterr().out.replace("\n", "")
    assert all(sentence in printed for sentence in document["conclusion"])


def test_list_names_every_experiment(capsys):
    assert run_experiments(["--list"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == list(NAMES)


def test_unknown_experiment_is_one_line_and_exit_2(capsys):
    with pytest.raises(SystemExit, match="2"):
        run_experiments(["jacobean"])
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.slow
def test_importing_an_experiment_leaves_the_exception_hook_alone():
    assert sys.excepthook.__module__ != "experiments"
