"""A perceptron on digits: equinox, log-probabilities indexed by the label, Adam."""

from collections.abc import Callable, Iterable

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jax.nn import log_softmax
from jaxtyping import Array, Float, Int, PyTree

optimiser = optax.adam(0.002)


def example_losses(logits: Float[Array, "batch classes"], labels: Int[Array, " batch"]) -> Float[Array, " batch"]:
    """Returns the loss of each example."""
    return -jnp.take_along_axis(log_softmax(logits), labels[:, None], axis=1)[:, 0]


def loss_of(model: eqx.nn.MLP, x: Array, y: Array) -> Float[Array, ""]:
    """Returns the mean loss of a batch."""
    return example_losses(jax.vmap(model)(x), y).mean()


@eqx.filter_jit
def step(model: eqx.nn.MLP, state: PyTree, x: Array, y: Array) -> tuple[eqx.nn.MLP, PyTree, Array]:
    """Returns the updated model and state, and the loss before."""
    loss, gradients = eqx.filter_value_and_grad(loss_of)(model, x, y)
    updates, state = optimiser.update(gradients, state, eqx.filter(model, eqx.is_array))
    return eqx.apply_updates(model, updates), state, loss


def train(batches: Iterable[tuple[Array, Array]], seed: int) -> tuple[list[float], Callable[[Array], Array]]:
    """Returns the loss of each batch, and the trained model."""
    model = eqx.nn.MLP(64, 10, width_size=128, depth=2, activation=jax.nn.gelu, key=jax.random.key(seed))
    state = optimiser.init(eqx.filter(model, eqx.is_array))
    losses = []
    for x, y in batches:
        model, state, loss = step(model, state, x, y)
        losses.append(float(loss))
    return losses, jax.vmap(model)
