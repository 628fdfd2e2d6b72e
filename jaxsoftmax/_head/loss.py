"""The loss of the fused head: tokens flattened, labels normalised, and the rule of the reduction."""

import math
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jaxsoftmax import _checks
from jaxsoftmax._head.arguments import HeadArguments
from jaxsoftmax._head.chunk_sizes import Settings
from jaxsoftmax._head.labelled import labelled
from jaxsoftmax._head.problem import HeadInputs
from jaxsoftmax._head.products import as_operands
from jaxsoftmax._head.rules import HeadRules
from jaxsoftmax._loss_arguments import require_reduction
from jaxsoftmax._loss_parts import LossParts, loss_parts
from jaxsoftmax._math import token_loss
from jaxsoftmax._math.loss_options import LossOptions
from jaxsoftmax._sharding import Shards, match_vma


class HeadTask(NamedTuple):
    """The static settings of a call of the fused head's loss."""

    rules: HeadRules
    reduction: str
    has_aux: bool
    settings: Settings


def head_task(rules: HeadRules, reduction: Any, has_aux: Any, settings: Settings) -> HeadTask:
    """Validates `reduction` and `has_aux`, and returns the task."""
    require_reduction(reduction)
    return HeadTask(rules, reduction, _checks.as_flag("has_aux", has_aux), settings)


# Without jit, an eager call would compile its loops each time.
@partial(jax.jit, static_argnums=(0, 1))
def head_loss(
    task: HeadTask, shards: Shards, options: LossOptions, arguments: HeadArguments
) -> tuple[Array, LossParts | None]:
    """Flatten the tokens, normalise their labels, and hand over to the rule of the reduction."""
    arguments = arguments.with_embed_first(task.settings)
    batch, (hidden, labels, token_weights, kernel, bias, class_weights) = arguments.batch, arguments
    tokens = math.prod(batch)
    inputs = HeadInputs(hidden.reshape(tokens, kernel.shape[0]), kernel, bias)
    labels = jax.tree.map(lambda array: array.reshape(tokens, *array.shape[len(batch) :]), labels)
    dtype = as_operands(task.settings, inputs).dtype
    scale = jnp.ones(tokens, dtype) if token_weights is None else token_weights.reshape(tokens).astype(dtype)
    _, (labels, scale) = match_vma(shards, (inputs, class_weights), (labels, scale))
    given = labelled(options.astype(dtype), shards, task.has_aux, labels, scale, class_weights, kernel.shape[1])
    if task.reduction == "none":
        outputs, extras = task.rules.outputs(shards, task.settings, inputs, given.objective)
        loss = given.losses(outputs)
    else:
        scale = given.scale
        if task.reduction == "mean":
            scale = token_loss.mean_weights(scale, shards.psum_over_tokens(jnp.sum(given.normalizers)))
        weights = given.term_weights(scale)
        total, extras = task.rules.total(shards, task.settings, inputs, weights, given.objective)
        loss = shards.psum_over_tokens(total)
    parts = None
    if extras is not None:
        parts = loss_parts(task.reduction, given.parts(extras), given.scale, given.normalizers, shards)
    if task.reduction == "none":
        loss, parts = jax.tree.map(lambda array: array.reshape(batch), (loss, parts))
    return loss, parts
