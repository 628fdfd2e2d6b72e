"""What the printed report says of calls that raised, of what was skipped, and of JAX itself and its compiler."""

from dataclasses import replace
from io import StringIO

import pytest
from rich.console import Console

from jaxsoftmax.verify._record import Report, Row
from jaxsoftmax.verify._table import print_report

RAISED = "NameError: name 'jnp' is not defined"


def _row(theorem, function, error, detail=""):
    return Row(theorem, function, "value", "mpmath, 50 digits", "jit", "float32", "ordinary", error, 4.0, detail)


def _failing(*details):
    return tuple(_row("M5", "softmax", float("inf"), detail) for detail in details)


def _printed(*rows, skipped=(), device="cpu", jaxlib="0.12.0"):
    stream = StringIO()
    report = Report("mine", rows, skipped, device, {"jaxlib": jaxlib}, 1.0)
    print_report(report, {}, Console(file=stream, width=160))
    return stream.getvalue().splitlines()


def test_a_function_that_only_raises_is_named_before_the_rows():
    lines = _printed(_row("M10", "log_softmax", 0.0), *_failing(RAISED, RAISED))
    assert lines[2] == f"every call of softmax raised {RAISED}"
    assert lines[lines.index("M5 fails in 2 rows, each a call that raised") + 2] == f"  {RAISED}"


def test_of_several_exceptions_the_most_frequent_is_shown():
    lines = _printed(*_failing("TypeError: once", RAISED, RAISED))
    assert lines[2] == f"every call of softmax raised an exception, most often {RAISED}"


@pytest.mark.parametrize("detail", ["got nan, expected 1.0 at [0]", "shape (3,) for 2 rows, expected (2,)", "bare"])
def test_a_function_that_returned_once_is_not_said_to_raise_at_every_call(detail):
    lines = _printed(*_failing(RAISED, detail))
    assert "M5 fails in 2 rows" in lines
    assert not any("every call" in line for line in lines)


def test_a_theorem_whose_failures_all_raised_says_so_though_other_rows_hold():
    lines = _printed(_row("M5", "softmax", 0.0), *_failing(RAISED))
    assert "M5 fails in 1 row, each a call that raised" in lines
    assert not any("every call" in line for line in lines)


def test_rows_of_jax_itself_are_told_from_those_of_the_implementation():
    lines = _printed(_row("M1", "jax.jvp", 0.0), _row("M2", "jax.jvp", 0.0), _row("M5", "softmax", 0.0))
    assert lines[-3] == "of the rows, 2 (M1, M2) judge jax.jvp itself, not mine"


def test_without_rows_of_jax_itself_nothing_is_said_of_it():
    assert not any("jax.jvp" in line for line in _printed(_row("M5", "softmax", 0.0)))


def test_what_was_skipped_is_said_once_for_all_transformations_and_missing_functions_come_last():
    skipped = (
        "softmax: not offered",
        "cross_entropy under jit: argument reduction not offered",
        "cross_entropy under grad: argument reduction not offered",
        "logsumexp: not offered",
    )
    lines = _printed(_row("M14", "cross_entropy", 0.0), skipped=skipped)
    assert ("skipped (4): cross_entropy: argument reduction not offered; not offered: softmax, logsumexp") in lines


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
    failing = replace(_row("M5", "softmax", 1e8, "got 2.0, expected 1.0 at [0]"), regime=regime)
    assert any("jax#39103" in line for line in _printed(failing, device=device, jaxlib=jaxlib)) == said
