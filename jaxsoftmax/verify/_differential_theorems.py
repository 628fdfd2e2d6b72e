"""The differential itself: M1-M3. These judge JAX's own `jax.jvp`, which every other theorem relies on."""

import jax
import jax.numpy as jnp
import mpmath
import numpy as np

from jaxsoftmax.verify._oracle import exact, itself
from jaxsoftmax.verify._record import DIFFERENTIAL
from jaxsoftmax.verify._theorem import Inputs, Theorem, value


def _exp(x):
    return np.array([mpmath.exp(value) for value in x], object)


def linear_rules(_, X, Y):
    """d(A + aX + Y) for constant A, and dX = Y, dY = X."""
    return jax.jvp(lambda X, Y: 7.0 + 3.0 * X + Y, (X, Y), (Y, X))[1]


def product_rule(_, X, Y):
    """d(XY) for dX = Y, dY = X."""
    return jax.jvp(lambda X, Y: jnp.matmul(X, Y, precision="highest"), (X, Y), (Y, X))[1]


def exp_rule(_, x, v):
    """d exp(x) along v."""
    return jax.jvp(jnp.exp, (x,), (v,))[1]


def reciprocal_rule(_, x, v):
    """d 1 / sum(exp(x)) along v."""
    return jax.jvp(lambda x: 1 / jnp.sum(jnp.exp(x)), (x,), (v,))[1]


def exact_linear(X, Y):
    """3 Y + X (M1)."""
    return itself(3 * exact(Y) + exact(X))


def exact_product(X, Y):
    """Y Y + X X (M1)."""
    return exact(Y) @ itself(exact(Y)) + exact(X) @ itself(exact(X))


def exact_exp(x, v):
    """exp(x) v (M2)."""
    return itself(_exp(exact(x)) * exact(v))


def exact_reciprocal(x, v):
    """-<exp(x), v> / sum(exp(x))^2 (M3)."""
    e = _exp(exact(x))
    return -(e @ itself(exact(v))) / sum(e) ** 2


def squares(dtype: str) -> list[Inputs]:
    rng = np.random.default_rng(12)
    return [Inputs("ordinary", tuple(rng.integers(-8, 9, (1, 3, 3)) / 4.0 for _ in range(2)))]


def vectors(dtype: str) -> list[Inputs]:
    rng = np.random.default_rng(13)
    return [Inputs("ordinary", tuple(rng.integers(-16, 17, (3, 5)) / 8.0 for _ in range(2)))]


DIFFERENTIAL_THEOREMS = (
    Theorem(
        "M1",
        "differential of sums and products",
        "dA = 0, d(aX) = a dX, d(X + Y) = dX + dY, d(XY) = dX Y + X dY",
        "exact sums, two roundings a product",
        "a device whose jax.jvp or matrix product is of reduced precision",
        (
            value(DIFFERENTIAL, "differential of A + aX + Y", exact_linear, squares, 1, call=linear_rules,
                  rowwise=False),
            value(DIFFERENTIAL, "differential of XY", exact_product, squares, 4, call=product_rule, rowwise=False),
        ),
    ),
    Theorem(
        "M2",
        "differential of exp",
        "d exp(x) = diag(exp(x)) dx",
        "exp to 1 ulp, and a product",
        "a device whose exp is worse",
        (value(DIFFERENTIAL, "differential of exp", exact_exp, vectors, 4, call=exp_rule, rowwise=False),),
    ),
    Theorem(
        "M3",
        "differential of a reciprocal sum",
        "d (1 / sum(exp(x))) = -<exp(x), dx> / sum(exp(x))^2",
        "a sum of five terms, a square and a quotient",
        "a device whose exp is worse",
        (
            value(DIFFERENTIAL, "differential of 1 / sum(exp)", exact_reciprocal, vectors, 8, call=reciprocal_rule,
                  rowwise=False),
        ),
    ),
)  # fmt: skip
