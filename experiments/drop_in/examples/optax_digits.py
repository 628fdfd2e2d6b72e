"""A perceptron on digits: parameters in a dict, one-hot labels, optax's momentum."""

from collections.abc import Callable, Iterable
from functools import partial

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, PyTree
from optax import softmax_cross_entropy

PIXELS, HIDDEN, CLASSES = 64, 128, 10
Parameters = PyTree[Float[Array, "..."]]
optimiser = optax.sgd(0.1, momentum=0.9)


def initial_parameters(key: Array) -> Parameters:
    """Returns two layers, the first drawn, the second 0."""
    W1 = jax.random.normal(key, (PIXELS, HIDDEN)) * jnp.sqrt(2.0 / PIXELS)
    return {"W1": W1, "b1": jnp.zeros(HIDDEN), "W2": jnp.zeros((HIDDEN, CLASSES)), "b2": jnp.zeros(CLASSES)}


def predict(parameters: Parameters, x: Array) -> Float[Array, "batch classes"]:
    """Returns the logits."""
    hidden = jax.nn.gelu(x @ parameters["W1"] + parameters["b1"])
    return hidden @ parameters["W2"] + parameters["b2"]


def example_losses(logits: Float[Array, "batch classes"], labels: Int[Array, " batch"]) -> Float[Array, " batch"]:
    """Returns the loss of each example."""
    return softmax_cross_entropy(logits, jax.nn.one_hot(labels, CLASSES))


def loss_of(parameters: Parameters, x: Array, y: Array) -> Float[Array, ""]:
    """Returns the mean loss of a batch."""
    return example_losses(predict(parameters, x), y).mean()


@jax.jit
def step(parameters: Parameters, state: optax.OptState, x: Array, y: Array) -> tuple[Parameters, optax.OptState, Array]:
    """Returns the updated parameters and state, and the loss before."""
    loss, gradients = jax.value_and_grad(loss_of)(parameters, x, y)
    updates, state = optimiser.update(gradients, state, parameters)
    return optax.apply_updates(parameters, updates), state, loss


def train(batches: Iterable[tuple[Array, Array]], seed: int) -> tuple[list[float], Callable[[Array], Array]]:
    """Returns the loss of each batch, and the trained model."""
    parameters = initial_parameters(jax.random.key(seed))
    state = optimiser.init(parameters)
    losses = []
    for x, y in batches:
        parameters, state, loss = step(parameters, state, x, y)
        losses.append(float(loss))
    return losses, partial(predict, parameters)
