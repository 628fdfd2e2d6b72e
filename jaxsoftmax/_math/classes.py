"""Arrays over classes, reshaped to the rank of [*batch, vocab]: `jax_numpy_rank_promotion` may be "raise"."""

import jax.numpy as jnp
from jax import Array, lax


def class_numbers(rows: Array) -> Array:
    """0 to V - 1, int32, of the rank of rows [..., V]."""
    return lax.broadcasted_iota(jnp.int32, (*(1 for _ in rows.shape[:-1]), rows.shape[-1]), rows.ndim - 1)


def weights_over(rows: Array, class_weights: Array) -> Array:
    """Class weights [vocab] in the dtype and of the rank of rows [..., vocab]."""
    return class_weights.astype(rows.dtype).reshape(*(1 for _ in rows.shape[:-1]), class_weights.shape[0])
