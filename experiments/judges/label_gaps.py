"""How confident a classifier is of the right class."""

import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float


def label_gaps(logits: ArrayLike, labels: ArrayLike) -> Float[Array, " rows"]:
    """Returns how far each label's logit [rows, classes] is ahead of the next class's, in nats."""
    logits = jnp.asarray(logits)
    rows = jnp.arange(len(logits))
    others = logits.at[rows, labels].set(-jnp.inf)
    return logits[rows, labels] - jnp.max(others, axis=1)
