"""A network of one tanh layer for the digits, and full-batch Adam."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, PRNGKeyArray

import jaxsoftmax
from experiments.data.digits import CLASSES, Digits


class Mlp(NamedTuple):
    """Kernel and bias of the tanh layer, and of the head."""

    W1: Float[Array, "pixels hidden"]
    b1: Float[Array, " hidden"]
    W2: Float[Array, "hidden classes"]
    b2: Float[Array, " classes"]


def initial_mlp(key: PRNGKeyArray, pixels: int, hidden: int) -> Mlp:
    """Returns random kernels of Glorot's variance, and biases of zero."""
    glorot = jax.nn.initializers.glorot_normal()
    first, second = jax.random.split(key)
    W1, W2 = glorot(first, (pixels, hidden)), glorot(second, (hidden, CLASSES))
    return Mlp(W1, jnp.zeros(hidden), W2, jnp.zeros(CLASSES))


def hidden_of(mlp: Mlp, x: Float[Array, "rows pixels"]) -> Float[Array, "rows hidden"]:
    """Returns what the head sees."""
    return jnp.tanh(x @ mlp.W1 + mlp.b1)


def logits_of(mlp: Mlp, x: Float[Array, "rows pixels"]) -> Float[Array, "rows classes"]:
    """Returns the logits of each row."""
    return hidden_of(mlp, x) @ mlp.W2 + mlp.b2


def descend(
    objective: Callable[[Mlp], Float[Array, ""]],
    parameters: Mlp,
    steps: int | Int[Array, ""],
    rate: float | Float[Array, ""],
) -> Mlp:
    """Returns the parameters after so many steps of Adam on one objective; to be compiled by the caller."""
    optimiser = optax.adam(rate)

    def step(_: Int[Array, ""], carry: tuple[Mlp, optax.OptState]) -> tuple[Mlp, optax.OptState]:
        here, state = carry
        updates, state = optimiser.update(jax.grad(objective)(here), state)
        return jax.tree.map(jnp.add, here, updates), state

    parameters, _ = jax.lax.fori_loop(0, steps, step, (parameters, optimiser.init(parameters)))
    return parameters


def trained_mlp(digits: Digits, hidden: int, steps: int, rate: float, seed: int) -> Mlp:
    """Returns a network that learned the training set with the library's loss, in float32 on NumPy."""
    x, y = jnp.asarray(digits.train_x, jnp.float32), jnp.asarray(digits.train_y, jnp.int32)
    first = initial_mlp(jax.random.key(seed), x.shape[1], hidden)
    return jax.tree.map(np.asarray, _trained(first, x, y, steps, rate))


@jax.jit
def _trained(
    mlp: Mlp, x: Float[Array, "rows pixels"], y: Int[Array, " rows"], steps: Int[Array, ""], rate: Float[Array, ""]
) -> Mlp:
    def objective(mlp: Mlp) -> Float[Array, ""]:
        return jaxsoftmax.cross_entropy(logits_of(mlp, x), y)

    return descend(objective, mlp, steps, rate)
