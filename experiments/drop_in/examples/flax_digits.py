"""A convolutional network on digits: flax's NNX, integer labels, Adam with decoupled weight decay."""

from collections.abc import Callable, Iterable

import optax
from flax import nnx
from jaxtyping import Array, Float, Int
from optax import softmax_cross_entropy_with_integer_labels

optimiser = optax.adamw(0.003)


class Network(nnx.Module):
    """Two convolutions, each pooled, and two layers."""

    def __init__(self, rngs: nnx.Rngs):
        """Draws the parameters."""
        self.first = nnx.Conv(1, 8, (3, 3), rngs=rngs)
        self.second = nnx.Conv(8, 16, (3, 3), rngs=rngs)
        self.hidden = nnx.Linear(2 * 2 * 16, 64, rngs=rngs)
        self.head = nnx.Linear(64, 10, rngs=rngs)

    def __call__(self, x: Array) -> Float[Array, "batch classes"]:
        """Returns the logits."""
        x = x.reshape(-1, 8, 8, 1)
        x = nnx.avg_pool(nnx.gelu(self.first(x)), (2, 2), (2, 2))
        x = nnx.avg_pool(nnx.gelu(self.second(x)), (2, 2), (2, 2))
        return self.head(nnx.gelu(self.hidden(x.reshape(len(x), -1))))


def example_losses(logits: Float[Array, "batch classes"], labels: Int[Array, " batch"]) -> Float[Array, " batch"]:
    """Returns the loss of each example."""
    return softmax_cross_entropy_with_integer_labels(logits=logits, labels=labels)


def loss_of(model: Network, x: Array, y: Array) -> Float[Array, ""]:
    """Returns the mean loss of a batch."""
    return example_losses(model(x), y).mean()


@nnx.jit
def step(model: Network, optimizer: nnx.Optimizer, x: Array, y: Array) -> Float[Array, ""]:
    """Updates the model in place and returns the loss before."""
    loss, grads = nnx.value_and_grad(loss_of)(model, x, y)
    optimizer.update(model, grads)
    return loss


def train(batches: Iterable[tuple[Array, Array]], seed: int) -> tuple[list[float], Callable[[Array], Array]]:
    """Returns the loss of each batch, and the trained model."""
    model = Network(nnx.Rngs(seed))
    optimizer = nnx.Optimizer(model, optimiser, wrt=nnx.Param)
    losses = [float(step(model, optimizer, x, y)) for x, y in batches]
    return losses, model
