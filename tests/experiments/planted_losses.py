"""Losses that a program could import by mistake: wrong by a little, or a lot."""

import jax
import optax

import jaxsoftmax


def softmax_cross_entropy(logits, labels):
    """Its value is right, its gradient 0.1 % too large."""
    loss = optax.softmax_cross_entropy(logits, labels)
    return 1.001 * loss - jax.lax.stop_gradient(0.001 * loss)


def softmax_cross_entropy_with_integer_labels(logits, labels):
    """Of the next class."""
    return jaxsoftmax.softmax_cross_entropy_with_integer_labels(logits, (labels + 1) % logits.shape[-1])


def log_softmax(x):
    """Off by one part in ten thousand."""
    return jax.nn.log_softmax(x) * 1.0001
