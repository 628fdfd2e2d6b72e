"""The gate passes what has not changed, and catches what was planted."""

import pytest

from jaxsoftmax.bench._case import Case
from jaxsoftmax.bench._regression import cases_to_repeat, differences, regressions
from jaxsoftmax.bench._timing import Spread
from tests.bench.records import LINEAR, PLAIN, record, row


def test_a_record_is_no_worse_than_itself():
    assert regressions(record().rows, record().rows) == []


def test_a_planted_slowdown_is_caught():
    (line,) = regressions([row(), row(PLAIN)], [row(to_base=Spread(0.6, 0.65, 0.7)), row(PLAIN)])
    assert line == f"{LINEAR.label}: 0.65 times optax (0.6–0.7), was 0.5 (0.45–0.55)"


@pytest.mark.parametrize("lower", [0.3, 0.55, 0.57])
def test_a_slowdown_within_both_spreads_and_the_margin_is_none(lower):
    assert regressions([row()], [row(to_base=Spread(lower, 0.9, 1.2))]) == []


def test_a_planted_growth_of_memory_is_caught():
    (line,) = regressions([row()], [row(temp_bytes=(10 << 20) * 111 // 100)])
    assert "bytes of temporary memory" in line
    assert regressions([row()], [row(temp_bytes=(10 << 20) * 109 // 100)]) == []


def test_growth_by_a_few_row_statistics_is_none():
    assert regressions([row(temp_bytes=0)], [row(temp_bytes=4096)]) == []


def test_a_failure_that_is_new_is_caught_and_an_old_one_is_not():
    failed = row(failure="ValueError: no", to_base=None)
    assert regressions([row()], [failed]) == [f"{LINEAR.label}: failed: ValueError: no"]
    assert regressions([failed], [failed]) == []


def test_a_case_that_can_no_longer_be_compared_is_caught():
    (line,) = regressions([row()], [row(to_base=None)])
    assert line == f"{LINEAR.label}: could not be compared with optax"


@pytest.mark.parametrize("error", [float("nan"), 3e-7])
def test_a_planted_error_of_the_gradient_is_caught(error):
    (line,) = regressions([row(gradient_error=1e-7)], [row(gradient_error=error)])
    assert "gradient error" in line
    assert regressions([row(gradient_error=1e-7)], [row(gradient_error=1.9e-7)]) == []


def test_other_subjects_may_become_slower():
    assert regressions([row(subject="torch")], [row(subject="torch", to_base=Spread(7, 8, 9))]) == []


def test_the_cases_to_repeat_are_those_that_ran_and_the_smallest_if_quick():
    cases = [Case("plain", (size, 10), "float32") for size in (9, 3, 5, 7, 1)]
    rows = [row(case) for case in cases] + [row(LINEAR, failure="ValueError: no"), row(LINEAR, "optax")]
    assert cases_to_repeat(record(*rows), None, quick=False) == tuple(cases)
    assert [case.tokens for case in cases_to_repeat(record(*rows), None, quick=True)] == [1, 3, 5, 7]
    with pytest.raises(ValueError, match="no linear case"):
        cases_to_repeat(record(*rows), "linear", quick=False)


def test_differences_name_what_was_and_what_is():
    now = record(versions={"python": "3.11.7", "jaxsoftmax": "0.1.0", "jax": "0.12.0"})
    assert differences(record(), now) == ["jax: 0.10.2 then, 0.12.0 now"]
    assert differences(now, now) == []
