"""scikit-learn's handwritten digits, and a linear softmax classifier trained on them with the library's loss."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import jaxsoftmax

CLASSES = 10
_LEARNING_RATE = 0.02
_WEIGHT_DECAY = 1e-3


class Digits(NamedTuple):
    """Standardised pixels and labels, split into a training and a test set."""

    train_x: Float[np.ndarray, "train pixels"]
    train_y: Int[np.ndarray, " train"]
    test_x: Float[np.ndarray, "test pixels"]
    test_y: Int[np.ndarray, " test"]


class Parameters(NamedTuple):
    """The classifier's kernel and bias."""

    W: Float[Array, "pixels classes"]
    b: Float[Array, " classes"]


class Metrics(NamedTuple):
    """What the training loop records after each step."""

    train_loss: Float[Array, " steps"]
    test_loss: Float[Array, " steps"]
    train_accuracy: Float[Array, " steps"]
    test_accuracy: Float[Array, " steps"]


def standardised_digits(seed: int) -> Digits:
    """Returns the digits with a stratified quarter held out, standardised by the training set's statistics."""
    pixels, labels = load_digits(return_X_y=True)
    split = train_test_split(pixels, labels, test_size=0.25, stratify=labels, random_state=seed)
    train_x, test_x, train_y, test_y = (np.asarray(part) for part in split)
    mean, deviation = train_x.mean(axis=0), train_x.std(axis=0)
    deviation[deviation == 0.0] = 1.0  # pixels that are blank in every image
    return Digits((train_x - mean) / deviation, train_y, (test_x - mean) / deviation, test_y)


def train(digits: Digits, steps: int) -> tuple[Parameters, Metrics]:
    """Trains the classifier with Adam on the whole training set, and records losses and accuracies at every step.

    Args:
        digits: the data, cast to float32.
        steps: how many updates.

    Returns:
        The trained parameters, and metrics stacked over the steps.
    """
    data = Digits(*(part.astype(np.float32 if part.dtype.kind == "f" else np.int32) for part in digits))
    optimiser = optax.adam(_LEARNING_RATE)

    def objective(parameters: Parameters) -> Float[Array, ""]:
        penalty = 0.5 * _WEIGHT_DECAY * jnp.sum(parameters.W**2)  # (M17)
        return jaxsoftmax.cross_entropy(data.train_x @ parameters.W + parameters.b, data.train_y) + penalty

    def step(carry: tuple[Parameters, optax.OptState], _: None) -> tuple[tuple[Parameters, optax.OptState], Metrics]:
        parameters, state = carry
        updates, state = optimiser.update(jax.grad(objective)(parameters), state)
        parameters = jax.tree.map(jnp.add, parameters, updates)
        return (parameters, state), _metrics(parameters, data)

    first = Parameters(jnp.zeros((data.train_x.shape[1], CLASSES), jnp.float32), jnp.zeros(CLASSES, jnp.float32))
    run = jax.jit(lambda carry: jax.lax.scan(step, carry, length=steps))
    (parameters, _), metrics = run((first, optimiser.init(first)))
    return parameters, metrics


def _metrics(parameters: Parameters, data: Digits) -> Metrics:
    def loss_and_accuracy(x: np.ndarray, y: np.ndarray) -> tuple[Array, Array]:
        logits = x @ parameters.W + parameters.b
        return jaxsoftmax.cross_entropy(logits, y), jnp.mean(jnp.argmax(logits, axis=1) == y)

    train_loss, train_accuracy = loss_and_accuracy(data.train_x, data.train_y)
    test_loss, test_accuracy = loss_and_accuracy(data.test_x, data.test_y)
    return Metrics(train_loss, test_loss, train_accuracy, test_accuracy)
