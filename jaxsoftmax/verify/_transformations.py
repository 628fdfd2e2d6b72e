"""The transformations of JAX through which a claim is seen.

A claim is a call on one row; each transformation returns the stacked results of all rows: of the call (order 0), of
its derivative in the first input (order 1, the derivative's axes last), or of its Hessian (order 2).
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

Rows = Callable[..., Any]  # (x rows, *constants rows) -> results, one a row

EAGER = ("eager", "grad")  # operation by operation; the others are compiled
MAIN = (("jit", "vmap"), ("jit", "jacfwd", "jacrev"), ("jacfwd", "jacrev", "hessian"))  # by a claim's order
ALL = ("jit", "vmap", "jacfwd", "jacrev", "hessian", *EAGER, "jvp", "linearize", "scan", "checkpoint")
TWIN = ("jacfwd", "jvp", "linearize", "jit", "jacrev")


def by_scan(f: Rows) -> Rows:
    """Row by row, in a `lax.scan`."""
    return lambda *rows: jax.lax.map(lambda row: f(*row), rows)


def by_loop(f: Rows) -> Rows:
    """Row by row, in Python."""
    return lambda *rows: jnp.stack([f(*(column[i] for column in rows)) for i in range(len(rows[0]))])


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


def by_pushforward(f: Rows, push: Callable[..., Any]) -> Rows:
    """The derivative from directional derivatives along each axis, the input's axes last."""

    def derivative(x, *constants):
        directions = jnp.eye(x.size, dtype=x.dtype).reshape(x.size, *x.shape)
        columns = jax.vmap(push(lambda x: f(x, *constants), x))(directions)
        return jnp.moveaxis(columns, 0, -1).reshape(*columns.shape[1:], *x.shape)

    return derivative


def _by_jvp(f, x):
    return lambda v: jax.jvp(f, (x,), (v,))[1]


def _by_linearize(f, x):
    return jax.linearize(f, x)[1]


jvp = partial(by_pushforward, push=_by_jvp)
linearize = partial(by_pushforward, push=_by_linearize)


def _order_0(f: Rows, rowwise: bool) -> dict[str, Rows]:
    whole = f if rowwise else by_loop(f)
    return {"eager": eagerly(f), "jit": whole, "vmap": jax.vmap(f), "scan": by_scan(f)}


def _order_1(f: Rows, whole: bool) -> dict[str, Rows]:
    batch = by_cotangents if whole else by_scaled
    return {
        "grad": eagerly(jax.grad(f) if whole else jax.jacrev(f)),
        "jit": batch(f),
        "vmap": jax.vmap(jax.grad(f) if whole else jax.jacrev(f)),
        "jacrev": jax.vmap(jax.jacrev(f)),
        "jacfwd": jax.vmap(jax.jacfwd(f)),
        "jvp": jax.vmap(jvp(f)),
        "linearize": jax.vmap(linearize(f)),
        "scan": by_scan(jax.jacrev(f)),
        "checkpoint": batch(jax.checkpoint(f)),
    }


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
    return _order_1(f, whole=rowwise and scalar) if order == 1 else _order_2(f)


def finite_differences(f: Callable[[Array], Array], x: Array, step: float) -> Array:
    """df/dx by central differences of fourth order, the input's axes last."""

    def along(h):
        return (8 * (f(x + h) - f(x - h)) - (f(x + 2 * h) - f(x - 2 * h))) / (12 * step)

    directions = step * jnp.eye(x.size, dtype=x.dtype).reshape(x.size, *x.shape)
    columns = jax.vmap(along)(directions)
    return jnp.moveaxis(columns, 0, -1).reshape(*columns.shape[1:], *x.shape)
