"""The rules that attach gradients to the fused head, whatever it forms of its logits (M16).

Where the weight of each output in a total is known when the total is computed, the gradient is formed then and there:
three matrix products in all. Where the weights are cotangents, which come later, the logits are computed again.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.custom_derivatives import SymbolicZero, custom_vjp_primal_tree_values

from jaxsoftmax._head import programs, residuals
from jaxsoftmax._head.auto_sharding import sharded_as_given
from jaxsoftmax._head.chunk_sizes import Settings
from jaxsoftmax._head.problem import HeadInputs
from jaxsoftmax._math import token_loss
from jaxsoftmax._objective import Objective
from jaxsoftmax._row_rules import without_symbolic_zeros
from jaxsoftmax._sharding import Shards


class HeadRules(NamedTuple):
    """The functions with a derivative rule: `custom_vjp` in `jaxsoftmax`, `custom_jvp` in `forward_mode`."""

    total: Callable[..., Any]  # Σ <scale, outputs>, a scalar; and the extras
    outputs: Callable[..., Any]  # outputs and extras [tokens, ...]
    sharded_as_given: Callable[[Array], Array]  # the argument, its gradient sharded as it is over Auto axes


def weighted_total(scale: Any, outputs: Any) -> Array:
    """Σ <scale, outputs>; an infinite output of weight 0 adds nothing."""
    terms = jax.tree.map(lambda u, out: jnp.sum(token_loss.weighted(u, out)), scale, outputs)
    return jnp.sum(jnp.stack(jax.tree.leaves(terms)))


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _total(
    shards: Shards, settings: Settings, inputs: HeadInputs, scale: Any, objective: Objective
) -> tuple[Array, Any]:
    outputs, extras = programs.outputs(shards, settings, inputs, objective)
    return weighted_total(scale, outputs), extras


def _total_fwd(shards, settings, inputs, scale, objective):
    specs, wanted = residuals.specs_and_wanted(inputs)
    inputs, scale, objective = custom_vjp_primal_tree_values((inputs, scale, objective))
    outputs, extras, grads = programs.outputs_and_gradients(shards, settings, wanted, inputs, scale, objective)
    outputs = jax.tree.map(token_loss.drop_infinite_if_unweighted, scale, outputs)
    # Gradients, shaped as their arguments; outputs [tokens, ...].
    return (weighted_total(scale, outputs), extras), (specs, residuals.left(specs, grads), outputs)


def _total_bwd(_shards, _settings, left, bars):
    total_bar, _ = bars
    if isinstance(total_bar, SymbolicZero):
        return None, None, None
    specs, grads, outputs = left
    wanted = residuals.wanted_among(specs, grads)
    grads = residuals.as_wanted(wanted, jax.tree.map(lambda g: total_bar * g.astype(total_bar.dtype), grads))
    return grads, jax.tree.map(lambda out: total_bar * out, outputs), None  # labels are integers, the rest constants


_total.defvjp(_total_fwd, _total_bwd, symbolic_zeros=True)


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _outputs(shards: Shards, settings: Settings, inputs: HeadInputs, objective: Objective) -> tuple[Any, Any]:
    return programs.outputs(shards, settings, inputs, objective)


def _outputs_fwd(shards, settings, inputs, objective):
    specs, wanted = residuals.specs_and_wanted(inputs)
    inputs, objective = custom_vjp_primal_tree_values((inputs, objective))
    outputs = programs.outputs(shards, settings, inputs, objective)
    return outputs, (specs, residuals.marks(specs, wanted), inputs, objective)  # the arguments


def _outputs_bwd(shards, settings, left, bars):
    outputs_bar = without_symbolic_zeros(bars[0])
    if not jax.tree.leaves(outputs_bar):
        return None, None
    specs, marks, inputs, objective = left
    wanted = residuals.wanted_among(specs, marks)
    *_, grads = programs.outputs_and_gradients(shards, settings, wanted, inputs, outputs_bar, objective)
    return residuals.as_wanted(wanted, grads), None  # labels are integers, the rest constants


_outputs.defvjp(_outputs_fwd, _outputs_bwd, symbolic_zeros=True)


CUSTOM_VJP_RULES = HeadRules(_total, _outputs, sharded_as_given)
