"""A program keeps its numbers when its loss's import line changes, and a wrong loss is noticed."""

import dataclasses

import numpy as np
import pytest

from experiments.data.digits import standardised_digits
from experiments.drop_in.claim import EXAMPLES, OURS, compare, judge
from experiments.drop_in.import_line import ImportLine

PLANTED = "tests.experiments.planted_losses"
EPOCHS = 1
AGREE, ACCURATE = "every batch's loss agrees", "every test accuracy"


@pytest.fixture(scope="module")
def digits():
    return standardised_digits(seed=0)


@pytest.fixture(scope="module")
def same(digits):
    return compare(EXAMPLES["optax"], OURS, digits, EPOCHS, seed=0)


def check(found, beginning):
    checks = judge({"one": found}, held_out=450, training=1347).checks
    return next(holds for name, holds in checks.items() if name.startswith(beginning))


@pytest.mark.slow
def test_a_program_keeps_its_losses(same):
    assert check(same, AGREE)
    assert same.theirs.correct == same.ours.correct
    first = (np.float32(run.losses[0]) for run in (same.theirs, same.ours))
    np.testing.assert_array_max_ulp(*first, maxulp=1)  # a batch's equal losses, which XLA may add up in another order


@pytest.mark.slow
@pytest.mark.parametrize("name", EXAMPLES)
def test_wrong_loss_is_noticed(name, digits):
    assert not check(compare(EXAMPLES[name], PLANTED, digits, EPOCHS, seed=0), AGREE)


@pytest.mark.slow
def test_loss_that_is_not_a_number_is_noticed(same):
    broken = dataclasses.replace(same.ours, losses=same.ours.losses * float("nan"))
    assert not check(dataclasses.replace(same, ours=broken), AGREE)


@pytest.mark.slow
def test_another_accuracy_is_noticed(same):
    other = dataclasses.replace(same.ours, correct=same.ours.correct - 1)
    assert not check(dataclasses.replace(same, ours=other), "the test accuracies are equal")


@pytest.mark.slow
def test_low_accuracy_is_noticed(same):
    poor = dataclasses.replace(same.theirs, correct=427)
    assert not check(dataclasses.replace(same, theirs=poor, ours=poor), ACCURATE)
    good = dataclasses.replace(same.theirs, correct=428)
    assert check(dataclasses.replace(same, theirs=good, ours=good), ACCURATE)


@pytest.mark.parametrize("line", EXAMPLES.values(), ids=EXAMPLES)
def test_programs_differ_by_one_import_line(line):
    assert line.change_to(OURS) == [f"- {line.from_library(line.library)}", f"+ from jaxsoftmax import {line.function}"]


def test_program_takes_its_loss_from_the_library_named():
    import optax

    import jaxsoftmax

    line = EXAMPLES["optax"]
    assert line.program_with("optax").softmax_cross_entropy is optax.softmax_cross_entropy
    assert line.program_with(OURS).softmax_cross_entropy is jaxsoftmax.softmax_cross_entropy


@pytest.mark.parametrize("source", ["import optax\n", "from optax import loss\nfrom optax import loss\n"])
def test_program_without_the_line_or_with_two_is_refused(source, tmp_path):
    program = tmp_path / "program.py"
    program.write_text(source)
    with pytest.raises(ValueError, match=r"expected one line 'from optax import loss' in .*program.py, got [02]"):
        ImportLine(program, "optax", "loss").source_with(OURS)
