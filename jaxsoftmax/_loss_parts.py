"""The terms of a loss, to monitor training; they come from the same pass as the loss (M33)."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from jaxsoftmax._integer_labels import TokenParts
from jaxsoftmax._math import token_loss
from jaxsoftmax._sharding import NOT_SHARDED, Shards


class LossParts(NamedTuple):
    """The terms of a loss, as `cross_entropy` and `linear_cross_entropy` return them with `has_aux=True` (M33).

    Each is a scalar; with `reduction="none"` it is [*batch]. No gradient flows through them. With weights u of tokens
    and w of classes, and targets p of float or sparse labels:

    Attributes:
      nll: u w_y nll_y, or Σ_j u w_j p_j (L - z_j); without smoothing, reduced as the loss is. With "mean", exp(nll) is
        the perplexity.
      z_loss: u zeta w_y L^2, or u zeta L^2; reduced as the loss is.
      weight: the divisor of a mean: Σ u w_y over the tokens that aren't ignored, or Σ u.
      correct: Σ u over the tokens whose prediction is the label, or the class with the largest single weight (those of
        a class that `SparseLabels` name twice aren't added up here); the prediction is the first class of the maximum.
        Without class weights `correct / weight` is the accuracy.

    >>> import jax.numpy as jnp
    >>> from jaxsoftmax import cross_entropy
    >>> logits, labels = jnp.array([[2.0, 0.0], [1.0, 0.0]]), jnp.array([0, 1])
    >>> loss, parts = cross_entropy(logits, labels, z_loss=0.01, has_aux=True)
    >>> print(jnp.allclose(loss, parts.nll + parts.z_loss), parts.weight, parts.correct)
    True 2.0 1.0
    """

    nll: Float[Array, "..."]
    z_loss: Float[Array, "..."]
    weight: Float[Array, "..."]
    correct: Float[Array, "..."]


def with_parts(has_aux: bool, loss: Array, parts: LossParts | None) -> Any:
    """What a loss returns: itself, or with `has_aux` the pair of it and its parts."""
    return (loss, parts) if has_aux else loss


def loss_parts(
    reduction: str, parts: TokenParts, token_weights: Array | None, normalizers: Array, shards: Shards = NOT_SHARDED
) -> LossParts:
    """The parts of a loss, from those of its tokens [*batch]; `normalizers` is u_t n_t of M27.

    Sums are over the tokens of all `shards`.
    """
    parts, normalizers, token_weights = jax.lax.stop_gradient((parts, normalizers, token_weights))
    nll, z_loss, correct = parts
    if token_weights is not None:
        nll, z_loss, correct = (token_loss.weighted(token_weights, part) for part in parts)
    if reduction == "none":
        return LossParts(nll, z_loss, normalizers, correct)
    nll, z_loss, weight, correct = (
        shards.psum_over_tokens(jnp.sum(part)) for part in (nll, z_loss, normalizers, correct)
    )
    if reduction == "mean":
        nll, z_loss = token_loss.mean(nll, weight), token_loss.mean(z_loss, weight)
    return LossParts(nll, z_loss, weight, correct)  # (M33)
