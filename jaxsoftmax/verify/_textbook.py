"""The formulas of one row as printed, for autodiff in float64."""

import jax.numpy as jnp


def naive_softmax(x):
    """The formula as printed (M4)."""
    return jnp.exp(x) / jnp.sum(jnp.exp(x))


def naive_lse(x):
    """The formula as printed (M8)."""
    return jnp.log(jnp.sum(jnp.exp(x)))


def naive_log_softmax(x):
    """The formula as printed (M10)."""
    return x - naive_lse(x)


def naive_integer(x, y):
    """The formula as printed (M11)."""
    return naive_lse(x) - x[y]


def naive_targets(x, t):
    """The formula as printed (M11)."""
    return -jnp.sum(t * (x - naive_lse(x)))


def naive_entropy(x, y):
    """The formula as printed (M28)."""
    return -jnp.sum(naive_softmax(x) * (x - naive_lse(x)))
