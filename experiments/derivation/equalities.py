"""A derivation on paper as a list of executed equalities: e₁ = e₂ = … , one printed line each.

The first line of a derivation is what is being derived, computed by JAX's own differentiation of the textbook formula
(a differential df is ``jax.jvp(f, (x,), (dx,))[1]``). Every later line is compared with it at many random points.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

# Largest difference of two lines, in ulps of float64, relative to the largest entry of the derivation's first line.
TOLERANCE_ULPS = 32.0


class Point(NamedTuple):
    """One random value of every symbol that the source documents use; ``n`` classes, ``m`` samples, ``d`` features."""

    x: Float[Array, " n"]
    dx: Float[Array, " n"]
    t: Float[Array, " n"]
    y: Int[Array, ""]
    e: Float[Array, " n"]
    a: Float[Array, ""]
    u: Float[Array, ""]
    p: Float[Array, " n"]
    q: Float[Array, " n"]
    const: Float[Array, "n n"]
    X: Float[Array, "n n"]
    Y: Float[Array, "n n"]
    dX: Float[Array, "n n"]
    dY: Float[Array, "n n"]
    xs: Float[Array, "m n"]
    ys: Int[Array, " m"]
    features: Float[Array, "m d"]
    W: Float[Array, "d n"]
    b: Float[Array, " n"]
    reg: Float[Array, ""]


@dataclass(frozen=True)
class Line:
    """One line of a derivation: the formula as printed, and the same formula as code."""

    formula: str
    value: Callable[[Point], Array]

    @property
    def names_the_library(self) -> bool:
        """Whether the line is this library's, and not printed in the document."""
        return "jaxsoftmax" in self.formula


class Derivation:
    """A chain of equal expressions, with the theorem that it proves."""

    def __init__(self, theorem: str, title: str, *lines: Line) -> None:
        """Takes the lines one by one, the one that is derived first."""
        self.theorem, self.title, self.lines = theorem, title, lines


@dataclass(frozen=True)
class Document:
    """A source document and its derivations, in reading order; ``planted`` lines are wrong on purpose."""

    name: str
    source: str
    derivations: tuple[Derivation, ...]
    planted: tuple[Derivation, ...] = ()


@dataclass(frozen=True)
class CheckedLine:
    """A line and its worst relative difference from the first line of its derivation."""

    line: Line
    difference: float

    @property
    def ulps(self) -> float:
        """The difference in units of the float64 machine epsilon."""
        return self.difference / float(np.finfo(np.float64).eps)

    @property
    def holds(self) -> bool:
        """Whether the line equals the first one up to rounding."""
        return self.ulps <= TOLERANCE_ULPS


def draw_points(rng: np.random.Generator, classes: int, count: int, samples: int = 5, features: int = 4) -> Point:
    """Returns ``count`` random points, stacked along a leading axis."""
    labels = rng.integers(classes, size=count)

    def normal(*shape: int) -> Array:
        return jnp.asarray(rng.normal(size=(count, *shape)))

    return Point(
        x=normal(classes),
        dx=normal(classes),
        t=normal(classes),
        y=jnp.asarray(labels),
        e=jax.nn.one_hot(labels, classes, dtype=jnp.float64),
        a=normal(),
        u=jnp.asarray(rng.uniform(0.2, 0.8, size=count)),
        p=normal(classes),
        q=normal(classes),
        const=normal(classes, classes),
        X=normal(classes, classes),
        Y=normal(classes, classes),
        dX=normal(classes, classes),
        dY=normal(classes, classes),
        xs=normal(samples, classes),
        ys=jnp.asarray(rng.integers(classes, size=(count, samples))),
        features=normal(samples, features),
        W=normal(features, classes),
        b=normal(classes),
        reg=jnp.asarray(rng.uniform(0.1, 1.0, size=count)),
    )


def check(derivations: Sequence[Derivation], points: Point) -> list[list[CheckedLine]]:
    """Evaluates every line at every point, and compares each with the first line of its derivation.

    Args:
        derivations: the chains to execute, compiled together.
        points: random points in float64, stacked along a leading axis.

    Returns:
        The lines of each derivation; a difference is max |eₖ − e₁| / max |e₁|, both over all points and entries, and
        infinite where a line has another shape or is not finite.
    """

    def evaluate(point: Point) -> list[list[Array]]:
        return [[jnp.asarray(line.value(point)) for line in derivation.lines] for derivation in derivations]

    # Compiled once and run once: optimising would only cost time.
    compiled = jax.jit(jax.vmap(evaluate), compiler_options={"xla_backend_optimization_level": 0})
    checked = []
    for derivation, values in zip(derivations, compiled(points), strict=True):
        differences = [_relative_difference(np.asarray(value), np.asarray(values[0])) for value in values]
        checked.append([CheckedLine(*pair) for pair in zip(derivation.lines, differences, strict=True)])
    return checked


def _relative_difference(value: np.ndarray, reference: np.ndarray) -> float:
    if value.shape != reference.shape or not (np.isfinite(value).all() and np.isfinite(reference).all()):
        return float("inf")
    distance = float(np.abs(value - reference).max())
    magnitude = float(np.abs(reference).max())
    return distance / magnitude if magnitude > 0 else (0.0 if distance == 0 else float("inf"))
