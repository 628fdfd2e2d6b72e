"""The distillation experiment's judges are right, and notice wrong gradients."""

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest

import jaxsoftmax
from experiments.data.digits import CLASSES, standardised_digits
from experiments.distillation.chain import DIFFERENCE_TOLERANCE, difference_errors, high_temperature
from experiments.distillation.findings import TEMPERATURE, Students
from experiments.distillation.gradients import (
    LIBRARY,
    METHODS,
    OPTAX,
    QUANTITIES,
    Losses,
    distillation_loss,
    gradient_errors,
)
from experiments.distillation.student_training import Course, from_labels, labelled_digits, with_teacher
from experiments.judges.fifty_digits import fifty_digits, soft_label_gradients
from experiments.models.digits_mlp import Mlp, logits_of

GAPS = np.array([1.0, 10.0, 25.0, 60.0])
X = np.random.default_rng(0).normal(size=(20, 6))


def wrong_in(methods):
    """The quantities in which some gradient is not accurate."""
    return {each.quantity for each in gradient_errors({"it": methods}, GAPS, 0) if not each.holds}


def with_constant_teacher(student, teacher, temperature):
    return distillation_loss(student, jax.lax.stop_gradient(teacher), temperature)


def without_the_square(student, teacher, temperature):
    return distillation_loss(student, teacher, temperature) / temperature**2


def for_targets_that_sum_to_one(student, probabilities, temperature):
    losses = jaxsoftmax.softmax_cross_entropy(student / temperature, probabilities / probabilities.sum())
    return losses * temperature**2


def of_constant_probabilities(student, probabilities, temperature):
    return METHODS[LIBRARY].of_probabilities(student, jax.lax.stop_gradient(probabilities), temperature)


def networks():
    draw = np.random.default_rng(1).normal
    return [Mlp(draw(size=(6, 4)) / 2, np.zeros(4), draw(size=(4, 10)) / 2, np.zeros(10)) for _ in range(2)]


@pytest.mark.slow
def test_gradients_by_the_library_are_accurate_and_by_optax_are_not():
    assert wrong_in(METHODS[LIBRARY]) == set()
    assert wrong_in(METHODS[OPTAX]) == set(QUANTITIES)


@pytest.mark.slow
def test_wrong_gradients_are_noticed_where_they_are_wrong():
    right = METHODS[LIBRARY]
    assert wrong_in(Losses(of_constant_probabilities, right.of_logits)) == {QUANTITIES[1]}
    assert wrong_in(Losses(right.of_probabilities, with_constant_teacher)) == {QUANTITIES[2]}
    assert wrong_in(Losses(for_targets_that_sum_to_one, right.of_logits)) == set(QUANTITIES[:2])


def test_fifty_digit_gradients_of_a_sure_student():
    with fifty_digits():
        found = soft_label_gradients(np.array([0.0, -40.0]), np.array([1.0, 2.0]))
        tail = mpmath.exp(-40) / (1 + mpmath.exp(-40))
    assert float(found.by_logits[0]) == pytest.approx(float(2 * (1 - tail) - tail), rel=1e-15)
    assert float(found.by_logits[1]) == pytest.approx(float(tail - 2 * (1 - tail)), rel=1e-15)
    assert float(found.by_targets[0]) == pytest.approx(4.248354255291589e-18, rel=1e-15, abs=0)
    assert float(found.by_targets[1]) == pytest.approx(40.0, rel=1e-15)


@pytest.mark.slow
def test_gradient_through_both_networks_is_that_of_differences():
    with jax.enable_x64(True):
        errors = difference_errors(distillation_loss, *networks(), X, (1.0, 4.0), 0)
    assert max(error for each in errors.values() for error in each.values()) <= DIFFERENCE_TOLERANCE


def test_teacher_that_gets_no_gradient_is_noticed():
    with jax.enable_x64(True):
        errors = difference_errors(with_constant_teacher, *networks(), X, (4.0,), 0)[4.0]
    assert errors["student"] <= DIFFERENCE_TOLERANCE
    assert errors["teacher"] == 1.0


@pytest.mark.slow
def test_gradient_tends_to_its_limit_and_one_without_the_square_does_not():
    student, teacher = (np.asarray(logits_of(mlp, jnp.asarray(X))) for mlp in networks())
    with jax.enable_x64(True):
        assert high_temperature(distillation_loss, student, teacher).holds
        assert not high_temperature(without_the_square, student, teacher).holds


def students_with(gain):
    labels = np.array([0.7, 0.8, 0.75, 0.72])
    return Students(0.97, labels, {TEMPERATURE: labels + gain}, labels)


def test_gain_is_told_from_chance():
    assert students_with(np.array([0.05, 0.06, 0.04, 0.07])).better
    assert not students_with(np.array([0.05, -0.06, 0.04, -0.01])).better
    assert not students_with(np.zeros(4)).better


def test_labelled_digits_are_as_many_of_each_class_and_all_different():
    digits = standardised_digits(0)
    drawn = labelled_digits(digits, students=3, each=4, seed=0)
    assert drawn.shape == (3, 40)
    assert all(np.bincount(digits.train_y[own]).tolist() == [4] * CLASSES for own in drawn)
    assert all(len(set(own)) == 40 for own in drawn)


@pytest.mark.slow
def test_teacher_that_knows_the_labels_helps_and_one_that_names_others_does_not():
    digits = standardised_digits(0)
    own = labelled_digits(digits, students=2, each=3, seed=0)
    right, wrong = (8.0 * np.eye(CLASSES, dtype=np.float32)[(digits.train_y + shift) % 10] for shift in (0, 1))
    alone, taught, misled = (
        np.mean(learn(Course(digits, teacher, own, 0, 60)))
        for learn, teacher in [(from_labels, right), (with_teacher_at_8, right), (with_teacher_at_8, wrong)]
    )
    assert alone > 0.5
    assert taught > misled + 0.1


def with_teacher_at_8(course):
    return with_teacher(course, 8.0)
