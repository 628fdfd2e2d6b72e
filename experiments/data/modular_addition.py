"""Addition modulo p, learnt from a part of its table by a multilayer perceptron."""

from itertools import pairwise
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

_TRAINING_SHARE = 0.6

Layers = list[tuple[Float[Array, "inputs outputs"], Float[Array, " outputs"]]]


class Sums(NamedTuple):
    """Some entries of the table."""

    first: Int[np.ndarray, " sums"]
    second: Int[np.ndarray, " sums"]
    total: Int[np.ndarray, " sums"]


def split_table(modulus: int, seed: int) -> tuple[Sums, Sums]:
    """Returns a random part of the table for training, and the rest for the test."""
    first, second = (part.ravel().astype(np.int32) for part in np.indices((modulus, modulus)))
    table = Sums(first, second, (first + second) % modulus)
    order = np.random.default_rng(seed).permutation(modulus**2)
    parts = np.split(order, [int(_TRAINING_SHARE * modulus**2)])
    train, test = (Sums(*(column[np.sort(rows)] for column in table)) for rows in parts)
    return train, test


def initial_layers(modulus: int, width: int, seed: int) -> Layers:
    """Returns the layers of a network with two hidden ones, in float32: uniform in ±1/√inputs, biases too."""
    sizes = (2 * modulus, width, width, modulus)
    layers = []
    for key, (inputs, outputs) in zip(jax.random.split(jax.random.key(seed), 3), pairwise(sizes), strict=True):
        rows = jax.random.uniform(key, (inputs + 1, outputs), jnp.float32, minval=-1.0, maxval=1.0) / inputs**0.5
        layers.append((rows[:-1], rows[-1]))
    return layers


def logits_of(layers: Layers, sums: Sums) -> Float[Array, "sums modulus"]:
    """Returns the network's logits; its input is the one-hot vector of each number."""
    (kernel, bias), *others = layers
    hidden = kernel[sums.first] + kernel[len(kernel) // 2 + sums.second] + bias
    for kernel, bias in others:
        hidden = jax.nn.relu(hidden) @ kernel + bias
    return hidden
