"""What the printed report says of functions that fail, of what was not judged, and of JAX itself and its compiler."""

from dataclasses import replace
from io import StringIO

import pytest
from rich.console import Console

from jaxsoftmax.verify import THEOREMS
from jaxsoftmax.verify._diagnosis import aspect_of, conclusion
from jaxsoftmax.verify._record import Gap, Report, Row
from jaxsoftmax.verify._table import print_report

RAISED = "NameError: name 'jnp' is not defined"


def _row(theorem, function, error, detail="", **changes):
    named = ("value", "mpmath, 50 digits", "jit", "float32", "ordinary")
    return replace(Row(theorem, function, *named, error, 4.0, detail=detail), **changes)


def _failing(*details):
    return tuple(_row("M5", "softmax", float("inf"), detail) for detail in details)


def _report(*rows, gaps=(), missing=(), device="cpu", jaxlib="0.12.0", **changes):
    offered = tuple(dict.fromkeys(row.function for row in (*rows, *gaps) if row.function != "jax.jvp"))
    return replace(Report("mine", offered, missing, rows, gaps, device, {"jaxlib": jaxlib}, 1.0), **changes)


def _printed(*rows, **given):
    stream = StringIO()
    print_report(_report(*rows, **given), {}, Console(file=stream, width=160))
    return stream.getvalue().splitlines()


def test_a_function_of_which_every_call_raised_says_what():
    lines = _printed(_row("M10", "log_softmax", 0.0), *_failing(RAISED, RAISED))
    assert f"softmax fails: formula: calls raised {RAISED} (M5)" in lines


def test_of_several_exceptions_the_most_frequent_is_shown():
    lines = _printed(*_failing("TypeError: once", RAISED, RAISED))
    assert f"softmax fails: formula: calls raised exceptions, most often {RAISED} (M5)" in lines


@pytest.mark.parametrize("detail", ["got nan, expected 1.0 at [0]", "shape (3,) for 2 rows, expected (2,)", "bare"])
def test_a_function_that_returned_once_is_not_said_to_raise_at_every_call(detail):
    lines = _printed(*_failing(RAISED, detail))
    assert "softmax fails: formula is wrong (M5)" in lines


def test_the_simplest_failing_row_is_shown_with_its_input():
    long = _row("M4", "softmax", 9.0, "got 3.0, expected 1.0 at [0, 0]", regime="long, V = 69632")
    short = _row("M4", "softmax", 9.0, "got 2.0, expected 1.0 at [1, 0]", case="[0.5, 1. ]")
    raised = _row("M4", "softmax", float("inf"), RAISED)
    lines = _printed(raised, long, short)
    at = lines.index("softmax fails: formula is wrong (M4)")
    assert lines[at + 1 : at + 4] == [
        "  formula: value (M4), float32, jit, ordinary",
        "    input [0.5, 1. ]",
        "    got 2.0, expected 1.0 at [1, 0]",
    ]


def test_a_textbook_loss_without_tails_is_told_so():
    tail = {"regime": "confident gap 1-80", "gap": 10.0, "holds_to": 5.0, "lost_from": 17.0}
    lines = _printed(
        _row("M11", "loss", 0.0),
        _row("M19", "loss", 9.0, "got 0.0, expected 2e-9 at [3]", **tail),
        _row("M20", "loss", 9.0, "got 0.0, expected 2e-9 at [3]", **tail),
    )
    lost = "tails lose digits beyond a gap of 5, and have none from 17 on"
    assert f"loss fails: formula holds; {lost} (M19, M20)" in lines


def test_a_failure_under_one_transformation_alone_is_told_from_a_wrong_formula():
    wrong = _row("M5", "softmax", 9.0, "got 2.0, expected 1.0 at [0]", transformation="vmap")
    assert "softmax fails: formula holds; wrong under vmap alone (M5)" in _printed(_row("M5", "softmax", 0.0), wrong)


def test_a_failure_in_float64_alone_is_told_from_a_wrong_formula():
    wrong = _row("M5", "softmax", 9.0, "got 2.0, expected 1.0 at [0]", dtype="float64")
    assert "softmax fails: formula holds; wrong in float64 alone (M5)" in _printed(_row("M5", "softmax", 0.0), wrong)


def test_what_fails_in_ordinary_rows_is_not_shown_again_for_others():
    gradients = [
        _row("M11", "f", 1e8, "got 2.0, expected 1.0 at [0]", quantity="gradient", regime=regime)
        for regime in ("ordinary", "confident gap 1-80", "-inf masks")
    ]
    value = _row("M11-mask", "f", float("inf"), "got nan, expected inf at [0]", regime="-inf alone")
    lines = _printed(*gradients, value)
    assert [line.strip() for line in lines if " (M11" in line] == [
        "f fails: formula is wrong (M11); tails too (M11); rows with -inf go wrong (M11-mask, M11)",
        "formula: gradient (M11), float32, jit, ordinary",
        "infinities: value (M11-mask), float32, jit, -inf alone",
    ]


def test_a_failure_in_float64_alone_is_shown_beside_a_wrong_formula():
    of_softmax, of_its_log = (_row(number, "f", 1e8, "got 2.0, expected 1.0 at [0]") for number in ("M5", "M10"))
    lines = _printed(of_softmax, replace(of_its_log, dtype="float64"), replace(of_its_log, error=0.0))
    assert "f fails: formula is wrong (M5); wrong in float64 alone (M10)" in lines
    assert "  float64: value (M10), float64, jit, ordinary" in lines


def test_a_keyword_that_does_nothing_is_named():
    said = "label_smoothing changes nothing: the loss without it came"
    wrong = _row("M27-keywords", "loss", 9.0, f"got 2.0, expected 1.0 at [0, 0]: {said}", keywords=("label_smoothing",))
    assert f"loss fails: {said} (M27-keywords)" in _printed(wrong)


def test_rows_of_jax_itself_are_shown_apart_and_count_for_nothing():
    rows = (_row("M1", "jax.jvp", 9.0, "got 1.0"), _row("M2", "jax.jvp", 0.0), _row("M5", "softmax", 0.0))
    lines = _printed(*rows)
    assert "Of jax.jvp itself, which counts for no function: 2 rows of M1, M2, 1 FAIL." in lines
    assert lines[-3].startswith("The certificate holds: 1 function by 1 row of 1 theorem")
    assert not any("jax.jvp" in line for line in _printed(_row("M5", "softmax", 0.0)))


def test_what_was_not_judged_is_one_sentence_with_reasons():
    gaps = (
        Gap("cross_entropy", "no argument reduction", ("value (M24)", "gradient (M25)"), ("M24", "M25")),
        *(Gap(f"f{i}", "forward mode is refused", ("jacfwd",)) for i in range(6)),
    )
    report = _report(_row("M14", "cross_entropy", 0.0), gaps=gaps, missing=("softmax",))
    assert conclusion(report)[1] == (
        "Not judged: forward mode is refused (f0, f1, f2 and 3 more); cross_entropy has no reduction; "
        "1 other function not offered."
    )
    assert conclusion(_report(_row("M5", "softmax", 0.0)))[1] == "Nothing that is offered was left unjudged."


def test_the_report_passes_only_if_every_function_that_is_offered_is_judged_and_holds():
    gap = Gap("log_softmax", "no argument axis", ("value (M10)",), ("M10",))
    assert _report(_row("M5", "softmax", 0.0)).passed
    assert not _report(_row("M5", "softmax", 0.0), gaps=(gap,)).passed
    assert not _report(_row("M1", "jax.jvp", 0.0)).passed
    assert not _report().passed


def test_a_report_survives_json_and_prints_what_the_command_does():
    report = _report(*_failing("got nan, expected 1.0 at [0]"), gaps=(Gap("softmax", "no argument where", ("value",)),))
    assert Report.from_dict(report.as_dict()) == report
    assert str(report).splitlines()[0] == "Certificate of mine"
    assert "softmax fails: formula is wrong (M5)" in str(report).splitlines()


@pytest.mark.parametrize(
    ("theorem", "regime", "dtype", "aspect"),
    [
        ("M4", "ordinary", "float32", "formula"),
        ("M4", "shift 1e4", "float64", "formula"),
        ("M19", "shift 1e4", "float32", "tails"),
        ("M4", "confident gap 1-80", "float32", "tails"),
        ("M22-shards", "2 x 2 devices, confident gap 20-60", "float32", "tails"),
        ("M11-mask", "-inf masks, signed targets", "float32", "infinities"),
        ("M8-empty", "weights 0", "float32", "infinities"),
        ("M11-range", "labels -1, V, 0 and -V", "float32", "infinities"),
        ("M19-low", "ordinary", "bfloat16", "low precision"),
        ("M27-keywords", "six tokens", "float32", "keywords"),
    ],
)
def test_a_row_is_about_one_aspect(theorem, regime, dtype, aspect):
    assert theorem in THEOREMS
    keywords = ("z_loss",) if aspect == "keywords" else ("reduction",)
    assert aspect_of(_row(theorem, "f", 0.0, regime=regime, dtype=dtype, keywords=keywords)) == aspect


@pytest.mark.parametrize(
    ("regime", "device", "jaxlib", "said"),
    [
        ("V = 200", "cpu (1 cpu)", "0.10.2", True),
        ("ordinary", "cpu (1 cpu)", "0.10.2", False),
        ("V = 200", "cpu (1 cpu)", "0.12.0", False),
        ("V = 200", "NVIDIA (1 gpu)", "0.10.2", False),
    ],
)
def test_a_failure_in_long_rows_is_said_to_be_perhaps_the_compilers_where_that_has_the_fault(
    regime, device, jaxlib, said
):
    failing = _row("M5", "softmax", 1e8, "got 2.0, expected 1.0 at [0]", regime=regime)
    assert any("jax#39103" in line for line in _printed(failing, device=device, jaxlib=jaxlib)) == said
    in_short_rows_too = _printed(failing, replace(failing, regime="ordinary"), device=device, jaxlib=jaxlib)
    assert not any("jax#39103" in line for line in in_short_rows_too)
