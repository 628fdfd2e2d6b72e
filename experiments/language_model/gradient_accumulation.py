"""A batch in parts: their summed losses and gradients, divided by the tokens of the whole batch, are its mean's."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int

from experiments.data.token_sequences import PADDING, Sequences
from experiments.language_model.training import Trainer, fused
from experiments.models.transformer import Model, Tokens

PARTS = 4
# Of the loss, and of the largest entry of each gradient. Parts add up in another order, and in a gradient whose terms
# cancel the largest entry is small next to them: a hundred ulps of float32.
TOLERANCE = 100 * float(np.finfo(np.float32).eps)

LossAndGradients = tuple[Float[Array, ""], Any]
Parts = Int[np.ndarray, "parts sequences length_and_one"]


@dataclass(frozen=True)
class Apart:
    """How far a loss and gradients are from those of the whole batch: of its loss, and of each one's largest entry."""

    loss: float
    gradients: float

    @property
    def holds(self) -> bool:
        """Whether they are equal up to rounding."""
        return bool(np.max([self.loss, self.gradients]) <= TOLERANCE)  # Python's max may pass over a NaN


@dataclass(frozen=True)
class Accumulation:
    """Errors of accumulating a batch's parts: by summed losses over all tokens, and by the mean of their means."""

    tokens: list[int]
    sums: Apart
    mean_of_means: Apart

    @property
    def is_uneven(self) -> bool:
        """Whether some part has fewer tokens than another; else the mean of the means is right too."""
        return len(set(self.tokens)) > 1


def accumulation(model: Model, data: Sequences, size: int) -> Accumulation:
    """Compares one batch of the data, in parts, with the whole of it, by the fused loss."""
    batch = with_uneven_padding(data, size)
    parts = batch.reshape(PARTS, size // PARTS, -1)
    tokens = np.sum(parts[..., 1:] != PADDING, axis=(1, 2))
    mean, total = (Trainer(model, partial(fused, reduction=reduction), 1).objective for reduction in ("mean", "sum"))
    whole = jax.jit(jax.value_and_grad(mean))(model.parameters, batch)
    add_up = jax.jit(partial(accumulated, total))
    sums = add_up(model.parameters, parts, np.full(PARTS, tokens.sum()))
    mean_of_means = add_up(model.parameters, parts, PARTS * tokens)
    return Accumulation(tokens.tolist(), apart(sums, whole), apart(mean_of_means, whole))


def accumulated(
    total: Callable[[Any, Tokens], Float[Array, ""]], parameters: Any, parts: Parts, divisors: Int[np.ndarray, " parts"]
) -> LossAndGradients:
    """Adds up the losses and gradients of one part after another, in the memory of one.

    Args:
        total: returns the summed loss of a part.
        parameters: what to differentiate by.
        parts: the batch.
        divisors: each part's: the tokens of the whole batch give the mean over its tokens; the number of parts times
            the tokens of this part would give the mean of the parts' means.
    """

    def add(so_far: LossAndGradients, part: Any) -> tuple[LossAndGradients, None]:
        batch, divisor = part
        loss, gradients = jax.value_and_grad(total)(parameters, batch)
        return optax.tree.add_scale(so_far, 1.0 / divisor, (loss, gradients)), None

    zeros = (jnp.zeros(()), jax.tree.map(jnp.zeros_like, parameters))
    return jax.lax.scan(add, zeros, (parts, divisors))[0]


def apart(found: LossAndGradients, whole: LossAndGradients) -> Apart:
    """Returns the distance from the whole batch's."""
    loss, *gradients = (
        float(jnp.max(jnp.abs(mine - its)) / jnp.max(jnp.abs(its)))
        for mine, its in zip(jax.tree.leaves(found), jax.tree.leaves(whole), strict=True)
    )
    return Apart(loss, float(np.max(gradients)))


def with_uneven_padding(data: Sequences, size: int) -> Sequences:
    """Returns a batch half of full sequences and half of padded ones, from little to much padding."""
    padding = np.sum(data == PADDING, axis=1)
    order = np.argsort(padding, kind="stable")
    first_padded = max(0, min(int(np.sum(padding == 0)), len(order) - size // 2))
    padded = np.linspace(first_padded, len(order) - 1, size // 2).astype(int)
    full = np.arange(size - size // 2) % len(order)
    return data[order[np.concatenate([full, padded])]]
