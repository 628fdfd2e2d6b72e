"""`jaxsoftmax bench --target`: what is compiled, compared and refused."""

import json
from pathlib import Path

import jax
import pytest

from jaxsoftmax import cli
from jaxsoftmax.bench import _compiled, _targets
from jaxsoftmax.bench._case import (
    DISTILLATION,
    GRADIENT,
    INTEGER,
    KINDS,
    LEAN,
    LOGSUMEXP,
    PARTS,
    SHARDED,
    SPARSE,
    STATS,
    VALUE,
    Case,
)
from jaxsoftmax.bench._compiled import CompiledRecord, CompiledRow
from jaxsoftmax.bench._subjects import program
from jaxsoftmax.bench._targets import GPUS, Cost, Target
from tests.tiers import in_tiers

pytestmark = pytest.mark.mesh  # for the default schedule: a CPU's has a loop over so many rows as are confident


@pytest.fixture
def here_as_target(monkeypatch):
    """This machine's CPU in place of a machine that isn't here."""
    chip = GPUS["h200"]
    monkeypatch.setattr(_targets, "target", lambda name: Target(name, chip, jax.devices("cpu")))
    monkeypatch.setattr(_compiled, "duration", lambda seconds: f"{seconds:.3g} s")


ARGUMENTS = ["bench", "--target", "cuda:h200", "--shape", "64,256", "--function", LOGSUMEXP, "--dtype", "float32"]


def test_each_subject_is_compiled_and_compared_with_its_base(here_as_target, capsys, tmp_path):
    file = tmp_path / "f.json"
    assert cli.main([*ARGUMENTS, "--json", str(file)]) == 0
    document = json.loads(file.read_text("utf-8"))
    assert document["compiled, not run"] is True
    assert (document["target"], document["time"]) == ("cuda:h200", "roofline of the compiled program")
    assert document["command"] == ["jaxsoftmax", *ARGUMENTS, "--json", str(file)]
    assert [(row["case"]["quantity"], row["subject"]) for row in document["rows"]] == [
        (quantity, subject) for quantity in (VALUE, GRADIENT) for subject in ("jaxsoftmax", "jax")
    ]
    for row in document["rows"]:
        assert row["seconds"] > 64 * 256 * 4 / GPUS["h200"].bandwidth  # one read at least
        assert row["to_base"] == 1.0 or row["subject"] == "jaxsoftmax"
    assert capsys.readouterr().out.startswith(
        "compiled for cuda:h200, not run; time: roofline of the compiled program\n"
    )


def test_with_detail_the_dearest_instructions_are_shown(here_as_target, capsys, tmp_path):
    file = tmp_path / "f.json"
    assert cli.main([*ARGUMENTS, "--detail", "1", "--json", str(file)]) == 0
    out = capsys.readouterr().out
    for row in json.loads(file.read_text("utf-8"))["rows"]:
        (dearest,) = row["dearest"]
        assert f"{dearest['trips']} × {dearest['name']}" in out


@pytest.mark.parametrize(
    ("too_large", "code", "err"),
    [(("jaxsoftmax",), 1, ""), (("jaxsoftmax", "jax"), 2, "jaxsoftmax bench: nothing ran: jaxsoftmax is too large\n")],
)
def test_what_cannot_be_compiled_says_so_in_one_line(here_as_target, capsys, monkeypatch, too_large, code, err):
    def refuses(subject, case, mesh):
        def function(*arrays):
            raise ValueError(f"{subject} is too large\nby far")

        return function if subject in too_large else program(subject, case)

    monkeypatch.setattr(_compiled, "program", refuses)
    assert cli.main(ARGUMENTS) == code
    out, said = capsys.readouterr()
    assert said == err
    assert "jaxsoftmax can't be compiled: jaxsoftmax is too large\n" in out
    assert "by far" not in out


@pytest.mark.parametrize(
    ("argv", "line"),
    [
        (["--target", "tpu:v5p"], "--target: expected tpu:CHIP:TOPOLOGY or cuda:CHIP (tpu: v4, "),
        (["--target", "cuda:h200:1"], "--target: expected tpu:CHIP:TOPOLOGY or cuda:CHIP (tpu: v4, "),
        (["--target", "rocm:mi300"], "--target: expected tpu:CHIP:TOPOLOGY or cuda:CHIP (tpu: v4, "),
        (["--target", "cuda:h200", "--check", "f"], "--check: cannot read f: No such file or directory"),
        (["--target", "cuda:h200", "--check", "f", "--dtype", "float32"], "--check runs the cases of its file: leave "),
        (["--target", "cuda:h200", "--plot", "f"], "--target runs nothing: leave out --plot"),
        (["--target", "cuda:h200", "--repetitions", "3"], "--target runs nothing: leave out --repetitions"),
        (["--target", "cuda:h200", "--huge-pages"], "--target runs nothing: leave out --huge-pages"),
        (["--target", "cuda:h200", "--peer", "torch"], "--target compiles optax and jax, not torch"),
        (["--target", "cuda:h200", "--json", "missing/f"], "cannot write missing/f: No such file or directory"),
        (["--detail", "3"], "--detail is of --target"),
        (["--function", "sharded"], "--function sharded is of --target"),
        (["--target", ""], "--target: expected tpu:CHIP:TOPOLOGY or cuda:CHIP "),
    ],
)
def test_a_bad_argument_is_refused_in_one_line(capsys, monkeypatch, tmp_path, argv, line):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["bench", *argv]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert captured.err.startswith(f"jaxsoftmax bench: {line}")
    assert list(Path().iterdir()) == []


def test_without_a_compiler_for_the_target_its_package_is_named(capsys, monkeypatch):
    def missing(*arguments):
        raise RuntimeError("no plugin\nfor this platform")

    monkeypatch.setattr(_targets, "_tpu", missing)
    monkeypatch.setattr(_targets, "_cuda", missing)
    monkeypatch.setattr(jax.config, "update", lambda name, value: None)
    for name, package in (("tpu:v5p:2x2x1", "libtpu"), ("cuda:h200", "'jax[cuda12]'")):
        assert cli.main(["bench", "--target", name]) == 2
        said = f"--target: nothing here compiles for {name} (pip install {package}?): no plugin"
        assert capsys.readouterr().err == f"jaxsoftmax bench: {said}\n"


@pytest.mark.slow
def test_the_ratio_to_the_floor_of_a_head_is_to_its_products(here_as_target, tmp_path):
    file = tmp_path / "f.json"
    shape = ["--shape", "64,32,256", "--dtype", "bfloat16", "--function", "integer-labels", "lean"]
    assert cli.main(["bench", "--target", "cuda:h200", *shape, "--json", str(file)]) == 0
    rows = json.loads(file.read_text("utf-8"))["rows"]
    assert {(row["case"]["function"], row["case"]["quantity"]) for row in rows} == {
        *((INTEGER, quantity) for quantity in (VALUE, GRADIENT)),
        (LEAN, GRADIENT),
    }
    for row in rows:
        flops = (2 if row["case"]["quantity"] == VALUE else 6) * 64 * 32 * 256
        assert row["to_floor"] == pytest.approx(row["seconds"] * GPUS["h200"].peak / flops)


def checked(tmp_path, change):
    """The exit code of --check against a record that was changed after it was made."""
    file = tmp_path / "f.json"
    assert cli.main([*ARGUMENTS, "--json", str(file)]) == 0
    document = json.loads(file.read_text("utf-8"))
    change(document["rows"][0])
    file.write_text(json.dumps(document), encoding="utf-8")
    return cli.main(["bench", "--target", "cuda:h200", "--check", str(file)])


@in_tiers(
    ("name", "by", "said"),
    [
        ("to_base", 1 / 1.051, "times jax, was "),
        ("to_base", 1 / 1.049, ""),
        ("to_base", 100.0, ""),
        ("temp_bytes", 0.0, "bytes of temporary memory, was 0"),
        ("temp_bytes", 1 / 1.019, ""),
    ],
    first=[("to_base", 1 / 1.051, "times jax, was "), ("temp_bytes", 1 / 1.019, "")],
)
def test_a_program_that_is_worse_than_its_record_beyond_the_margin_is_an_exit_code_of_1(
    here_as_target, tmp_path, capsys, monkeypatch, name, by, said
):
    monkeypatch.setattr(_compiled, "MEMORY_SLACK", 0)
    code = checked(tmp_path, lambda row: row.update({name: type(row[name])(row[name] * by)}))
    out = capsys.readouterr().out
    assert (code, said in out) == (1 if said else 0, True)
    assert ("jaxsoftmax has become WORSE than on" if said else "jaxsoftmax is no slower and no larger than on") in out


@pytest.mark.slow
def test_a_step_on_a_mesh_says_the_bytes_of_its_collectives_and_more_are_worse(
    here_as_target, tmp_path, capsys, monkeypatch
):
    # A CPU's loop over confident rows runs as often as there are any, which no program says.
    monkeypatch.setattr(_compiled, "costs", lambda chip, text: [Cost(1e-6, 1, "everything", "")])
    file = tmp_path / "f.json"
    asked = ["--shape", "64,32,256", "--dtype", "float32", "--function", SHARDED]
    assert cli.main(["bench", "--target", "cuda:h200", *asked, "--json", str(file)]) == 0
    document = json.loads(file.read_text("utf-8"))
    said = document["rows"][0]["collectives"]
    assert said.keys() == {"all-reduce over data", "all-reduce over vocab"}
    assert said["all-reduce over data"] == 4 * 32 * 128 + 2 * 4  # dW of half of the classes, the loss and its divisor
    assert said["all-reduce over vocab"] >= 4 * 16 * 32  # dX of a quarter of the tokens
    said["all-reduce over data"] //= 2
    file.write_text(json.dumps(document), encoding="utf-8")
    assert cli.main(["bench", "--target", "cuda:h200", "--check", str(file)]) == 1
    assert "16392 bytes of all-reduce over data, was 8196" in capsys.readouterr().out


def test_a_record_of_another_target_is_refused(here_as_target, tmp_path, capsys):
    file = tmp_path / "f.json"
    assert cli.main([*ARGUMENTS, "--json", str(file)]) == 0
    assert cli.main(["bench", "--target", "cuda:h100", "--check", str(file)]) == 2
    assert "is of cuda:h200, and --target of cuda:h100" in capsys.readouterr().err


def test_the_preset_for_targets_has_every_function():
    from jaxsoftmax.bench._presets import PRESETS, cases_of

    others = {case.function for case in PRESETS["target"].more}
    assert others == {STATS, SPARSE, DISTILLATION, PARTS, SHARDED}
    for kind in KINDS:
        cases = cases_of(PRESETS["target"], kind, (), (), (), quick=False)
        expected = set(PRESETS["target"].functions[kind]) | (others if kind == "linear" else set())
        assert {case.function for case in cases} == expected
    assert Case("linear", (8192, 2304, 256000), "bfloat16", quantity=GRADIENT, function=LEAN) in cases


@pytest.mark.parametrize(
    "plant",
    [
        lambda document: document["rows"][0].update(to_base="1.0"),
        lambda document: document["rows"][0].update(seconds=[1.0]),
        lambda document: document["rows"][0].update(temp_bytes="10"),
        lambda document: document["rows"][0].update(collectives={"all-reduce over data": None}),
        lambda document: document["rows"][0]["dearest"][0].update(trips="many"),
        lambda document: document["rows"][0]["case"].update(shape=[1e999, 4]),
        lambda document: document.update(date=2026),
    ],
)
def test_what_is_no_record_of_compiled_programs_is_refused_in_one_line(tmp_path, capsys, plant):
    row = CompiledRow(Case("plain", (8, 16), "float32"), "jaxsoftmax", 1e-6, 1.0, dearest=(Cost(1e-6, 1, "exp", ""),))
    document = json.loads(CompiledRecord([], "2026-01-01", "cuda:h200", "roofline", {}, (row,)).as_json())
    plant(document)
    file = tmp_path / "f.json"
    file.write_text(json.dumps(document), encoding="utf-8")
    assert cli.main(["bench", "--target", "cuda:h200", "--check", str(file)]) == 2
    refusal = capsys.readouterr().err
    assert refusal.count("\n") == 1
    written_by = "jaxsoftmax bench --target --json"
    assert f"--check: {file} was not written by {written_by}: no record of compiled programs (" in refusal
