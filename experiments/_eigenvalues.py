"""The largest eigenvalues of a symmetric matrix of which only products with vectors are known."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy.sparse.linalg import LinearOperator, eigsh

Vector = Float[np.ndarray, " n"]


class Lanczos(NamedTuple):
    """Eigenvalues, the largest first, and how many products they took."""

    values: Float[np.ndarray, " count"]
    products: int


def largest_eigenvalues(product: Callable[[Vector], Vector], size: int, count: int, seed: int) -> Lanczos:
    """Returns the ``count`` largest eigenvalues by SciPy's Lanczos iteration (ARPACK).

    Args:
        product: the matrix times a vector, in float64.
        size: of the vectors.
        count: fewer than ``size``.
        seed: of the vector to begin with.
    """
    taken = 0

    def counted(v: Vector) -> Vector:
        nonlocal taken
        taken += 1
        return np.asarray(product(v.reshape(size)))

    # SciPy's own subclass, which takes `matvec`, is made by `__new__`, where pyright doesn't look.
    operator = LinearOperator((size, size), matvec=counted, dtype=np.float64)  # pyright: ignore[reportCallIssue]
    start = np.random.default_rng(seed).normal(size=size)
    values = eigsh(operator, count, which="LA", v0=start, return_eigenvectors=False)
    return Lanczos(np.sort(values)[::-1], taken)


def numerical_rank(eigenvalues: Float[np.ndarray, " n"]) -> int:
    """Returns how many eigenvalues of a symmetric float64 matrix are not rounding errors of zero."""
    sizes = np.abs(eigenvalues)
    return int(np.sum(sizes > len(sizes) * np.finfo(np.float64).eps * sizes.max()))
