"""Eigenvalues of the Hessian and of Gauss–Newton's matrix: dense, by Lanczos, of few rows; and null directions."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from experiments._curvature_products import (
    Matrix,
    Model,
    Product,
    forward_over_reverse,
    gauss_newton,
    gauss_newton_matrix,
    hessian_matrix,
)
from experiments._digits_mlp import Mlp
from experiments._eigenvalues import Lanczos, largest_eigenvalues, numerical_rank

# Of the largest eigenvalue: ARPACK iterates to float64's eps, a dense solver is off by a few eps √n.
EIGENVALUE_TOLERANCE = 1e-12
NULL_TOLERANCE = 1e-14  # of a product, relative to the largest eigenvalue


@dataclass(frozen=True)
class Spectrum:
    """All eigenvalues of a matrix, ascending, and its largest by products alone."""

    dense: np.ndarray
    lanczos: Lanczos

    @property
    def largest_agree(self) -> bool:
        """Whether both ways find the same largest eigenvalues."""
        return self.difference <= EIGENVALUE_TOLERANCE

    @property
    def difference(self) -> float:
        """The largest difference between the two, relative to the largest eigenvalue."""
        largest = self.dense[::-1][: len(self.lanczos.values)]
        return float(np.abs(self.lanczos.values - largest).max() / self.dense[-1])

    @property
    def semidefinite(self) -> bool:
        """Whether no eigenvalue is negative."""
        return self.smallest >= -EIGENVALUE_TOLERANCE

    @property
    def smallest(self) -> float:
        """The smallest eigenvalue, relative to the largest."""
        return float(self.dense[0] / self.dense[-1])


def spectrum(matrix: Matrix, product: Product, model: Model, count: int, seed: int) -> Spectrum:
    """Returns the eigenvalues of a matrix, and its largest by products with it."""
    compiled = jax.jit(product)

    def with_vector(v: np.ndarray) -> np.ndarray:
        return np.asarray(compiled(model, jnp.asarray(v)))

    lanczos = largest_eigenvalues(with_vector, model.point.size, count, seed)
    return Spectrum(np.linalg.eigvalsh(np.asarray(matrix)), lanczos)


@dataclass(frozen=True)
class FewRows:
    """The spectra of a batch so small that N (C − 1), the bound of Gauss–Newton's rank, is far below the parameters."""

    bound: int
    gauss_newton: np.ndarray
    hessian: np.ndarray

    @property
    def ranks(self) -> tuple[int, int]:
        """Of Gauss–Newton's matrix and of the Hessian, up to rounding."""
        return numerical_rank(self.gauss_newton), numerical_rank(self.hessian)

    @property
    def holds(self) -> bool:
        """Whether the bound holds for Gauss–Newton's matrix, and says something: not for the Hessian."""
        of_gauss_newton, of_hessian = self.ranks
        return of_gauss_newton <= self.bound < of_hessian


def few_rows(model: Model) -> FewRows:
    """Returns the spectra of the batch's two matrices."""
    rows, classes = model.network(model.point).shape
    matrices = jax.jit(gauss_newton_matrix)(model), jax.jit(hessian_matrix)(model)
    return FewRows(rows * (classes - 1), *(np.linalg.eigvalsh(np.asarray(matrix)) for matrix in matrices))


def along_the_null_directions(model: Model, mlp: Mlp, seed: int) -> float:
    """Returns the length of a product with |v| = 1 that changes every class's logits alike: the larger of the two."""
    change = np.random.default_rng(seed).normal(size=(mlp.W2.shape[0] + 1, 1)) * np.ones_like(mlp.b2)
    still = jax.tree.map(np.zeros_like, mlp)
    v, _ = ravel_pytree(still._replace(W2=change[:-1], b2=change[-1]))
    v = jnp.asarray(v / np.linalg.norm(v))  # J 1 = 0 (M6)
    return max(float(jnp.linalg.norm(jax.jit(each)(model, v))) for each in (forward_over_reverse, gauss_newton))
