"""The gradient of a distillation loss through both networks, and its limit at high temperature."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float

from experiments.models.digits_mlp import Mlp, logits_of

DIFFERENCE_TOLERANCE = 1e-6  # relative, of central differences with step 1e-5 in float64
_STEP = 1e-5
SLOPE_TOLERANCE = 0.02
_LIMIT_FROM, _LIMIT_TO = 256.0, 16384.0  # the temperatures between which the slope is measured

Logits = Float[Array, "rows classes"]
Loss = Callable[[Logits, Logits, float | Array], Float[Array, " rows"]]


def difference_errors(
    loss: Loss, student: Mlp, teacher: Mlp, x: np.ndarray, temperatures: Sequence[float], seed: int
) -> dict[float, dict[str, float]]:
    """Returns how far the gradient in each network's parameters is from central differences, relatively.

    Args:
        loss: of the student's logits, the teacher's and the temperature.
        student: whose logits are taught.
        teacher: whose logits teach.
        x: the digits [rows, pixels].
        temperatures: of both softmaxes.
        seed: of the directions, one for each network.
    """
    networks = {"student": student, "teacher": teacher}
    points = {name: ravel_pytree(jax.tree.map(_widened, mlp)) for name, mlp in networks.items()}
    pixels = jnp.asarray(x, jnp.float64)

    @jax.jit
    @jax.value_and_grad
    def mean(flat: dict[str, Array], temperature: Float[Array, ""]) -> Float[Array, ""]:
        logits = {name: logits_of(unravel(flat[name]), pixels) for name, (_, unravel) in points.items()}
        return jnp.mean(loss(logits["student"], logits["teacher"], temperature))

    here = {name: point for name, (point, _) in points.items()}
    rng = np.random.default_rng(seed)
    directions = {name: rng.normal(size=point.size) for name, point in here.items()}

    def error(name: str, temperature: float) -> float:
        v = directions[name] / np.linalg.norm(directions[name])
        ahead, behind = (
            float(mean(here | {name: here[name] + sign * _STEP * v}, temperature)[0]) for sign in (1.0, -1.0)
        )
        slope = (ahead - behind) / (2 * _STEP)
        return abs(float(mean(here, temperature)[1][name] @ v) - slope) / abs(slope)

    return {temperature: {name: error(name, temperature) for name in networks} for temperature in temperatures}


def _widened(leaf: np.ndarray) -> Array:
    return jnp.asarray(leaf, jnp.float64)


@dataclass(frozen=True)
class HighTemperature:
    """How far the gradient in the student's logits is from (z − v) / C, both centred, in its norm."""

    temperatures: np.ndarray
    errors: dict[str, np.ndarray]  # by dtype

    @property
    def slope(self) -> float:
        """The exponent of T with which the error falls in float64, at high temperature."""
        kept = (self.temperatures >= _LIMIT_FROM) & (self.temperatures <= _LIMIT_TO)
        logs = np.log(self.temperatures[kept]), np.log(self.errors["float64"][kept])
        return float(np.polyfit(*logs, 1)[0])

    @property
    def holds(self) -> bool:
        """Whether the error falls as 1 / T."""
        return abs(self.slope + 1.0) <= SLOPE_TOLERANCE

    @property
    def best_float32(self) -> float:
        """The temperature at which the gradient in float32 is nearest to the limit."""
        return float(self.temperatures[np.argmin(self.errors["float32"])])


def high_temperature(loss: Loss, student: np.ndarray, teacher: np.ndarray) -> HighTemperature:
    """Follows the gradient in the logits [rows, classes] of a student over temperatures 1, 2, 4 and on."""
    limit = (_centred(student) - _centred(teacher)) / student.shape[1]
    temperatures = 2.0 ** np.arange(19)

    def total(student: Logits, teacher: Logits, temperature: Array) -> Float[Array, ""]:
        return jnp.sum(loss(student, teacher, temperature))

    errors = {}
    for dtype in ("float32", "float64"):
        narrow = (jnp.asarray(logits, dtype) for logits in (student, teacher))
        gradients = jax.jit(jax.vmap(jax.grad(total), (None, None, 0)))(*narrow, jnp.asarray(temperatures, dtype))
        distances = np.linalg.norm(np.asarray(gradients, np.float64) - limit, axis=(1, 2))
        errors[dtype] = distances / np.linalg.norm(limit)
    return HighTemperature(temperatures, errors)


def _centred(logits: np.ndarray) -> np.ndarray:
    wide = logits.astype(np.float64)
    return wide - wide.mean(axis=1, keepdims=True)
