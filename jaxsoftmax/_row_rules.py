"""Derivative rules of an objective over logits whose last axis is the vocabulary."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.custom_derivatives import SymbolicZero, custom_vjp_primal_tree_values

from jaxsoftmax._objective import Evaluation, Objective
from jaxsoftmax._reduction import schedules
from jaxsoftmax._sharding import Shards
from jaxsoftmax._tangents import inner


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def row_outputs(shards: Shards, logits: Array, objective: Objective) -> tuple[Any, Any]:
    """Outputs and extras of logits [*batch, local_vocab], differentiable in reverse mode."""
    evaluation = objective.equations.evaluate(objective, shards, logits)
    return evaluation.outputs, evaluation.extras


def _fwd(shards, logits, objective):
    logits, objective = custom_vjp_primal_tree_values((logits, objective))
    evaluation = objective.equations.evaluate(objective, shards, logits, shared=True)
    residuals = logits, objective, evaluation.stats  # the arguments, and the row statistics
    return (evaluation.outputs, evaluation.extras), residuals


def _bwd(shards, residuals, bars):
    outputs_bar = without_symbolic_zeros(bars[0])
    if not jax.tree.leaves(outputs_bar):
        return None, None
    logits, objective, stats = residuals
    # The objective gets no cotangent: weights of labels and tokens multiply the outputs outside of this rule.
    return gradient(objective, shards, logits, stats, outputs_bar).astype(logits.dtype), None


row_outputs.defvjp(_fwd, _bwd, symbolic_zeros=True)


def gradient(objective: Objective, shards: Shards, logits: Array, stats: Any, outputs_bar: Any) -> Array:
    """The gradient of Σ <outputs_bar, outputs> in the logits, [*batch, local_vocab]."""
    coefs = objective.equations.coefs(objective, shards, logits, stats, outputs_bar)
    offset = shards.class_offset(logits.shape[-1])

    def of_rows(logits: Array, tokens: Any, stats: Any, coefs: Any) -> Array:
        return objective.equations.gradient_entries(objective.of(tokens), shards, logits, stats, coefs, offset)

    return schedules.over_rows(of_rows, logits, objective.tokens, stats, coefs)


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def forward_row_outputs(shards: Shards, logits: Array, objective: Objective) -> tuple[Any, Any]:
    """`row_outputs` differentiable in both modes."""
    evaluation = objective.equations.evaluate(objective, shards, logits)
    return evaluation.outputs, evaluation.extras


@partial(forward_row_outputs.defjvp, symbolic_zeros=True)
def _forward_row_outputs_jvp(shards, primals, tangents):
    logits, objective = primals
    evaluation = objective.equations.evaluate(objective, shards, logits, shared=True)
    primals_out = evaluation.outputs, evaluation.extras
    nothing = jax.tree.map(SymbolicZero.from_primal_value, primals_out)
    if isinstance(tangents[0], SymbolicZero):
        return primals_out, nothing
    return primals_out, (_tangents(objective, shards, logits, evaluation, tangents[0]), nothing[1])


def _tangents(objective: Objective, shards: Shards, logits: Array, evaluation: Evaluation, logits_dot: Array) -> Any:
    """The outputs' derivatives along logits_dot."""
    tangents = objective.equations.tangents
    if tangents is not None:
        return tangents(objective, shards, logits, evaluation.stats, logits_dot)
    of_output = gradient(objective, shards, logits, evaluation.stats, jnp.ones_like(evaluation.outputs))
    return shards.psum(inner(of_output, logits_dot, -1)[..., 0])


def without_symbolic_zeros(bars: Any) -> Any:
    """Cotangents, None in place of those that are symbolically zero."""
    return jax.tree.map(lambda bar: None if isinstance(bar, SymbolicZero) else bar, bars)
