"""Tokens of the fused head with their labels: the objective of their kind, and what its outputs are multiplied by."""

from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array

from jaxsoftmax._integer_labels import LOSSES, LOSSES_WITH_PARTS, LabelledTokens, TokenParts, label_weights
from jaxsoftmax._math import token_loss
from jaxsoftmax._math.loss_options import LossOptions
from jaxsoftmax._objective import Objective
from jaxsoftmax._sharding import Shards
from jaxsoftmax._sparse_labels import (
    SPARSE_LOSSES,
    SPARSE_LOSSES_WITH_PARTS,
    SparseLabels,
    losses_of,
    parts_of,
    sparse_tokens,
    term_weights,
)
from jaxsoftmax._token_labels import token_labels


class Labelled(NamedTuple):
    """Tokens with integer labels, of which a loss is the one output."""

    objective: Objective
    scale: Array  # u_t, 0 where the token is ignored
    normalizers: Array  # u_t n_t of M27

    def term_weights(self, scale: Array) -> Array:
        """What the outputs are multiplied by in Σ_t scale_t l_t."""
        return scale

    def losses(self, outputs: Array) -> Array:
        """u_t l_t [tokens]."""
        return token_loss.weighted(self.scale, outputs)

    def parts(self, extras: TokenParts) -> TokenParts:
        """The parts of each token's loss."""
        return extras


class SparselyLabelled(NamedTuple):
    """Tokens with a few weighted classes each; a loss is linear in their weights."""

    objective: Objective
    scale: Array  # u_t
    normalizers: Array  # u_t
    labels: SparseLabels

    def term_weights(self, scale: Array) -> Any:
        """What the outputs are multiplied by in Σ_t scale_t l_t."""
        return term_weights(self.objective.options, self.labels, scale)

    def losses(self, outputs: Any) -> Array:
        """u_t l_t [tokens]."""
        return losses_of(self.term_weights(self.scale), outputs)

    def parts(self, extras: Any) -> TokenParts:
        """The parts of each token's loss."""
        return parts_of(self.labels, extras)


def labelled(
    options: LossOptions,
    shards: Shards,
    has_aux: bool,
    labels: Array | SparseLabels,
    scale: Array,
    class_weights: Array | None,
    local_vocab: int,
) -> Labelled | SparselyLabelled:
    """Tokens with their labels, whose losses are weighted by `scale` [tokens]."""
    if isinstance(labels, SparseLabels):
        sparse = sparse_tokens(shards, labels.indices, local_vocab)
        equations = SPARSE_LOSSES_WITH_PARTS if has_aux else SPARSE_LOSSES
        return SparselyLabelled(Objective(equations, options, sparse, class_weights), scale, scale, labels)
    tokens = LabelledTokens(token_labels(options, shards, labels, local_vocab))
    scale = jnp.where(tokens.labels.ignored, 0, scale)
    normalizers = scale * label_weights(shards, tokens.labels, class_weights, scale.dtype)
    equations = LOSSES_WITH_PARTS if has_aux else LOSSES
    return Labelled(Objective(equations, options, tokens, class_weights), scale, normalizers)
