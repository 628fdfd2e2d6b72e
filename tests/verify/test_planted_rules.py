"""The certificate fails where a rule is wrong: planted defects, each an otherwise right implementation."""

import pytest

from jaxsoftmax.verify import certify
from tests.verify import (
    planted_analytic,
    planted_cross_entropy,
    planted_linear,
    planted_log_sum_exp,
    planted_mesh,
    planted_softmax,
    planted_training_loss,
)

DEFECTS = (
    *planted_softmax.SOFTMAX,
    *planted_softmax.LOG_SOFTMAX,
    *planted_log_sum_exp.LOG_SUM_EXP,
    *planted_log_sum_exp.TWINS,
    *planted_cross_entropy.INTEGER_LABELS,
    *planted_cross_entropy.FLOAT_LABELS,
    *planted_cross_entropy.TWINS,
    *planted_training_loss.TRAINING_LOSS,
    *planted_training_loss.TWINS,
    *planted_analytic.ANALYTIC,
    *planted_linear.HEADS,
    *planted_mesh.SHARDS,
    *planted_mesh.MESHES,
)
CONTROLS = (
    *planted_softmax.CONTROLS,
    *planted_log_sum_exp.CONTROLS,
    *planted_cross_entropy.CONTROLS,
    *planted_training_loss.CONTROLS,
    *planted_linear.CONTROLS,
    *planted_mesh.CONTROLS,
)


def _name(planted):
    return f"{planted.function}: {planted.name}"


def _report(planted):
    theorems = (*planted.caught_by, *planted.unnoticed_by)
    return certify(planted.implementation, theorems=theorems, dtypes=planted.dtypes, quick=planted.quick)


def _is_or_is_part_of(theorem, numbers):
    return theorem in numbers or theorem.partition("-")[0] in numbers


@pytest.mark.parametrize("planted", DEFECTS, ids=_name)
def test_a_planted_defect_is_caught_where_it_is_and_nowhere_else(planted):
    report = _report(planted)
    failed = {row.theorem for row in report.failed}
    assert not report.passed
    assert set(planted.caught_by) <= failed
    assert all(_is_or_is_part_of(theorem, planted.caught_by) for theorem in failed)
    assert all(any(_is_or_is_part_of(row.theorem, (n,)) for row in report.rows) for n in planted.unnoticed_by)
    assert all(row.detail.startswith("got ") for row in report.failed)  # a wrong number, not an exception
    for column, expected in planted.failing_only.items():
        assert {getattr(row, column) for row in report.failed} <= expected


@pytest.mark.parametrize("planted", CONTROLS, ids=_name)
def test_the_wrappers_without_a_defect_pass(planted):
    report = _report(planted)
    assert report.passed, report.failed[:3]


def test_there_are_many_defects_and_no_two_of_one_name():
    names = [_name(planted) for planted in DEFECTS]
    assert len(set(names)) == len(names) >= 45
