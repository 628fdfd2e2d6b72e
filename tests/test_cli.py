import json
import sys
from pathlib import Path

import pytest

from jaxsoftmax import _terminal, cli, verify
from jaxsoftmax.verify import _command
from jaxsoftmax.verify._record import Gap, Report, Row
from jaxsoftmax.verify._theorem import Claim, Theorem


def _claim(function, dtypes=("float32", "float64")):
    return Claim(function, "value", 0, call=max, oracle=max, inputs=max, bound=4.0, dtypes=dtypes)


THEOREMS = {
    "M5": Theorem(
        "M5", "Jacobian of softmax", "J = diag(s) − s sᵀ", "one product", "loses the diagonal", (_claim("softmax"),)
    ),
    "M8": Theorem(
        "M8",
        "gradient of log-sum-exp",
        "∇LSE = s",
        "one quotient",
        "nan at [−inf]",
        (_claim("logsumexp", ("bfloat16",)),),
    ),
    "M8-empty": Theorem("M8-empty", "nothing", "LSE of an empty row", "exact", "nan", (_claim("logsumexp"),)),
    "M19": Theorem(
        "M19",
        "loss of confident labels",
        "nll = (m − x_y) + log1p(r)",
        "one log1p",
        "[bold]cancels[/bold]",
        (_claim("softmax_cross_entropy_with_integer_labels"),),
    ),
}


def _row(theorem, error, detail=""):
    function = THEOREMS[theorem].functions[0]
    named = ("value", "mpmath, 50 digits", "jit", "float32", "ordinary")
    return Row(theorem, function, *named, error, 4.0, detail=detail)


class Certify:
    """Stands in for `certify`: hands back the rows it was given, and remembers what it was asked."""

    def __init__(self):
        self.rows = (_row("M5", 0.5), _row("M5", 1.5), _row("M8", 0.0))
        self.gaps = ()
        self.offered = ()
        self.asked = None

    def __call__(self, implementation, *, theorems, dtypes, quick, progress):
        self.asked = {"implementation": implementation, "theorems": theorems, "dtypes": dtypes, "quick": quick}
        progress(0, len(self.rows), "M5 softmax")
        versions = {"jaxsoftmax": "0.1.0", "jax": "0.12.0"}
        offered = self.offered or tuple(dict.fromkeys(row.function for row in self.rows))
        return Report("jaxsoftmax", offered, ("log_softmax",), self.rows, self.gaps, "cpu", versions, 1.4)


@pytest.fixture
def certify(monkeypatch):
    fake = Certify()
    monkeypatch.setattr(verify, "THEOREMS", THEOREMS)
    monkeypatch.setattr(verify, "certify", fake)
    return fake


@pytest.fixture
def here(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    return tmp_path


def _refusal(capsys, *argv):
    """Runs the command line, which must refuse; returns its one line on stderr."""
    assert cli.main(argv) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    return captured.err.rstrip("\n")


def test_a_certificate_that_holds_exits_with_0_and_says_so_in_three_sentences(certify, capsys):
    assert cli.main(["verify"]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    assert captured.out.splitlines()[-3:] == [
        "The certificate holds: 2 functions by 3 rows of 2 theorems, on cpu, jaxsoftmax 0.1.0, jax 0.12.0, in 1 s.",
        "Not judged: 1 other function not offered.",
        "Next: --json FILE keeps every row.",
    ]


def test_a_theorem_has_one_line_with_its_worst_row_beside_the_bound(certify, capsys):
    cli.main(["verify"])
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "M5" in line]
    assert " ".join(line.split()) == "✓ M5 Jacobian of softmax 2 rows 1.5 of 4 ulps softmax"


def test_verbose_has_a_line_for_each_quantity_and_a_verdict_for_each_function(certify, capsys):
    certify.gaps = (Gap("softmax", "forward mode is refused", ("jacfwd",)),)
    cli.main(["verify", "--verbose"])
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert "M5 J = diag(s) − s sᵀ" in lines
    assert "✓ softmax: value 2 rows 1.5 of 4 ulps float32, jit, ordinary" in lines
    assert "softmax holds: formula holds" in lines
    assert "not judged, forward mode is refused: jacfwd" in lines


def test_a_certificate_that_fails_exits_with_1_and_says_what_and_why(certify, capsys):
    certify.rows += (_row("M19", float("inf"), "got 0.0, expected 2e-09 at [0]"), _row("M19", 9.0, "milder"))
    assert cli.main(["verify"]) == 1
    out = capsys.readouterr().out
    assert out.splitlines()[-3].startswith(
        "The certificate FAILS for 1 of 3 functions: 2 of 5 rows of 3 theorems, on cpu"
    )
    assert "often: [bold]cancels[/bold]" in out
    assert "got 0.0, expected 2e-09 at [0]" in out
    assert "∞ of 4 ulps" in out
    assert "milder" not in out


def test_a_function_that_could_not_be_judged_exits_with_2_and_is_named(certify, capsys):
    certify.rows, certify.gaps = (), (Gap("softmax", "no argument where", ("value, masked (M4)",)),)
    certify.offered = ("softmax",)
    assert cli.main(["verify"]) == 2
    lines = capsys.readouterr().out.splitlines()
    assert "softmax not judged: no argument where: value, masked (M4)" in lines
    assert lines[-3] == "The certificate judges nothing of softmax, on cpu, jaxsoftmax 0.1.0, jax 0.12.0, in 1 s."


def test_the_choice_of_theorems_dtypes_and_speed_reaches_certify(certify):
    cli.main(["verify", "--theorem", "M5", "M8", "--theorem", "M5", "--dtype", "float32", "--quick"])
    assert certify.asked["theorems"] == ["M5", "M8"]
    assert certify.asked["dtypes"] == ["float32"]
    assert certify.asked["quick"] is True


@pytest.mark.parametrize(
    ("argv", "line"),
    [
        ([], "jaxsoftmax: the following arguments are required: {verify,bench,info}"),
        (["verify", "--jsn", "f"], "jaxsoftmax: unrecognized arguments: --jsn f"),
        (["verify", "--json"], "jaxsoftmax verify: argument --json: expected one argument"),
        (["verify", "--theorem", "M5", "M6"], "jaxsoftmax verify: unknown theorem 'M6'; known: M5, M8, M8-empty, M19"),
        (["verify", "--dtype", "int8"], "jaxsoftmax verify: unknown dtype 'int8'; known: float32, float64, bfloat16"),
        (
            ["verify", "--against", "no_such_module"],
            "jaxsoftmax verify: --against: cannot import 'no_such_module': "
            "ModuleNotFoundError: No module named 'no_such_module'",
        ),
        (
            ["verify", "--against", "jax:nn.no_such_function"],
            "jaxsoftmax verify: --against: module 'jax' has no attribute 'nn.no_such_function'",
        ),
        (
            ["verify", "--against", "jax.numpy", "--theorem", "M5"],
            "jaxsoftmax verify: --against: 'jax.numpy' offers none of the functions to judge: softmax; "
            "name a function there as one of these, or pass an object that has one, as module:object",
        ),
        (
            ["verify", "--against", "jax:nn.relu", "--theorem", "M5"],
            "jaxsoftmax verify: --against: 'jax:nn.relu' is itself a function: "
            "pass what holds it, jax:nn, with one of these: softmax",
        ),
    ],
)
def test_a_bad_argument_is_refused_in_one_line(certify, here, capsys, argv, line):
    assert _refusal(capsys, *argv) == line
    assert certify.asked is None


@pytest.mark.parametrize("option", ["--json", "--html"])
@pytest.mark.parametrize(
    ("path", "reason"),
    [("missing/f", "No such file or directory"), ("file/f", "Not a directory"), (".", "is a directory")],
)
def test_an_unwritable_path_is_refused_before_the_run(certify, here, capsys, option, path, reason):
    Path("file").write_text("kept")
    assert _refusal(capsys, "verify", option, path) == f"jaxsoftmax verify: cannot write {path}: {reason}"
    assert certify.asked is None
    assert [entry.name for entry in here.iterdir()] == ["file"]
    assert Path("file").read_text() == "kept"


def test_one_file_cannot_be_both_outputs(certify, here, capsys):
    line = _refusal(capsys, "verify", "--json", "f", "--html", "./f")
    assert line == "jaxsoftmax verify: --json and --html name the same file"


@pytest.mark.parametrize(
    ("package", "argv"), [("rich", []), ("mpmath", []), ("jinja2", ["--html", "f"]), ("matplotlib", ["--html", "f"])]
)
def test_a_missing_extra_is_named(certify, here, capsys, monkeypatch, package, argv):
    monkeypatch.setitem(sys.modules, package, None)
    line = _refusal(capsys, "verify", *argv)
    assert line == f"jaxsoftmax verify: {package} is not installed: pip install 'jaxsoftmax[verify]'"


def test_a_run_that_checks_nothing_is_refused(certify, capsys):
    certify.rows = ()
    assert _refusal(capsys, "verify") == "jaxsoftmax verify: nothing was checked: no theorem speaks of this choice"


@pytest.mark.parametrize("raised_in", ["certify", "_as_page"])
def test_ctrl_c_costs_one_line_and_no_file(certify, here, capsys, monkeypatch, raised_in):
    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    Path("old.html").write_text("kept")
    monkeypatch.setattr(verify if raised_in == "certify" else _command, raised_in, interrupt)
    assert cli.main(["verify", "--json", "new.json", "--html", "old.html"]) == 130
    assert capsys.readouterr().err == "jaxsoftmax verify: interrupted\n"
    assert [entry.name for entry in here.iterdir()] == ["old.html"]
    assert Path("old.html").read_text() == "kept"


def test_ctrl_c_while_a_file_is_written_leaves_the_old_one_and_no_part(certify, here, monkeypatch):
    def interrupt(source, target):
        raise KeyboardInterrupt

    Path("f.json").write_text("kept")
    monkeypatch.setattr(_terminal.os, "replace", interrupt)
    assert cli.main(["verify", "--json", "f.json"]) == 130
    assert [entry.name for entry in here.iterdir()] == ["f.json"]
    assert Path("f.json").read_text() == "kept"


def test_json_holds_every_row_and_the_command(certify, here):
    certify.rows += (_row("M19", float("inf"), "nan"),)
    argv = ["verify", "--json", "f.json"]
    assert cli.main(argv) == 1
    document = json.loads(Path("f.json").read_text("utf-8"))
    report = certify(None, theorems=None, dtypes=None, quick=False, progress=lambda done, total, label: None)
    assert document["command"] == ["jaxsoftmax", *argv]
    assert document["rows"] == json.loads(json.dumps(report.as_dict()["rows"], allow_nan=False))
    assert document["rows"][-1][document["columns"].index("error")] == "inf"
    assert Report.from_dict(document) == report
    assert document["passed"] is False
    assert [entry.name for entry in here.iterdir()] == ["f.json"]


def test_html_is_written_where_asked(certify, here, monkeypatch):
    monkeypatch.setattr(_command, "_as_page", lambda report, theorems, command: f"<p>{report.implementation}</p>")
    assert cli.main(["verify", "--html", "f.html"]) == 0
    assert Path("f.html").read_text() == "<p>jaxsoftmax</p>"


def test_a_link_is_written_through(certify, here):
    Path("target").write_text("old")
    Path("link").symlink_to("target")
    assert cli.main(["verify", "--json", "link"]) == 0
    assert Path("link").is_symlink()
    assert json.loads(Path("target").read_text())["passed"] is True


def test_a_number_stands_for_its_named_parts(certify, here):
    Path("forward_only.py").write_text("class forward_mode:\n    logsumexp = staticmethod(max)\n")
    assert cli.main(["verify", "--theorem", "M8", "--against", "forward_only"]) == 0
    assert certify.asked["theorems"] == ["M8"]


def test_an_object_in_the_working_directory_is_judged(certify, here, capsys):
    Path("my_own_losses.py").write_text("class holder:\n    class inner:\n        softmax = staticmethod(abs)\n")
    assert cli.main(["verify", "--against", "my_own_losses:holder.inner"]) == 0
    assert certify.asked["implementation"].softmax is abs
    assert capsys.readouterr().out.startswith("Certificate of my_own_losses:holder.inner\n")


@pytest.mark.parametrize(
    ("against", "title", "functions"),
    [
        ("jax", "jax.nn", ("logsumexp", "softmax", "log_softmax")),
        ("optax", "optax", ("softmax_cross_entropy", "softmax_cross_entropy_with_integer_labels")),
        ("jaxsoftmax", "jaxsoftmax", ("cross_entropy", "forward_mode")),
    ],
)
def test_known_libraries_are_judged_by_name(certify, here, capsys, against, title, functions):
    assert cli.main(["verify", "--against", against]) == 0
    assert all(hasattr(certify.asked["implementation"], function) for function in functions)
    assert capsys.readouterr().out.startswith(f"Certificate of {title}\n")
