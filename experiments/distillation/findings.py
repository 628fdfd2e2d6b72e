"""What the distillation experiment measures."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.data.digits import Digits
from experiments.distillation.chain import HighTemperature, difference_errors, high_temperature
from experiments.distillation.gradients import METHODS, GradientErrors, distillation_loss, gradient_errors
from experiments.distillation.student_training import (
    Course,
    from_labels,
    labelled_digits,
    with_teacher,
    with_teacher_on_all,
)
from experiments.models.digits_mlp import Mlp, logits_of, trained_mlp

TEMPERATURE = 8.0  # of what is concluded about the students
_WIDEST_GAP = 85.0  # exp(−gap) is a normal float32 number
_ROWS = 64
_RATE = 0.01
_TEACHER, _TEACHER_STEPS = 128, 100
_STUDENT, _STUDENT_STEPS = 16, 20  # of the student whose gradients are judged: it still has much to learn


class Size(NamedTuple):
    """How much a run measures."""

    labelled: int  # digits of each class, of each student
    students: int
    steps: int
    temperatures: tuple[float, ...]
    stride: float  # of the gaps, a multiple of 1/16

    @property
    def parts(self) -> int:
        """How often `find` reports."""
        return 6 + len(self.temperatures)


@dataclass(frozen=True)
class Students:
    """Accuracies on the held-out digits, of each student [students]."""

    teacher: float
    labels: np.ndarray  # from its own labels alone
    taught: dict[float, np.ndarray]  # with the teacher's probabilities of the same digits, by temperature
    taught_on_all: np.ndarray  # with the teacher's probabilities of every training digit

    @property
    def gain(self) -> np.ndarray:
        """What the teacher's probabilities of the same digits bring each student."""
        return self.taught[TEMPERATURE] - self.labels

    @property
    def gain_error(self) -> float:
        """The standard error of the mean gain."""
        return float(np.std(self.gain, ddof=1) / np.sqrt(len(self.gain)))

    @property
    def better(self) -> bool:
        """Whether the mean gain is more than chance: two standard errors."""
        return float(np.mean(self.gain)) > 2 * self.gain_error


@dataclass(frozen=True)
class Findings:
    """Everything that is judged, printed and drawn."""

    size: Size
    gradients: list[GradientErrors]
    differences: dict[float, dict[str, float]]  # of the gradient in each network's parameters, by temperature
    limit: HighTemperature
    students: Students


def find(digits: Digits, size: Size, seed: int, advance: Callable[[], None]) -> Findings:
    """Trains the teacher, judges the gradients and trains the students; ``advance`` is called after each part."""
    teacher = trained_mlp(digits, _TEACHER, _TEACHER_STEPS, _RATE, seed)
    student = trained_mlp(digits, _STUDENT, _STUDENT_STEPS, _RATE, seed)
    advance()
    gradients = gradient_errors(METHODS, np.arange(1.0, _WIDEST_GAP, size.stride), seed)
    advance()
    x = digits.train_x[:_ROWS].astype(np.float32)
    logits = [np.asarray(logits_of(mlp, jnp.asarray(x))) for mlp in (student, teacher)]
    with jax.enable_x64(True):
        differences = difference_errors(distillation_loss, student, teacher, x, (1.0, TEMPERATURE), seed)
        advance()
        limit = high_temperature(distillation_loss, *logits)
        advance()
    return Findings(size, gradients, differences, limit, _teach(digits, teacher, size, seed, advance))


def _teach(digits: Digits, teacher: Mlp, size: Size, seed: int, advance: Callable[[], None]) -> Students:
    lessons, answers = (
        np.asarray(logits_of(teacher, jnp.asarray(x, jnp.float32))) for x in (digits.train_x, digits.test_x)
    )
    own = labelled_digits(digits, size.students, size.labelled, seed)
    course = Course(digits, lessons, own, seed, size.steps)
    labels = from_labels(course)
    advance()
    taught = {}
    for temperature in size.temperatures:
        taught[temperature] = with_teacher(course, temperature)
        advance()
    on_all = with_teacher_on_all(course, TEMPERATURE)
    advance()
    return Students(float(np.mean(answers.argmax(axis=1) == digits.test_y)), labels, taught, on_all)
