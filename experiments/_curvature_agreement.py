"""How far the ways to one curvature are from each other, in float64 and in ulps of the largest entry."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from experiments._curvature_products import (
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
    """Products with a few directions, each the worst of them."""

    ulps: dict[str, float]  # by product, from `jax.hessian` times v
    forward_twice_ulps: float  # of vᵀHv, likewise
    difference: float  # relative, of central differences of the gradient

    @property
    def holds(self) -> bool:
        """Whether all are one product, and that the slope of the gradient."""
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
    expected = [hessian @ v for v in directions]

    def furthest(product: Product) -> float:
        compiled = jax.jit(product)
        found = [compiled(model, jnp.asarray(v)) for v in directions]
        return max(ulps_apart(*pair) for pair in zip(found, expected, strict=True))

    compiled = jax.jit(forward_twice)
    curvatures = [compiled(model, jnp.asarray(v)) for v in directions]
    slopes = jax.jit(central_difference)(model, jnp.asarray(directions[0]))
    return Agreement(
        ulps={name: furthest(product) for name, product in products.items()},
        forward_twice_ulps=max(
            ulps_apart(found, v @ product) for found, v, product in zip(curvatures, directions, expected, strict=True)
        ),
        difference=float(jnp.linalg.norm(slopes - expected[0]) / jnp.linalg.norm(expected[0])),
    )


@dataclass(frozen=True)
class Split:
    """Gauss–Newton's product and the rest of the Hessian's."""

    linear_ulps: float  # of Gauss–Newton's from the Hessian's, where the network is linear
    rest: float  # the norm of the rest of the network's, over that of the Hessian's product

    @property
    def holds(self) -> bool:
        """Whether Gauss–Newton is the Hessian where the network is linear, and there alone."""
        return self.linear_ulps <= TOLERANCE_ULPS and self.rest > NOTICEABLE


def split(hessian_product: Product, linear: Model, network: Model, seed: int) -> Split:
    """Returns whether the two are equal where they should be, and how different they are where they shouldn't."""

    def both(model: Model, other: Product) -> tuple[np.ndarray, np.ndarray]:
        v = jnp.asarray(unit_directions(model.point.size, 1, seed)[0])
        return np.asarray(jax.jit(other)(model, v)), np.asarray(jax.jit(hessian_product)(model, v))

    rest, whole = both(network, second_derivative_term)
    return Split(ulps_apart(*both(linear, gauss_newton)), float(np.linalg.norm(rest) / np.linalg.norm(whole)))
