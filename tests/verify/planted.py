"""How a wrong rule is planted: a function of `jaxsoftmax`, right in all but the one thing that a few lines spoil."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from operator import attrgetter
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_batching import custom_vmap

import jaxsoftmax
from jaxsoftmax import SparseLabels

INTEGER = "softmax_cross_entropy_with_integer_labels"
FLOAT = "softmax_cross_entropy"
LOSS = "cross_entropy"


@dataclass(frozen=True)
class Planted:
    """One defect, and where the certificate must see it."""

    name: str
    function: str  # dotted, on the implementation
    build: Callable[[str], Callable[..., Any]]  # the function's name -> the function with the defect
    caught_by: tuple[str, ...]  # each of these theorems must fail
    unnoticed_by: tuple[str, ...] = ()  # these are judged too, and must hold
    dtypes: tuple[str, ...] = ("float32",)
    quick: bool = True
    failing_only: dict[str, set[str]] = field(default_factory=dict)  # a column of the report -> what may stand there
    dropped: tuple[str, ...] = ()  # keywords, each of which must be said to change nothing

    @property
    def implementation(self) -> SimpleNamespace:
        """An object that offers no other function."""
        return offering(self.function, self.build(self.function))


def offering(function: str, offered: Callable[..., Any]) -> SimpleNamespace:
    """An object with one function, under a dotted name, and the type of one of its arguments."""
    for name in reversed(function.split(".")):
        offered = SimpleNamespace(**{name: offered})
    return SimpleNamespace(**vars(offered), SparseLabels=jaxsoftmax.SparseLabels)


def by_rule(spoil: Callable[..., dict]) -> Callable[[str], Callable[..., Any]]:
    """A right value with a `custom_vjp`: spoil(right cotangents, cotangent, arguments) -> those that it changes."""
    return lambda name: _reverse_mode(getattr(jaxsoftmax, name), lambda value, _: value, spoil)


def by_value(spoil: Callable[..., Any]) -> Callable[[str], Callable[..., Any]]:
    """A value spoil(right value, arguments), with the right gradient as its `custom_vjp`."""
    return lambda name: _reverse_mode(getattr(jaxsoftmax, name), spoil, lambda bars, bar, given: {})


def by_tangent(spoil: Callable[..., Any]) -> Callable[[str], Callable[..., Any]]:
    """A right value with a `custom_jvp`: spoil(right tangent, tangent of the first argument, arguments)."""
    return lambda name: _both_modes(attrgetter(name)(jaxsoftmax), spoil)


def by_call(spoil: Callable[..., Any]) -> Callable[[str], Callable[..., Any]]:
    """The whole function replaced: spoil(right function, *args, **keywords)."""

    def build(name):
        right = attrgetter(name)(jaxsoftmax)
        return lambda *args, **keywords: spoil(right, *args, **keywords)

    return build


def _split(function: Callable, args: tuple, keywords: dict) -> tuple[dict, dict]:
    """The arguments by name: arrays and labels made of arrays, and what is static."""
    given = inspect.signature(function).bind(*args, **keywords)
    given.apply_defaults()
    arrays = {name: value for name, value in given.arguments.items() if isinstance(value, jax.Array | SparseLabels)}
    return arrays, {name: value for name, value in given.arguments.items() if name not in arrays}


def _cast(bar: Any, like: jax.Array) -> Any:
    return bar.astype(like.dtype) if jnp.issubdtype(like.dtype, jnp.floating) else bar


def _reverse_mode(right: Callable, spoil_value: Callable, spoil_rule: Callable) -> Callable[..., Any]:
    def function(*args, **keywords):
        arrays, static = _split(right, args, keywords)

        def call(arrays):
            return right(**arrays, **static)

        def primal(arrays):
            return spoil_value(call(arrays), SimpleNamespace(**arrays, **static))

        def forward(arrays):
            return primal(arrays), arrays

        def backward(arrays, bar):
            (bars,) = jax.vjp(call, arrays)[1](bar)
            spoilt = bars | spoil_rule(bars, bar, SimpleNamespace(**arrays, **static))
            return ({name: jax.tree.map(_cast, spoilt[name], array) for name, array in arrays.items()},)

        planted = jax.custom_vjp(primal)
        planted.defvjp(forward, backward)
        return planted(arrays)

    return function


def _both_modes(right: Callable, spoil: Callable) -> Callable[..., Any]:
    def function(*args, **keywords):
        arrays, static = _split(right, args, keywords)

        def call(arrays):
            return right(**arrays, **static)

        def jvp(primals, tangents):
            value, right_dot = jax.jvp(call, primals, tangents)
            first_dot = tangents[0][next(iter(inspect.signature(right).parameters))]
            if isinstance(value, tuple):  # the log-sum-exp and its sign
                return value, (spoil(right_dot[0], first_dot, SimpleNamespace(**primals[0], **static)), right_dot[1])
            return value, spoil(right_dot, first_dot, SimpleNamespace(**primals[0], **static)).astype(value.dtype)

        planted = jax.custom_jvp(call)
        planted.defjvp(jvp)
        return planted(arrays)

    return function


def changed(name: str, spoil: Callable[..., Any]) -> Callable[..., dict]:
    """A rule of which one cotangent is spoilt: spoil(right cotangent, cotangent of the value, arguments)."""
    return lambda bars, bar, given: {name: spoil(bars[name], bar, given)}


def of_second_order(spoil: Callable[[Any], Any]) -> Callable[..., Any]:
    """A first derivative right in value, whose own derivative is what `spoil` makes of it."""

    def rule(bar, *_):
        constant = jax.lax.stop_gradient(bar)
        return constant + spoil(bar - constant)

    return rule


def if_dtype(dtype: str, spoil: Callable[..., Any]) -> Callable[..., Any]:
    """The defect for logits of one dtype alone."""
    return lambda bar, value_bar, given: spoil(bar) if bar.dtype == dtype else bar


def if_longer(size: int, spoil: Callable[[Any], Any]) -> Callable[..., Any]:
    """The defect for rows of more than `size` classes alone."""
    return lambda bar, *_: spoil(bar) if bar.shape[-1] > size else bar


def doubled_under_vmap(array: jax.Array) -> jax.Array:
    """The array itself, but twice it where a `vmap` passes."""
    same = custom_vmap(lambda array: array)
    same.def_vmap(lambda size, batched, array: (2 * array, True))
    return same(array)


def twice_the_first(bar: jax.Array) -> jax.Array:
    """The first class's entry doubled."""
    return bar.at[..., 0].mul(2)


def with_slope(value: jax.Array, x: jax.Array, slope: jax.Array) -> jax.Array:
    """A value whose gradient in x, [..., n], is the slope."""
    value, slope, still = jax.lax.stop_gradient((value, slope, x))
    return value + jnp.sum(slope * jnp.where(jnp.isfinite(still), x - still, 0), -1)


def scaled_gradient(x: jax.Array, factor: Any) -> jax.Array:
    """x itself, whose gradient is multiplied by a factor."""
    still = jax.lax.stop_gradient(x)
    return still + factor * jnp.where(jnp.isfinite(still), x - still, 0)


def last_of_maximum(x: jax.Array) -> jax.Array:
    """The last class of the maximum."""
    return (x.shape[-1] - 1 - jnp.argmax(x[..., ::-1], -1)).astype(jnp.int32)


def one_hot(labels: jax.Array, like: jax.Array) -> jax.Array:
    """e_y in the shape and dtype of the logits."""
    return jax.nn.one_hot(labels, like.shape[-1], dtype=like.dtype)
