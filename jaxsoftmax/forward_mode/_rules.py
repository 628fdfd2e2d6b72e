"""Rules of `jax.custom_jvp`: the tangent is <gradient, v>, linear in v, of logits and of a chunk of the fused head."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jaxsoftmax import _float_labels
from jaxsoftmax._divergence import forward_divergences
from jaxsoftmax._drop_in_losses import LossRules
from jaxsoftmax._head import schedules, token_chunks
from jaxsoftmax._head.chunk_sizes import Settings, chunk_sizes
from jaxsoftmax._head.distillation_loop import losses_of_tokens
from jaxsoftmax._head.distillation_rules import DistillationRules, Heads, sizes_of_heads
from jaxsoftmax._head.problem import HeadInputs, head_size, logits_of
from jaxsoftmax._head.products import as_operands, with_precision
from jaxsoftmax._head.rules import HeadRules, weighted_total
from jaxsoftmax._integer_labels import TokenParts
from jaxsoftmax._math.divergence import Divergence
from jaxsoftmax._math.loss_options import LossOptions
from jaxsoftmax._math.precision import accumulation_dtype
from jaxsoftmax._objective import Objective
from jaxsoftmax._row_rules import forward_row_outputs
from jaxsoftmax._sharding import Shards, pvary_with
from jaxsoftmax._tangents import inner

# In forward over reverse mode through a scan, rules of `jax.custom_jvp` within another's: the divergence's second
# derivative would be wrong, as that of its log-ratios is known to their rule alone.
_LOSES_RULES = jax.__version_info__ < (0, 11)


@partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def _float_label_losses(
    shards: Shards,
    with_parts: bool,
    options: LossOptions,
    logits: Array,
    labels: Array,
    class_weights: Array | None,
    where: Array | None,
) -> tuple[Array, TokenParts | None]:
    arguments = logits, labels, class_weights, where
    losses, parts, _ = _float_labels.losses_parts_and_stats(shards, with_parts, options, *arguments)
    return losses, parts


@partial(_float_label_losses.defjvp, symbolic_zeros=True)
def _float_label_losses_jvp(shards, with_parts, primals, tangents):
    options, logits, labels, class_weights, where = primals
    losses, parts, stats = _float_labels.losses_parts_and_stats(shards, with_parts, *primals)
    by_logits = _float_labels.logits_gradient(options, shards, logits, labels, class_weights, where, stats)
    by_labels = _float_labels.labels_gradient(options, logits, labels, class_weights, where, stats)
    losses_dot = inner(by_logits, tangents[1], -1) + inner(by_labels, tangents[2], -1)  # (M26, M12)
    constant = jax.tree.map(jnp.zeros_like, parts)
    return (losses, parts), (shards.psum(losses_dot[..., 0]), constant)


def _head_outputs(shards: Shards, settings: Settings, inputs: HeadInputs, objective: Objective) -> tuple[Any, Any]:
    weights = inputs._replace(hidden=None)
    # Wide outside of the chunks: a transpose adds the chunks' gradients up where the weights come in.
    wide = jax.tree.map(lambda w: w.astype(accumulation_dtype(w.dtype)), weights)
    of_classes = wide, objective.class_weights
    wide, class_weights = pvary_with(shards, of_classes, (inputs.hidden, objective.tokens))

    def of_chunk(x: Array, of_tokens: Objective) -> tuple[Any, Any]:
        narrow = jax.tree.map(lambda w, given: w.astype(given.dtype), wide, weights)
        operands = as_operands(settings, narrow._replace(hidden=x))
        return forward_row_outputs(shards, logits_of(operands.hidden, operands), of_tokens)

    # One chunk size on every platform: a derivative through a branch saves the residuals of all branches.
    size = head_size(as_operands(settings, inputs))._replace(in_blocks=False)
    chunk = chunk_sizes(schedules.ON_EVERY_PLATFORM, settings, size).tokens
    with with_precision(settings):
        objective = objective.with_class_weights(class_weights)
        return token_chunks.outputs_of_tokens(of_chunk, shards, chunk, inputs, objective)


def _head_total(
    shards: Shards, settings: Settings, inputs: HeadInputs, scale: Any, objective: Objective
) -> tuple[Array, Any]:
    outputs, extras = _head_outputs(shards, settings, inputs, objective)
    return weighted_total(scale, outputs), extras


def _distillation_losses(
    shards: Shards, divergence: Divergence, settings: Settings, heads: Heads, options: LossOptions
) -> Array:
    if shards.classes and _LOSES_RULES:
        needed = "expected JAX 0.11 or later for sharded classes in forward mode (0.10 loses rules within a scan)"
        raise NotImplementedError(f"axis_name: {needed}, got JAX {jax.__version__}")
    hidden = heads.student.hidden, heads.teacher.hidden
    weights = Heads(*(inputs._replace(hidden=None) for inputs in heads))
    wide = jax.tree.map(lambda w: w.astype(accumulation_dtype(w.dtype)), weights)
    wide = pvary_with(shards, wide, hidden)

    def of_chunk(x: Array, t: Array, options: LossOptions) -> Array:
        narrow = jax.tree.map(lambda w, given: w.astype(given.dtype), wide, weights)
        z, u = logits_of(x, narrow.student), logits_of(t, narrow.teacher)
        return forward_divergences(shards, divergence, options, z, u)

    chunk = sizes_of_heads(schedules.ON_EVERY_PLATFORM, settings, heads).tokens
    return losses_of_tokens(of_chunk, chunk, *hidden, options)


def _distillation_total(
    shards: Shards, divergence: Divergence, settings: Settings, heads: Heads, options: LossOptions, scale: Array
) -> Array:
    losses = _distillation_losses(shards, divergence, settings, heads, options)
    return weighted_total(scale, losses)


CUSTOM_JVP_RULES = LossRules(forward_row_outputs, _float_label_losses)


def _as_it_is(argument: Array) -> Array:
    """An argument on Auto axes: XLA has the choice how its gradient is sharded."""
    return argument


CUSTOM_JVP_HEAD_RULES = HeadRules(_head_total, _head_outputs, _as_it_is)
CUSTOM_JVP_DISTILLATION_RULES = DistillationRules(_distillation_total, _distillation_losses)
