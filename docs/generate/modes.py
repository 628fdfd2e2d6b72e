"""Which transformation of JAX works on which function: each pair is tried, by lowering it."""

from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.sharding import AxisType, Mesh
from jax.sharding import PartitionSpec as P

import jaxsoftmax
from docs.generate.text import plain, table
from jaxsoftmax import forward_mode

WORKS = "✓"
_X = jnp.array([[0.5, -1.0, 2.0], [0.0, 1.0, -0.5]])
_LABELS = jnp.array([2, 0])
_TARGETS = jnp.array([[0.2, 0.3, 0.5], [1.0, 0.0, 0.0]])
_KERNEL = jnp.array([[1.0, 0.0, -1.0, 0.5], [0.0, 2.0, 1.0, -0.5], [0.5, 0.5, 0.0, 1.0]])
_AXIS = "tokens"

Function = Callable[[Array], Array]  # of rows [2, 3]


def _mesh() -> Mesh:
    return jax.make_mesh((1,), (_AXIS,), axis_types=(AxisType.Auto,), devices=jax.devices()[:1])


def functions(module: ModuleType) -> Mapping[str, Function]:
    """Returns the functions of the table, each as a function of one array [2, 3]."""
    return {
        "logsumexp": lambda x: module.logsumexp(x, axis=-1),
        "softmax": module.softmax,
        "log_softmax": module.log_softmax,
        "softmax_cross_entropy": lambda x: module.softmax_cross_entropy(x, _TARGETS[: len(x)]),
        "softmax_cross_entropy_with_integer_labels": lambda x: module.softmax_cross_entropy_with_integer_labels(
            x, _LABELS[: len(x)]
        ),
        "cross_entropy": lambda x: module.cross_entropy(x, _LABELS[: len(x)]),
        "token_stats": lambda x: module.token_stats(x, _LABELS[: len(x)]).entropy,
        "distillation": lambda x: module.distillation(x, 2 * x),
        "linear_cross_entropy": lambda x: module.linear_cross_entropy(x, _KERNEL, _LABELS[: len(x)]),
        "linear_token_stats": lambda x: module.linear_token_stats(x, _KERNEL, _LABELS[: len(x)]).entropy,
        "linear_distillation": lambda x: module.linear_distillation(x, _KERNEL, 2 * x, _KERNEL),
        "sharded_linear_cross_entropy": lambda x: module.sharded_linear_cross_entropy(
            x, _KERNEL, _LABELS[: len(x)], mesh=_mesh(), token_axes=_AXIS
        ),
    }


def transformations() -> Mapping[str, Callable[[Function], Callable[[Array], Any]]]:
    """Returns the transformations by name; those that want a scalar are given the sum of the squares."""
    return {
        "jit": jax.jit,
        "vmap": lambda f: lambda x: jax.vmap(f)(x[:, None]),
        "grad": lambda f: jax.grad(_scalar(f)),
        "jvp": lambda f: lambda x: jax.jvp(f, (x,), (x,)),
        "jacfwd": jax.jacfwd,
        "linearize": lambda f: lambda x: jax.linearize(f, x)[1](x),
        "jacrev": jax.jacrev,
        "hessian": lambda f: jax.hessian(_scalar(f)),
        "scan": lambda f: jax.grad(lambda x: jnp.sum(jax.lax.map(lambda row: _scalar(f)(row[None]), x))),
        "checkpoint": lambda f: jax.grad(jax.checkpoint(_scalar(f))),
        "shard_map": lambda f: jax.grad(_scalar(jax.shard_map(f, mesh=_mesh(), in_specs=P(), out_specs=P()))),
    }


def _scalar(f: Function) -> Function:
    return lambda x: jnp.sum(f(x) ** 2)


def matrix(module: ModuleType) -> Mapping[str, Mapping[str, str]]:
    """Returns, for each function and transformation, that it works, or the name of the error."""
    ways = transformations()
    return {name: {way: _outcome(ways[way](f)) for way in ways} for name, f in functions(module).items()}


def _outcome(f: Callable[[Array], Any]) -> str:
    try:
        jax.jit(f).lower(_X)  # to trace it is not enough: JAX refuses forward mode when it lowers
    except Exception as error:  # whichever it is, it is the answer
        return type(error).__name__
    return WORKS


def render() -> str:
    """Returns a table of the functions, and one of their forward-mode variants."""
    return "\n".join(f"`{module.__name__}`:\n\n{_table(matrix(module))}" for module in (jaxsoftmax, forward_mode))


def _table(outcomes: Mapping[str, Mapping[str, str]]) -> str:
    ways = list(transformations())
    rows = [(_breakable(name), *(of_function[way] for way in ways)) for name, of_function in outcomes.items()]
    return table(("function", *(f"`{way}`" for way in ways)), rows)


def _breakable(name: str) -> str:
    underscore = plain("_")
    return f"<code>{plain(name).replace(underscore, underscore + '<wbr>')}</code>"
