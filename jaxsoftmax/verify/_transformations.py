"""The transformations of JAX through which a claim is seen.

A claim is a call on one row; each transformation returns the stacked results of all rows: of the call (order 0), of
its derivative in the first input (order 1, the derivative's axes last), or of its Hessian (order 2).
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

Rows = Callable[..., Any]  # (x rows, *constants rows) -> results, one a row

EAGER = ("eager", "grad")  # operation by operation; the others are compiled
BY_COTANGENTS = ("jit", "checkpoint")  # of a derivative: from cotangents that aren't 1, by which it is divided then
# By a claim's order: one transformation, the main ones, and all.
ONE = (("jit",), ("jit",), ("hessian",))
MAIN = (("jit", "vmap"), ("jit", "jacfwd", "jacrev"), ("jacfwd", "jacrev", "hessian"))
ALL = (("jit", "vmap", "jacfwd", "jacrev", "hessian", *EAGER, "linearize", "scan", "checkpoint"),) * 3
# By a claim's order: what is forward mode of the function, or of its gradient, which a `jax.custom_vjp` may refuse.
FORWARD = ((), ("jacfwd", "linearize"), ("hessian", "vmap", "jacfwd", "linearize", "checkpoint"))
VARIANT = ("jacfwd", "linearize", "jit", "jacrev")


def by_scan(f: Rows) -> Rows:
    """Row by row, in a `lax.scan`."""
    return lambda *rows: jax.lax.map(lambda row: f(*row), rows)


def one_by_one(f: Rows) -> Rows:
    """Row by row, one or two rows without a loop: what they share with other calls is computed once then."""

    def results(*rows):
        return by_scan(f)(*rows) if len(rows[0]) > 2 else jnp.stack([f(*row) for row in zip(*rows, strict=True)])

    return results


def eagerly(f: Rows) -> Rows:
    """Row by row and operation by operation: rows of one shape share what is compiled, whatever their number."""

    def results(*rows):
        columns = jax.device_get(rows)
        return np.stack([f(*map(jnp.asarray, row)) for row in zip(*columns, strict=True)])

    return results


def by_cotangents(f: Rows) -> Rows:
    """Each row's own gradient, from a batch of unequal cotangents: powers of 2, which divide out exactly."""

    def derivative(x, *constants):
        cotangents = jnp.asarray([(-2.0) ** (i % 3 + 1) for i in range(len(x))], jnp.float32)
        results, pull = jax.vjp(lambda x: f(x, *constants), x)
        (x_bar,) = pull(cotangents.astype(results.dtype))
        return x_bar / cotangents.astype(x.dtype).reshape(-1, *[1] * (x.ndim - 1))

    return derivative


def by_scaled(f: Rows) -> Rows:
    """The derivative of each row, from a cotangent that isn't 1."""
    return by_scan(lambda x, *constants: jax.jacrev(lambda x: -2 * f(x, *constants))(x) / -2)


def linearize(f: Rows) -> Rows:
    """The derivative from directional derivatives along each axis, the input's axes last."""

    def derivative(x, *constants):
        _, push = jax.linearize(lambda x: f(x, *constants), x)
        return _along_axes(push, x)

    return derivative


def _along_axes(push: Callable[[Array], Array], x: Array) -> Array:
    """The directional derivatives along each axis of x, the input's axes last."""
    columns = jax.vmap(push)(jnp.eye(x.size, dtype=x.dtype).reshape(x.size, *x.shape))
    return jnp.moveaxis(columns, 0, -1).reshape(*columns.shape[1:], *x.shape)


def _order_0(f: Rows, rowwise: bool) -> dict[str, Rows]:
    by_row = {"eager": eagerly(f), "vmap": jax.vmap(f)}
    return by_row | ({"jit": f, "scan": by_scan(f)} if rowwise else {"jit": one_by_one(f)})


def _order_1(f: Rows, rowwise: bool, scalar: bool) -> dict[str, Rows]:
    """`jax.jacfwd` is `jax.jvp` along every axis; row by row, "jit" is a scan and "jacrev" a vmap already."""
    batched = rowwise and scalar
    batch = by_cotangents if batched else by_scaled
    derivatives = {
        "grad": eagerly(jax.grad(f) if scalar else jax.jacrev(f)),
        "jit": batch(f),
        "jacrev": jax.vmap(jax.jacrev(f)),
        "jacfwd": jax.vmap(jax.jacfwd(f)),
        "linearize": jax.vmap(linearize(f)),
        "checkpoint": batch(jax.checkpoint(f)),
    }
    return derivatives | ({"vmap": jax.vmap(jax.grad(f)), "scan": by_scan(jax.grad(f))} if batched else {})


def _order_2(f: Rows) -> dict[str, Rows]:
    """`jax.hessian` is the jvp of a gradient along every axis already."""
    return {
        "hessian": by_scan(jax.hessian(f)),
        "vmap": jax.vmap(jax.hessian(f)),
        "jacrev": jax.vmap(jax.jacrev(jax.grad(f))),
        "jacfwd": jax.vmap(jax.jacfwd(jax.jacfwd(f))),
        "linearize": jax.vmap(linearize(jax.grad(f))),
        "checkpoint": jax.vmap(jax.hessian(jax.checkpoint(f))),
    }


def transformations(f: Rows, order: int, rowwise: bool, scalar: bool) -> dict[str, Rows]:
    """Every transformation that applies to a call of that kind, by name."""
    if order == 0:
        return _order_0(f, rowwise)
    return _order_1(f, rowwise, scalar) if order == 1 else _order_2(f)


def finite_differences(f: Callable[[Array], Array], x: Array, step: float) -> Array:
    """df/dx by central differences of fourth order, the input's axes last."""
    steps = step * jnp.array([1.0, -1.0, 2.0, -2.0], x.dtype)
    factors = jnp.array([8.0, -8.0, -1.0, 1.0], x.dtype) / (12 * step)

    def along(axis):
        return jnp.tensordot(factors, jax.vmap(lambda h: f(x + h * axis))(steps), 1)

    return _along_axes(along, x)


def with_gradients(f: Callable[..., Any], *arguments: Any) -> Array:
    """Of f(*arguments) -> (a scalar, arrays) the arrays, and the scalar's gradient in each argument, end to end.

    The gradients come from a cotangent that isn't 1, and divides out exactly.
    """

    def scaled(*arguments):
        total, values = f(*arguments)
        return -2 * total, values

    gradients, values = jax.grad(scaled, tuple(range(len(arguments))), has_aux=True)(*arguments)
    return jnp.concatenate([*map(jnp.ravel, values), *(jnp.ravel(gradient) / -2 for gradient in gradients)])
