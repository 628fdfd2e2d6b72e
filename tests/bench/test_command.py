"""`jaxsoftmax bench`: what it refuses, what it writes, and how it ends."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from jaxsoftmax import _terminal, cli
from jaxsoftmax.bench import _command
from jaxsoftmax.bench._case import CONFIDENT, GRADIENT, IN_GRAPH, VALUE
from jaxsoftmax.bench._presets import PRESETS
from jaxsoftmax.bench._subjects import absent, subjects_of
from jaxsoftmax.bench._timing import Spread
from tests.bench.records import LINEAR, PLAIN, record, row

ROOT = Path(__file__).parents[2]
SHAPE = "N,V or N,D,V in whole numbers from 1 to 2147483647, V from 2"


class Measure:
    """Stands in for `measure`: gives each case the rows it was told, and remembers what it was asked."""

    def __init__(self):
        self.changes = {}
        self.changed = ("jaxsoftmax",)
        self.asked = None

    def __call__(self, cases, peers, effort, advance):
        self.asked = {"cases": cases, "peers": peers, "effort": effort}
        advance(0, 1, "first")
        return tuple(
            row(case, subject, **(self.changes if subject in self.changed else {}))
            for case in cases
            for subject in ("jaxsoftmax", "optax", "floor")
        )


@pytest.fixture
def measure(monkeypatch):
    fake = Measure()
    monkeypatch.setattr(_command, "measure", fake)
    monkeypatch.setenv("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    return fake


@pytest.fixture
def here(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def _refusal(capsys, *argv):
    assert cli.main(["bench", *argv]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    return captured.err.removeprefix("jaxsoftmax bench: ").rstrip("\n")


@pytest.mark.parametrize(
    ("argv", "line"),
    [
        (["both"], "argument kind: invalid choice: 'both' (choose from "),
        (["--shape", "4,x"], f"argument --shape: expected {SHAPE}, got '4,x'"),
        (["--shape", "4"], f"argument --shape: expected {SHAPE}, got '4'"),
        (["--shape", "0,5"], f"argument --shape: expected {SHAPE}, got '0,5'"),
        (["--shape", "4,1"], f"argument --shape: expected {SHAPE}, got '4,1'"),
        (["--shape", "99999999999999999999,5"], f"argument --shape: expected {SHAPE}, got '99999999999999999999,5'"),
        (["--shape", "4,2147483648"], f"argument --shape: expected {SHAPE}, got '4,2147483648'"),
        (["--shape", "9" * 5000 + ",5"], f"argument --shape: expected {SHAPE}, got '99"),
        (["--shape", "2147483647,2147483647"], "plain 2147483647,2147483647: the inputs take 1.72e+10 GiB, and this "),
        (["plain", "--shape", "2,3", "2,3,4"], "--shape 2,3,4: plain takes N,V"),
        (["linear", "--shape", "2,3"], "--shape 2,3: linear takes N,D,V"),
        (["--dtype", "int8"], "argument --dtype: invalid choice: 'int8' (choose from "),
        (["--peer", "keras"], "argument --peer: invalid choice: 'keras' (choose from "),
        (["--preset", "npu"], "argument --preset: invalid choice: 'npu' (choose from "),
        (["plain", "--preset", "sweep"], "the preset has no plain cases: give a --shape"),
        (["plain", "--function", "lean"], "--function lean: plain takes integer-labels, float-labels, "),
        (["linear", "--function", "softmax"], "--function softmax: linear takes integer-labels, unreduced, lean"),
        (["--function", "lean", "--shape", "4,5"], "--function lean: it goes with no shape chosen"),
        (["--repetitions", "0"], "argument --repetitions: expected a whole number from 1 to 2147483647, got '0'"),
        (["--repetitions", "9" * 5000], "argument --repetitions: expected a whole number from 1 to 2147483647, got '9"),
        (["--json", "missing/f"], "cannot write missing/f: No such file or directory"),
        (["--plot", "."], "cannot write .: is a directory"),
        (["--preset", "sweep", "--json", "f", "--plot", "./f"], "--json and --plot name the same file"),
        (["--quick", "--plot", "f.png"], "--plot needs shapes that differ in their tokens or their classes alone: "),
        (["--check", "missing"], "--check: cannot read missing: No such file or directory"),
        (["--check", "file"], "--check: file was not written by jaxsoftmax bench --json: "),
        (["--check", "deep"], "--check: deep was not written by jaxsoftmax bench --json: maximum recursion depth "),
        (["--check", "binary"], "--check: binary was not written by jaxsoftmax bench --json: 'utf-8' codec can't "),
        (["--check", "/dev/zero"], "--check: /dev/zero was not written by jaxsoftmax bench --json: it is larger than "),
        (["--check", "list"], "--check: list was not written by jaxsoftmax bench --json: no record of a benchmark "),
        (["--check", "linear.json", "plain"], "--check: linear.json holds no plain case that jaxsoftmax has run"),
        (["--check", "linear.json", "--dtype", "float32"], "--check runs the cases of its file: leave out --dtype"),
        (["--check", "linear.json", "--json", "./linear.json"], "--json would overwrite the file of --check"),
        (["--check", "linear.json", "--plot", "./linear.json"], "--plot would overwrite the file of --check"),
    ],
)
def test_a_bad_argument_is_refused_in_one_line(measure, here, capsys, argv, line):
    Path("file").write_text("no JSON")
    Path("list").write_text("[1]")
    Path("deep").write_text("[" * 200_000)
    Path("binary").write_bytes(bytes(range(256)))
    Path("linear.json").write_text(json.dumps(record(row()).as_dict()))
    before = sorted(entry.name for entry in here.iterdir())
    assert _refusal(capsys, *argv).startswith(line)
    assert measure.asked is None
    assert sorted(entry.name for entry in here.iterdir()) == before


@pytest.mark.parametrize(("package", "argv"), [("rich", []), ("matplotlib", ["--plot", "f", "--preset", "sweep"])])
def test_a_missing_extra_is_named(measure, here, capsys, monkeypatch, package, argv):
    monkeypatch.setitem(sys.modules, package, None)
    assert _refusal(capsys, *argv) == f"{package} is not installed: pip install 'jaxsoftmax[bench]'"


def test_help_imports_no_extra():
    extras = "{'rich', 'matplotlib', 'mpmath', 'torch', 'tokamax'}"
    code = f"import sys, jaxsoftmax.cli; sys.exit(' '.join({extras} & sys.modules.keys()) or 0)"
    finished = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)
    assert (finished.returncode, finished.stderr) == (0, "")


def test_without_a_choice_the_preset_for_a_cpu_is_measured(measure, capsys):
    assert cli.main(["bench"]) == 0
    cases = measure.asked["cases"]
    more = {replace(case, quantity=quantity) for case in PRESETS["cpu"].more for quantity in (VALUE, GRADIENT)}
    assert more <= set(cases)
    cases = set(cases) - more
    assert {case.shape for case in cases} == set(PRESETS["cpu"].shapes)
    assert {(case.logits, case.quantity) for case in cases if case.kind == "plain"} == {
        *((logits, quantity) for logits in ("ordinary", CONFIDENT) for quantity in (VALUE, GRADIENT)),
        ("ordinary", IN_GRAPH),
    }
    assert {(case.dtype, case.quantity) for case in cases if case.kind == "linear"} == {
        (dtype, quantity) for dtype in ("float32", "bfloat16") for quantity in (VALUE, GRADIENT)
    }
    assert len(set(cases)) == len(cases)


def test_the_choice_of_shape_dtype_and_rounds_reaches_the_measurement(measure, capsys):
    argv = ["bench", "--shape", "4,6", "--shape", "4,5,6", "--dtype", "float16", "--repetitions", "3", "--peer", "jax"]
    assert cli.main(argv) == 0
    cases = measure.asked["cases"]
    assert {case.shape for case in cases} == {(4, 6), (4, 5, 6)}
    assert {case.dtype for case in cases} == {"float16"}
    assert measure.asked["effort"].repetitions == 3
    assert measure.asked["peers"] == ("jax",)


def test_quick_takes_tiny_shapes_and_no_fresh_processes(measure, capsys):
    assert cli.main(["bench", "linear", "--preset", "gpu", "--quick"]) == 0
    assert {case.shape for case in measure.asked["cases"]} == {
        shape for shape in PRESETS["gpu"].quick if len(shape) == 3
    }
    assert {case.dtype for case in measure.asked["cases"]} == {"bfloat16"}
    assert measure.asked["effort"].fresh is False


def test_an_absent_peer_is_listed_with_what_installs_it(measure, capsys, monkeypatch, here):
    monkeypatch.setattr(_command, "absent", lambda peers, kinds: {"torch": "not installed: pip install torch"})
    assert cli.main(["bench", "--quick", "--peer", "jax", "torch", "--json", "f"]) == 0
    assert "torch: not installed: pip install torch\n" in capsys.readouterr().out
    assert measure.asked["peers"] == ("jax",)
    assert json.loads(Path("f").read_text())["absent"] == {"torch": "not installed: pip install torch"}


def test_a_package_that_cannot_be_found_is_absent(monkeypatch):
    monkeypatch.setattr("jaxsoftmax.bench._subjects.find_spec", lambda name: None if name == "torch" else name)
    assert absent(("jax", "torch"), {"plain"}) == {"torch": "not installed: pip install torch"}


def test_a_peer_without_a_loss_of_given_logits_is_absent_from_those(monkeypatch):
    monkeypatch.setattr("jaxsoftmax.bench._subjects.find_spec", lambda name: name)
    assert absent(("jax", "tokamax"), {"plain"}) == {"tokamax": "has no loss of given logits"}
    assert absent(("jax", "tokamax"), {"plain", "linear"}) == {}


def test_optax_and_the_floor_are_always_measured_and_tokamax_over_hidden_states_alone():
    assert subjects_of(LINEAR, ("tokamax",)) == ("jaxsoftmax", "optax", "tokamax", "floor")
    assert subjects_of(PLAIN, ("torch", "tokamax")) == ("jaxsoftmax", "optax", "torch", "floor")


def test_json_holds_command_machine_versions_and_every_row(measure, here, capsys):
    argv = ["bench", "--quick", "--json", "f.json"]
    assert cli.main(argv) == 0
    document = json.loads(Path("f.json").read_text("utf-8"))
    assert document["command"] == ["jaxsoftmax", *argv]
    assert {"cpu", "cores", "memory_bytes", "platform", "device"} == document["machine"].keys()
    assert {"python", "jax", "jaxlib", "jaxsoftmax", "optax"} <= document["versions"].keys()
    assert len(document["rows"]) == 3 * len(measure.asked["cases"])
    assert [entry.name for entry in here.iterdir()] == ["f.json"]


def test_a_failure_of_jaxsoftmax_exits_with_1_and_is_shown(measure, capsys):
    measure.changes = {"failure": "ValueError: [bold]no[/bold]"}
    assert cli.main(["bench", "--quick"]) == 1
    assert "jaxsoftmax failed: ValueError: [bold]no[/bold]" in capsys.readouterr().out


def test_a_run_in_which_nothing_ran_says_nothing_about_jaxsoftmax_and_exits_with_2(measure, capsys):
    measure.changes, measure.changed = {"failure": "MemoryError: no"}, ("jaxsoftmax", "optax", "floor")
    assert cli.main(["bench", "--quick"]) == 2
    assert capsys.readouterr().err == "jaxsoftmax bench: nothing ran: MemoryError: no\n"


@pytest.mark.parametrize(
    ("changes", "code", "said"),
    [
        ({}, 0, "jaxsoftmax is no slower, no larger and no less exact than on 2026-01-01"),
        ({"to_base": Spread(0.6, 0.7, 0.8)}, 1, "worse: linear 16,4,32 bfloat16, value and gradient: 0.7 times optax"),
        ({"temp_bytes": 12 << 20}, 1, "worse: plain 8,10 float32, value: 12582912 bytes of temporary memory, was 10"),
    ],
)
def test_check_fails_where_jaxsoftmax_has_become_worse(measure, here, capsys, changes, code, said):
    Path("f.json").write_text(json.dumps(record().as_dict()))
    measure.changes = changes
    assert cli.main(["bench", "--check", "f.json"]) == code
    assert set(measure.asked["cases"]) == {LINEAR, PLAIN}
    assert measure.asked["peers"] == ()
    assert said in capsys.readouterr().out


def test_check_says_in_what_the_machine_and_the_versions_differ(measure, here, capsys):
    Path("f.json").write_text(json.dumps(record(environment={"XLA_FLAGS": "--x"}).as_dict()))
    cli.main(["bench", "linear", "--check", "f.json"])
    out = capsys.readouterr().out
    assert "differs from the earlier run: cpu: A processor then, " in out
    assert "differs from the earlier run: XLA_FLAGS: --x then, none now" in out
    assert measure.asked["cases"] == (LINEAR,)


def test_huge_pages_start_the_process_anew_with_the_setting(measure, monkeypatch):
    class Replaced(BaseException):
        pass

    def execve(path, argv, environment):
        assert [path, *sys.orig_argv[1:]] == argv
        raise Replaced(environment["GLIBC_TUNABLES"])

    monkeypatch.setattr(_command.sys, "platform", "linux")
    monkeypatch.setattr(_command.os, "execve", execve)
    monkeypatch.setenv("GLIBC_TUNABLES", "glibc.malloc.arena_max=1")
    with pytest.raises(Replaced, match=r"^glibc.malloc.arena_max=1:glibc.malloc.hugetlb=1$") as replaced:
        cli.main(["bench", "--quick", "--huge-pages"])
    monkeypatch.setenv("GLIBC_TUNABLES", str(replaced.value))
    assert cli.main(["bench", "--quick", "--huge-pages"]) == 0


def test_huge_pages_are_refused_where_there_is_no_glibc(measure, capsys, monkeypatch):
    monkeypatch.setattr(_command.sys, "platform", "darwin")
    assert _refusal(capsys, "--huge-pages") == "--huge-pages is a setting of glibc, on Linux"


def test_ctrl_c_costs_one_line_and_no_file(here, capsys, monkeypatch):
    def interrupt(*arguments):
        raise KeyboardInterrupt

    Path("f.json").write_text("kept")
    monkeypatch.setattr(_command, "measure", interrupt)
    monkeypatch.setenv("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    assert cli.main(["bench", "--quick", "--json", "f.json"]) == 130
    assert capsys.readouterr().err == "jaxsoftmax bench: interrupted\n"
    assert os.listdir() == ["f.json"]
    assert Path("f.json").read_text() == "kept"


def test_a_file_that_cannot_be_written_in_the_end_costs_one_line_after_the_table(measure, here, capsys, monkeypatch):
    monkeypatch.setattr(_terminal.os, "replace", lambda source, target: Path("gone/f").write_text(""))
    assert cli.main(["bench", "--quick", "--json", "f.json"]) == 2
    captured = capsys.readouterr()
    assert captured.err == "jaxsoftmax bench: cannot write f.json: No such file or directory\n"
    assert "jaxsoftmax" in captured.out
    assert os.listdir() == []
