"""The curvature of confident digits: by this library and by optax, row by row and in a network's parameters.

A row's matrix diag(s) − ssᵀ is judged with 50 digits, at the logits as they are in float32 or float64. A product with
the whole network's parameters in float32 is judged by the same product in float64.
"""

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int

import jaxsoftmax
from experiments.curvature.products import (
    Flat,
    Logits,
    Model,
    Product,
    forward_over_reverse,
    gauss_newton,
    gauss_newton_and_the_rest,
)
from experiments.judges.fifty_digits import fifty_digits, softmax_jacobian
from jaxsoftmax import analytic

Matrices = Float[Array, "rows classes classes"]
Labels = Int[Array, " rows"]
ROW_TOLERANCE_ULPS = 16.0  # an entry is a product of two probabilities, each a few roundings deep
PRODUCT_TOLERANCE = 1e-4  # the network's own rounding moves a logit of 20 by some 1e-5
CONFIDENT = 17.0  # nats: from here on 1 + exp(−gap) is 1 in float32, unless several classes come next


def _library_hessian(logits: Logits, labels: Labels) -> Matrices:
    return jax.vmap(jax.hessian(jaxsoftmax.softmax_cross_entropy_with_integer_labels))(logits, labels)


def _optax_hessian(logits: Logits, labels: Labels) -> Matrices:
    return jax.vmap(jax.hessian(optax.softmax_cross_entropy_with_integer_labels))(logits, labels)


def _products_with_basis(logits: Logits, labels: Labels) -> Matrices:
    # Rows outermost: with the basis outermost the CPU compiler of jaxlib 0.10.2 adds up wrong entries (jax#39103).
    over_basis = jax.vmap(analytic.cross_entropy_hvp, (None, None, 0))
    return jax.vmap(over_basis, (0, 0, None))(logits, labels, jnp.eye(logits.shape[1], dtype=logits.dtype))


LIBRARY, OPTAX = "jax.hessian, jaxsoftmax", "jax.hessian, optax"
ROW_HESSIANS: dict[str, Callable[[Logits, Labels], Matrices]] = {
    LIBRARY: _library_hessian,
    "analytic.cross_entropy_hessian": analytic.cross_entropy_hessian,
    "analytic.cross_entropy_hvp, over the basis": _products_with_basis,
}
PEER_HESSIANS: dict[str, Callable[[Logits, Labels], Matrices]] = {OPTAX: _optax_hessian}


@dataclass(frozen=True)
class RowErrors:
    """One way to a row's matrix in one dtype: its worst relative error in each row, and the label's own entry."""

    method: str
    dtype: str
    errors: Float[np.ndarray, " rows"]
    label_entry: Float[np.ndarray, " rows"]

    @property
    def holds(self) -> bool:
        """Whether every entry is relatively accurate."""
        return self.worst_ulps <= ROW_TOLERANCE_ULPS

    @property
    def worst_ulps(self) -> float:
        """The worst entry of all rows, in ulps."""
        return float(self.errors.max() / np.finfo(self.dtype).eps)


@dataclass(frozen=True)
class ConfidentRows:
    """The rows that were judged: how confident each is, and what each method made of them."""

    gaps: Float[np.ndarray, " rows"]
    of_all: int  # confident rows, also of those that were not judged
    found: list[RowErrors]

    def errors_of(self, method: str, dtype: str) -> Float[np.ndarray, " rows"]:
        """Returns the rows' errors of one method in one dtype."""
        return self._of(method, dtype).errors

    @property
    def confident(self) -> int:
        """How many of the rows are."""
        return int(np.sum(self.gaps > CONFIDENT))

    def zeros_of(self, method: str, dtype: str) -> int:
        """Returns how many of the confident rows have no curvature along their label."""
        return int(np.sum(self._of(method, dtype).label_entry[self.gaps > CONFIDENT] == 0.0))

    def _of(self, method: str, dtype: str) -> RowErrors:
        return next(each for each in self.found if (each.method, each.dtype) == (method, dtype))


def with_exact_differences(logits: Float[np.ndarray, "rows classes"]) -> np.ndarray:
    """Returns logits of less than 128 rounded to multiples of 2⁻¹⁶: their differences are float32 numbers."""
    return np.round(logits * 2.0**16) / 2.0**16


def row_errors(
    hessians: dict[str, Callable[[Logits, Labels], Matrices]],
    logits: Float[np.ndarray, "rows classes"],
    labels: Int[np.ndarray, " rows"],
) -> list[RowErrors]:
    """Judges each way to the rows' matrices, entry by entry, in the dtype of the logits."""
    with fifty_digits():
        exact = np.array([softmax_jacobian(row) for row in logits], dtype=object).astype(np.float64)
    rows = np.arange(len(labels))

    @jax.jit
    def by_method(logits: Logits, labels: Labels) -> dict[str, Matrices]:
        return {method: hessian(logits, labels) for method, hessian in hessians.items()}

    found = []
    for method, matrices in by_method(jnp.asarray(logits), jnp.asarray(labels)).items():
        wide = np.asarray(matrices, np.float64)
        errors = np.abs(wide / exact - 1.0).max(axis=(1, 2))
        found.append(RowErrors(method, str(logits.dtype), errors, wide[rows, labels, labels]))
    return found


def product_with_optax(model: Model, v: Flat) -> Flat:
    """Returns the Hessian's product through optax's loss, forward over reverse."""
    return forward_over_reverse(model, v, _optax_mean)


def _optax_mean(logits: Logits, labels: Labels) -> Float[Array, ""]:
    return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, labels))


OPTAX_PRODUCT = "jvp of grad, optax"
# Each with the float64 formula that it is compared with.
PRODUCTS: dict[str, tuple[Product, Product]] = {
    "jvp of grad, jaxsoftmax": (forward_over_reverse, gauss_newton_and_the_rest),
    "Gauss–Newton by cross_entropy_hvp": (gauss_newton, gauss_newton),
    OPTAX_PRODUCT: (product_with_optax, gauss_newton_and_the_rest),
}


def product_errors(
    products: dict[str, tuple[Product, Product]], narrow: Model, wide: Model, v: np.ndarray
) -> dict[str, float]:
    """Returns how far products with v in float32 are from those in float64, relative to their norm.

    Args:
        products: each with the same product by a formula to trust in float64.
        narrow: in float32.
        wide: the same numbers in float64.
        v: a direction of float32 numbers.
    """
    in_float32 = {name: product for name, (product, _) in products.items()}
    in_float64 = {name: exact for name, (_, exact) in products.items()}
    found = _all_of(in_float32, narrow, jnp.asarray(v, jnp.float32))
    exact = _all_of(in_float64, wide, jnp.asarray(v, jnp.float64))
    return {name: _relative_distance(found[name], exact[name]) for name in products}


def _all_of(products: dict[str, Product], model: Model, v: Flat) -> dict[str, Flat]:
    @jax.jit
    def compiled(model: Model, v: Flat) -> dict[str, Flat]:
        return {name: product(model, v) for name, product in products.items()}

    return compiled(model, v)


def _relative_distance(found: Flat, exact: Flat) -> float:
    return float(jnp.linalg.norm(found - exact) / jnp.linalg.norm(exact))
