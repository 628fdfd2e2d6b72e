"""The certificate fails where a rule is wrong: planted defects, each an otherwise right implementation.

With every change a defect is planted for each theorem, or for a part of it; nightly all of them are, and the wrappers
without a defect.
"""

import re

import mpmath
import pytest

from jaxsoftmax.verify import THEOREMS
from jaxsoftmax.verify._certificate import _programs, _tasks
from jaxsoftmax.verify._checks import judge
from jaxsoftmax.verify._oracle import DIGITS
from tests.verify import (
    planted_analytic,
    planted_cross_entropy,
    planted_distillation,
    planted_keywords,
    planted_labels,
    planted_linear,
    planted_log_sum_exp,
    planted_mesh,
    planted_softmax,
    planted_token_stats,
    planted_training_loss,
)

DEFECTS = (
    *planted_softmax.SOFTMAX,
    *planted_softmax.LOG_SOFTMAX,
    *planted_log_sum_exp.LOG_SUM_EXP,
    *planted_log_sum_exp.VARIANTS,
    *planted_cross_entropy.INTEGER_LABELS,
    *planted_cross_entropy.FLOAT_LABELS,
    *planted_cross_entropy.VARIANTS,
    *planted_training_loss.TRAINING_LOSS,
    *planted_training_loss.VARIANTS,
    *planted_analytic.ANALYTIC,
    *planted_linear.HEADS,
    *planted_mesh.SHARDS,
    *planted_mesh.MESHES,
    *planted_token_stats.TOKEN_STATS,
    *planted_distillation.DIVERGENCES,
    *planted_labels.LABELS,
    *planted_labels.PARTS,
    *planted_keywords.DROPPED,
    *planted_keywords.IN_ONE_KIND_OF_CALL,
    *planted_keywords.SECOND_ORDER,
)
CONTROLS = (
    *planted_softmax.CONTROLS,
    *planted_log_sum_exp.CONTROLS,
    *planted_cross_entropy.CONTROLS,
    *planted_training_loss.CONTROLS,
    *planted_linear.CONTROLS,
    *planted_mesh.CONTROLS,
    *planted_token_stats.CONTROLS,
    *planted_labels.CONTROLS,
    *planted_keywords.CONTROLS,
)


def _name(planted):
    return f"{planted.function}: {planted.name}"


def _rows(planted):
    """The certificate's rows of what must fail, and of what must hold with its named parts."""
    numbers = [n for n in THEOREMS if n in planted.caught_by or n in planted.unnoticed_by]
    numbers += [n for n in THEOREMS if n not in numbers and n.partition("-")[0] in planted.unnoticed_by]
    theorems = [THEOREMS[number] for number in numbers]
    groups = _programs(_tasks(planted.implementation, theorems, planted.dtypes, planted.quick).tasks)
    with mpmath.workdps(DIGITS):
        return [row for group in groups for row in judge(group)[0]]


def _name_and_theorems(planted):
    return " ".join([_name(planted), *(f"[{theorem}]" for theorem in planted.caught_by)])  # for pytest -k '[M5]'


def _claims(planted, theorem):
    """How many claims a theorem makes about the function with the defect; each costs its compilation."""
    function = planted.function.removeprefix("forward_mode.")
    return sum(claim.function == function for claim in THEOREMS[theorem].claims)


def _quickest(theorem):
    """Of the defects that a theorem catches, the cheapest to judge: of rows before of a head, then by claims."""
    caught = [planted for planted in DEFECTS if theorem in planted.caught_by]
    return min(caught, key=lambda planted: ("linear" in planted.function, _claims(planted, theorem)))


OF_JAX_ITSELF = ("M1", "M2", "M3")  # about jax.jvp, which no implementation offers
QUICKEST = {theorem: _quickest(theorem) for theorem in THEOREMS if theorem not in OF_JAX_ITSELF}
# Theorems of which another part is tried with every change.
NIGHTLY = {
    "M6-second",
    "M11",
    "M15-mean",
    "M16-head",
    "M19-low",
    "M22",
    "M24-head",
    "M27-head",
    "M27-mesh",
    "M28-second",
    "M32-keywords",
}


def _first_failures(planted, theorem):
    """The failed rows of the first claim that catches the defect; later ones aren't judged."""
    tasks = _tasks(planted.implementation, [THEOREMS[theorem]], planted.dtypes, quick=True).tasks
    with mpmath.workdps(DIGITS):
        failures = ([row for row in judge([task])[0] if not row.passed] for task in tasks)
        return next(filter(None, failures), [])


@pytest.mark.parametrize("theorem", [number for number in QUICKEST if number not in NIGHTLY])
def test_every_theorem_catches_a_planted_defect(theorem):
    failed = _first_failures(QUICKEST[theorem], theorem)
    assert failed
    assert all(row.detail.startswith("got ") for row in failed)  # a wrong number, not an exception


@pytest.mark.slow
@pytest.mark.parametrize("planted", DEFECTS, ids=_name_and_theorems)
def test_a_planted_defect_is_caught_where_it_is_and_nowhere_else(planted):
    rows = _rows(planted)
    failed = [row for row in rows if not row.passed]
    assert {row.theorem for row in failed} == set(planted.caught_by)
    assert {row.theorem for row in rows} >= {*planted.caught_by, *planted.unnoticed_by}
    assert all(row.detail.startswith("got ") for row in failed)  # a wrong number, not an exception
    for column, expected in planted.failing_only.items():
        assert {getattr(row, column) for row in failed} <= expected
    for keyword in planted.dropped:
        assert any(re.search(rf": {keyword}\S* changes nothing", row.detail) for row in failed), keyword


@pytest.mark.slow
@pytest.mark.parametrize("planted", CONTROLS, ids=_name)
def test_the_wrappers_without_a_defect_pass(planted):
    rows = _rows(planted)
    assert {row.theorem for row in rows} >= set(planted.unnoticed_by)
    assert [row for row in rows if not row.passed] == []


def test_there_are_many_defects_and_no_two_of_one_name():
    names = [_name(planted) for planted in DEFECTS]
    assert len(set(names)) == len(names) >= 160
