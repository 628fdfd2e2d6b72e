"""The interface of a differentiable function of logits, whole or a chunk at a time in the fused head.

To add a function of rows, write its equations in a module beside `_integer_labels`. A rule attaches their gradient to
logits (`_row_rules`), and the fused head takes them through its chunks.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jaxsoftmax._math.loss_options import LossOptions


class Evaluation(NamedTuple):
    """The results of a forward pass over rows of logits."""

    outputs: Any  # arrays [*batch, ...] that are differentiated in the logits
    extras: Any  # arrays [*batch, ...] that aren't; None where there are none
    stats: Any  # what the gradient needs of each row besides the arguments


class Equations(NamedTuple):
    """Functions of logits x [*batch, local_vocab], the classes of one of the `shards`."""

    # evaluate(objective, shards, x, shared=False): what the rows give; `shared` as in `lse_state`.
    evaluate: Callable[..., Evaluation]
    # coefs(objective, shards, x, stats, outputs_bar): numbers per row, [*batch, ...], that the gradient is made of.
    # An output without a cotangent has None in `outputs_bar`.
    coefs: Callable[..., Any]
    # gradient_entries(objective, shards, x, stats, coefs, offset, first=0): the gradient in x, the logits of
    # consecutive classes: `offset` is the shard's first class in the vocabulary, `first` is x's in the shard.
    gradient_entries: Callable[..., Array]
    # ignored(objective, outputs_bar): the tokens that add nothing to Σ <outputs_bar, outputs> whatever their logits,
    # [*batch]; without cotangents those whose outputs and extras are 0. None for none.
    ignored: Callable[..., Array | None]
    # of_ignored(objective, dtype): the outputs and extras of tokens that are all ignored.
    of_ignored: Callable[..., tuple[Any, Any]] | None = None
    # tangents(objective, shards, x, stats, x_dot): the outputs' derivatives along x_dot; None where there is one output
    # [*batch], whose derivative is the gradient's product with x_dot.
    tangents: Callable[..., Any] | None = None


@partial(
    jax.tree_util.register_dataclass, data_fields=["options", "tokens", "class_weights"], meta_fields=["equations"]
)
@dataclass(frozen=True)
class Objective:
    """Equations, and what they take besides the logits."""

    equations: Equations
    options: LossOptions
    tokens: Any  # arrays [*batch, ...]
    class_weights: Any = None  # [local_vocab], or None

    def of(self, tokens: Any) -> "Objective":
        """The objective with these tokens in place of its own."""
        return replace(self, tokens=tokens)

    def with_class_weights(self, class_weights: Array | None) -> "Objective":
        """The objective with these class weights in place of its own."""
        return replace(self, class_weights=class_weights)

    def of_ignored(self, dtype: jnp.dtype) -> tuple[Any, Any]:
        """The outputs and extras of tokens that are all ignored."""
        of_ignored = self.equations.of_ignored
        assert of_ignored is not None  # equations without `of_ignored` have `ignored` return None
        return of_ignored(self, dtype)

    def ignored(self, outputs_bar: Any = None) -> Array | None:
        """Which tokens add nothing under these cotangents, or without them have outputs and extras of 0; or None."""
        return self.equations.ignored(self, outputs_bar)
