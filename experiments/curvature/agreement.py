"""How far the ways to one curvature are from each other, in float64 and in ulps of the largest entry."""

from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from experiments.curvature.products import (
    Flat,
    Matrix,
    Model,
    Product,
    central_difference,
    forward_twice,
    gauss_newton,
    second_derivative_term,
)

# Sums over the rows of a batch, through two layers and back, in another order each.
TOLERANCE_ULPS = 64.0
DIFFERENCE_TOLERANCE = 1e-6  # relative, of central differences with step 1e-4 in float64
NOTICEABLE = 1e-3


@dataclass(frozen=True)
class Agreement:
    """Largest errors of Hessian-vector products over a few directions."""

    ulps: dict[str, float]  # by product, from `jax.hessian` times v
    forward_twice_ulps: float  # of vᵀHv, likewise
    difference: float  # relative, of central differences of the gradient

    @property
    def holds(self) -> bool:
        """Whether all products agree with jax.hessian and with central differences."""
        worst = max(*self.ulps.values(), self.forward_twice_ulps)
        return worst <= TOLERANCE_ULPS and self.difference <= DIFFERENCE_TOLERANCE


def ulps_apart(found: object, expected: object) -> float:
    """Returns the largest distance in float64 ulps of the largest entry expected; infinite if it is not finite."""
    found, expected = np.asarray(found, np.float64), np.asarray(expected, np.float64)
    distance = np.abs(found - expected).max() / np.abs(expected).max() / np.finfo(np.float64).eps
    return float(distance) if np.isfinite(distance) else float("inf")


def unit_directions(size: int, count: int, seed: int) -> np.ndarray:
    """Returns random vectors [count, size] of length 1."""
    directions = np.random.default_rng(seed).normal(size=(count, size))
    return directions / np.linalg.norm(directions, axis=1, keepdims=True)


def agreement(products: dict[str, Product], model: Model, hessian: Matrix, directions: np.ndarray) -> Agreement:
    """Compares each product, and a second derivative in forward mode alone, with the whole Hessian times v."""

    @jax.jit
    @partial(jax.vmap, in_axes=(None, 0))
    def along(model: Model, v: Flat) -> tuple[dict[str, Flat], Float[Array, ""], Flat]:
        found = {name: product(model, v) for name, product in products.items()}
        return found, forward_twice(model, v), central_difference(model, v)

    expected = jnp.asarray(directions) @ hessian.T
    found, curvatures, slopes = along(model, jnp.asarray(directions))
    return Agreement(
        ulps={name: ulps_apart(product, expected) for name, product in found.items()},
        forward_twice_ulps=ulps_apart(curvatures, jnp.sum(directions * expected, axis=1)),
        difference=float(jnp.linalg.norm(slopes - expected) / jnp.linalg.norm(expected)),
    )


@dataclass(frozen=True)
class Split:
    """How Gauss–Newton products differ from Hessian products."""

    linear_ulps: float  # of Gauss–Newton's from the Hessian's, where the network is linear
    rest: float  # the norm of the rest of the network's, over that of the Hessian's product

    @property
    def holds(self) -> bool:
        """Whether Gauss–Newton is the Hessian where the network is linear, and there alone."""
        return self.linear_ulps <= TOLERANCE_ULPS and self.rest > NOTICEABLE


def split(hessian_product: Product, linear: Model, network: Model, seed: int) -> Split:
    """Compares Gauss–Newton with Hessian products, for a linear model and for the network."""

    @partial(jax.jit, static_argnums=0)
    def both(part: Product, model: Model, v: Flat) -> tuple[Flat, Flat]:
        return part(model, v), hessian_product(model, v)

    def along(part: Product, model: Model) -> tuple[Flat, Flat]:
        return both(part, model, jnp.asarray(unit_directions(model.point.size, 1, seed)[0]))

    rest, whole = along(second_derivative_term, network)
    return Split(ulps_apart(*along(gauss_newton, linear)), float(jnp.linalg.norm(rest) / jnp.linalg.norm(whole)))
