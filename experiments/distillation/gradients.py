"""Gradients of a distillation loss against 50 digits: in the student's logits, the teacher's probabilities and logits.

Logits are multiples of 1/16 and the temperature is a power of two, so that all differences are exact. An error is
relative to the sum of the magnitudes of an entry's terms, which is |entry| unless student and teacher agree.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float

import jaxsoftmax
from experiments.judges.fifty_digits import fifty_digits, soft_label_gradients, softmax_jacobian

TOLERANCE_ULPS = 8.0  # exp, log1p, a sum of nine terms, and two products
TEMPERATURE = 2.0
_CLASSES = 10
_STUDENT_GAP = 3.0  # where the teacher's is swept

Row = Float[Array, " classes"]
Loss = Callable[..., Array]  # of student, teacher and temperature


@dataclass(frozen=True)
class Losses:
    """A library's loss of a student's logits, given the teacher's probabilities or its logits."""

    of_probabilities: Loss
    of_logits: Loss


def _library_of_probabilities(student: Array, probabilities: Array, temperature: float | Array) -> Array:
    return jaxsoftmax.softmax_cross_entropy(student / temperature, probabilities) * temperature**2


def distillation_loss(
    student: Float[Array, "*batch classes"], teacher: Float[Array, "*batch classes"], temperature: float | Array
) -> Float[Array, "*batch"]:
    """Returns T² C(z / T, softmax(v / T)) of a student's logits z and a teacher's v."""
    return _library_of_probabilities(student, jaxsoftmax.softmax(teacher / temperature), temperature)


def _optax_of_probabilities(student: Row, probabilities: Row, temperature: float) -> Array:
    return optax.softmax_cross_entropy(student / temperature, probabilities) * temperature**2


def _optax_of_logits(student: Row, teacher: Row, temperature: float) -> Array:
    return _optax_of_probabilities(student, jax.nn.softmax(teacher / temperature), temperature)


LIBRARY, OPTAX = "jaxsoftmax", "optax, jax.nn"
METHODS = {
    OPTAX: Losses(_optax_of_probabilities, _optax_of_logits),
    LIBRARY: Losses(_library_of_probabilities, distillation_loss),
}
QUANTITIES = ("student's logits", "teacher's probabilities", "teacher's logits")
SURE_LOGITS = "logits with the gap"


def teachers() -> dict[str, np.ndarray]:
    """Returns float64 targets by name, for a student confident of class 0."""
    halves = 0.5 ** np.arange(1.0, _CLASSES + 1)
    return {
        "sure: others 1e-20": np.where(np.arange(_CLASSES) == 0, 1.0, 1e-20),
        "unsure": halves / halves.sum(),
        "sure of class 1": np.where(np.arange(_CLASSES) == 1, 1.0, 1e-20),
        "unnormalised, signed": np.linspace(1.5, -0.5, _CLASSES),
    }


@dataclass(frozen=True)
class GradientErrors:
    """The worst error of an entry at each gap, of one gradient by one library in float32."""

    quantity: str
    teacher: str
    method: str
    gaps: np.ndarray
    errors: np.ndarray

    @property
    def worst_ulps(self) -> float:
        """The worst of all gaps, in ulps."""
        return float(self.errors.max() / np.finfo(np.float32).eps)

    @property
    def holds(self) -> bool:
        """Whether every entry is accurate at every gap."""
        return self.worst_ulps <= TOLERANCE_ULPS

    @property
    def lost_from(self) -> float | None:
        """The first gap at which some entry is off by more than half."""
        lost = self.errors > 0.5
        return float(self.gaps[lost][0]) if lost.any() else None


class Exact(NamedTuple):
    """A gradient of each row, rounded from 50 digits, and what its errors are relative to; [gaps, classes] each."""

    gradient: np.ndarray
    magnitude: np.ndarray


def gradient_errors(methods: dict[str, Losses], gaps: np.ndarray, seed: int) -> list[GradientErrors]:
    """Judges each library's gradients along a sweep of the gap over the temperature, in multiples of 1/16."""
    rng = np.random.default_rng(seed)
    rows = _rows_ahead_by(gaps, rng)
    lessons = {name: np.broadcast_to(t.astype(np.float32), rows.shape) for name, t in teachers().items()}
    by_student = {name: _exact_by_student(rows, targets) for name, targets in lessons.items()}
    student = _rows_ahead_by(np.full_like(gaps, _STUDENT_GAP), rng)
    by_teacher = _exact_by_teacher(student, rows)
    found = []
    for method, losses in methods.items():
        gradients = _compiled_gradients(losses.of_probabilities, (0, 1))
        for name, targets in lessons.items():
            values = gradients(TEMPERATURE * rows, targets)
            for quantity, value, exact in zip(QUANTITIES[:2], values, by_student[name], strict=True):
                found.append(GradientErrors(quantity, name, method, gaps, _errors(value, exact)))
        (value,) = _compiled_gradients(losses.of_logits, (1,))(TEMPERATURE * student, TEMPERATURE * rows)
        found.append(GradientErrors(QUANTITIES[2], SURE_LOGITS, method, gaps, _errors(value, by_teacher)))
    return found


def _rows_ahead_by(gaps: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Returns logits [gaps, classes] with class 0 at the gap and the others at most 1 below 0."""
    lags = rng.integers(0, 17, size=(len(gaps), _CLASSES - 1)) / 16.0
    lags[:, 0] = 0.0
    return np.concatenate([gaps[:, None], -lags], axis=1)


def _compiled_gradients(loss: Loss, of: tuple[int, ...]) -> Callable[[np.ndarray, np.ndarray], tuple[Array, ...]]:
    compiled = jax.jit(jax.vmap(jax.grad(partial(loss, temperature=TEMPERATURE), of)))

    def gradients(student: np.ndarray, teacher: np.ndarray) -> tuple[Array, ...]:
        return compiled(jnp.asarray(student, jnp.float32), jnp.asarray(teacher, jnp.float32))

    return gradients


def _exact_by_student(rows: np.ndarray, targets: np.ndarray) -> tuple[Exact, Exact]:
    """Returns T (s Σt − t) and −T² log s of logits T times the rows (M11, M12)."""
    with fifty_digits():
        exact = [soft_label_gradients(*pair) for pair in zip(rows, targets, strict=True)]
    by_logits, magnitudes, by_targets = (np.array(part, np.float64) for part in zip(*exact, strict=True))
    by_targets = TEMPERATURE**2 * by_targets
    return Exact(TEMPERATURE * by_logits, TEMPERATURE * magnitudes), Exact(by_targets, by_targets)


def _exact_by_teacher(student: np.ndarray, teacher: np.ndarray) -> Exact:
    """Returns T J g of logits T times the rows, with the teacher's J = diag(t) − ttᵀ (M5) and g = −log s (M12)."""
    with fifty_digits():
        uniform = np.ones(_CLASSES)
        jacobians = np.array([softmax_jacobian(row) for row in teacher], dtype=object)
        slopes = np.array([soft_label_gradients(row, uniform).by_targets for row in student], dtype=object)[:, None]
        gradient, magnitude = (jacobians * slopes).sum(axis=2), (abs(jacobians) * slopes).sum(axis=2)
    return Exact(*(TEMPERATURE * part.astype(np.float64) for part in (gradient, magnitude)))


def _errors(values: Array, exact: Exact) -> np.ndarray:
    errors = np.abs(np.asarray(values, np.float64) - exact.gradient) / exact.magnitude
    return np.where(np.isfinite(errors), errors, np.inf).max(axis=1)
