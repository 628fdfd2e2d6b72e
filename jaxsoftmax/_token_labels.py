"""Integer labels as the losses use them: which class of this shard, and whether the token counts."""

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array

from jaxsoftmax._math.loss_options import LossOptions
from jaxsoftmax._sharding import Shards

_COUNTED, _IGNORED, _INVALID = 0, 1, 2


class TokenLabels(NamedTuple):
    """Labels of tokens, each [*batch]."""

    local: Array  # int32, the number of the class on this shard; outside of [0, local_vocab) if it is on another
    standing: Array  # int8

    @property
    def ignored(self) -> Array:
        """Whether the label is `ignore_index`: loss and gradient are 0."""
        return self.standing == _IGNORED

    @property
    def invalid(self) -> Array:
        """Whether the label is neither in [0, V) nor `ignore_index`: its loss is NaN."""
        return self.standing == _INVALID


def nan_if_invalid(invalid: Array, bar: Array) -> Array:
    """Cotangents: NaN where the label is invalid; but 0 stays 0, as where the loss is masked or weighted by 0."""
    return jnp.where(invalid & (bar != 0), jnp.nan, bar)


def token_labels(options: LossOptions, shards: Shards, labels: Array, local_vocab: int) -> TokenLabels:
    """Labels in [0, V) or `ignore_index`, counted from this shard's first class; all others are invalid."""
    local, in_vocab = local_classes(shards, labels, local_vocab)
    standing = jnp.where(in_vocab, _COUNTED, _INVALID)
    if options.ignore_index is not None and _is_representable(options.ignore_index, labels.dtype):
        standing = jnp.where(labels == options.ignore_index, _IGNORED, standing)
    return TokenLabels(local, standing.astype(jnp.int8))


def local_classes(shards: Shards, classes: Array, local_vocab: int) -> tuple[Array, Array]:
    """The numbers of classes counted from this shard's first, int32, and which of them are in [0, V)."""
    in_vocab = (classes >= 0) & (classes < jnp.asarray(shards.vocab(local_vocab), classes.dtype))
    return jnp.where(in_vocab, classes, 0).astype(jnp.int32) - shards.class_offset(local_vocab), in_vocab


def _is_representable(number: int, dtype: jnp.dtype) -> bool:
    """Whether an integer dtype can hold the number; JAX would wrap it to another one before it compares."""
    info = jnp.iinfo(dtype)
    return info.min <= number <= info.max
