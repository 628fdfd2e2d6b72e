"""Small networks that learn the digits from a few labels, alone or with a teacher's probabilities."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

import jaxsoftmax
from experiments.data.digits import CLASSES, Digits
from experiments.distillation.gradients import distillation_loss
from experiments.models.digits_mlp import Mlp, descend, initial_mlp, logits_of

_HIDDEN, _RATE = 16, 0.01


@dataclass(frozen=True)
class Course:
    """What all students of one experiment share: data, the teacher's logits, and each student's own labelled digits."""

    digits: Digits
    teacher: Float[np.ndarray, "train classes"]
    labelled: Int[np.ndarray, "students labelled"]
    seed: int
    steps: int

    @property
    def students(self) -> int:
        """How many there are."""
        return len(self.labelled)


def labelled_digits(digits: Digits, students: int, each: int, seed: int) -> Int[np.ndarray, "students labelled"]:
    """Draws so many training digits of each class for each student."""
    rng = np.random.default_rng(seed)
    of_class = [np.flatnonzero(digits.train_y == digit) for digit in range(CLASSES)]
    drawn = [[rng.choice(members, each, replace=False) for members in of_class] for _ in range(students)]
    return np.array(drawn).reshape(students, CLASSES * each)


def from_labels(course: Course) -> Float[np.ndarray, " students"]:
    """Returns the accuracies of students that have their few labels alone."""
    return _accuracies(course, course.labelled, 1.0, taught=0.0)


def with_teacher(course: Course, temperature: float) -> Float[np.ndarray, " students"]:
    """Returns the accuracies of students that also have the teacher's probabilities of the same digits."""
    return _accuracies(course, course.labelled, temperature, taught=1.0)


def with_teacher_on_all(course: Course, temperature: float) -> Float[np.ndarray, " students"]:
    """Returns the accuracies of students that have the teacher's probabilities of every training digit."""
    everyone = np.broadcast_to(np.arange(len(course.teacher)), (course.students, len(course.teacher)))
    return _accuracies(course, everyone, temperature, taught=1.0)


def _accuracies(
    course: Course, shown: Int[np.ndarray, "students shown"], temperature: float, taught: float
) -> np.ndarray:
    """Trains all students at once; ``taught`` weighs the teacher's part."""
    digits = course.digits
    keys = jax.random.split(jax.random.key(course.seed), course.students)
    x, y = jnp.asarray(digits.train_x, jnp.float32), jnp.asarray(digits.train_y, jnp.int32)
    teacher = jnp.asarray(course.teacher)
    students = _students(keys, x, y, teacher, course.labelled, shown, temperature, taught, course.steps)
    logits = jax.vmap(logits_of, (0, None))(students, jnp.asarray(digits.test_x, jnp.float32))
    return np.mean(np.asarray(jnp.argmax(logits, axis=2)) == digits.test_y, axis=1)


@jax.jit
def _students(
    keys: PRNGKeyArray,
    x: Float[Array, "train pixels"],
    y: Int[Array, " train"],
    teacher: Float[Array, "train classes"],
    labelled: Int[Array, "students labelled"],
    shown: Int[Array, "students shown"],
    temperature: Float[Array, ""],
    taught: Float[Array, ""],
    steps: Int[Array, ""],
) -> Mlp:
    def student(key: PRNGKeyArray, labelled: Int[Array, " labelled"], shown: Int[Array, " shown"]) -> Mlp:
        few, names, many, lessons = x[labelled], y[labelled], x[shown], teacher[shown]

        def objective(mlp: Mlp) -> Float[Array, ""]:
            soft = distillation_loss(logits_of(mlp, many), lessons, temperature)
            return jaxsoftmax.cross_entropy(logits_of(mlp, few), names) + taught * jnp.mean(soft)

        return descend(objective, initial_mlp(key, x.shape[1], _HIDDEN), steps, _RATE)

    return jax.vmap(student)(keys, labelled, shown)
