"""The rules that attach gradients to distillation between two fused heads (M16, M29, M30).

With `mean` and `sum` the weight of each token is known when the loss is computed, and the gradients are formed then and
there. With `none` the weights are the cotangents, which come later: the logits are computed again.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.custom_derivatives import SymbolicZero, custom_vjp_primal_tree_values

from jaxsoftmax._divergence import divergences_of, pair_stats
from jaxsoftmax._head import distillation_loop, residuals, schedules
from jaxsoftmax._head.chunk_sizes import Budget, ChunkSizes, Settings, chunk_sizes
from jaxsoftmax._head.distillation_loop import DistillationGradientTask, Head
from jaxsoftmax._head.problem import GradSpecs, HeadGrads, HeadInputs, head_size, logits_of
from jaxsoftmax._head.rounding import saved_dtypes
from jaxsoftmax._head.schedules import Steps
from jaxsoftmax._math import token_loss
from jaxsoftmax._math.divergence import Divergence
from jaxsoftmax._math.loss_options import LossOptions
from jaxsoftmax._sharding import Shards, pvary_with, vma_of


class DistillationRules(NamedTuple):
    """The functions with a derivative rule: `custom_vjp` in `jaxsoftmax`, `custom_jvp` in `forward_mode`."""

    total: Callable[..., Any]  # Σ_t scale_t D_t
    losses: Callable[..., Any]  # D_t [tokens]


class Heads(NamedTuple):
    """The inputs of both heads."""

    student: HeadInputs
    teacher: HeadInputs


def sizes_of_heads(
    budget: Budget, settings: Settings, heads: Heads, saved: tuple[Any, ...] = (None, None)
) -> ChunkSizes:
    """The `chunk_sizes` for two heads: a chunk holds four arrays [chunk, vocab] in place of one."""
    sizes = [head_size(inputs, grads) for inputs, grads in zip(heads, saved, strict=True)]
    both = sizes[0]._replace(
        embed=sizes[0].embed + sizes[1].embed,
        vocab=4 * sizes[0].vocab,  # the logits, their probabilities or log-ratios
        sums_kernel=any(size.sums_kernel for size in sizes),
        in_blocks=False,
    )
    vocab, of_both = sizes[0].vocab, chunk_sizes(budget, settings, both)
    return of_both._replace(classes=vocab if budget.classes is None else min(of_both.classes, vocab))


def _losses_by_steps(shards: Shards, divergence: Divergence, settings: Settings, heads: Heads, options: Any) -> Array:
    def by_steps(_steps: Steps, sizes: ChunkSizes, heads: Heads, options: LossOptions) -> Array:
        heads = pvary_with(shards, heads, ())

        def of_chunk(x: Array, t: Array, options: LossOptions) -> Array:
            z, u = logits_of(x, heads.student), logits_of(t, heads.teacher)
            return divergences_of(divergence, pair_stats(shards, divergence, options, z, u))

        hidden = heads.student.hidden, heads.teacher.hidden
        return distillation_loop.losses_of_tokens(of_chunk, sizes.tokens, *hidden, options)

    sizes_of = partial(sizes_of_heads, settings=settings, heads=heads)
    return schedules.by_platform(by_steps, sizes_of, heads, options)


def _losses_and_gradients(
    shards: Shards,
    divergence: Divergence,
    settings: Settings,
    wanted: tuple[GradSpecs, ...],
    heads: Heads,
    options: LossOptions,
    scale: Array,
) -> tuple[Array, tuple[HeadGrads, ...]]:
    axes = vma_of((heads, scale)).union(shards.classes)
    saved = tuple(saved_dtypes(specs, axes) for specs in wanted)

    def by_steps(steps: Steps, sizes: ChunkSizes, heads: Heads, options: LossOptions, scale: Array) -> Any:
        heads = pvary_with(shards, heads, scale)
        both = tuple(map(Head, heads, saved))
        task = DistillationGradientTask(shards, divergence, options, both, scale)
        return distillation_loop.losses_and_gradients(steps, sizes, task)

    sizes_of = partial(sizes_of_heads, settings=settings, heads=heads, saved=saved)
    return schedules.by_platform(by_steps, sizes_of, heads, options, scale)


@partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def _total(
    shards: Shards, divergence: Divergence, settings: Settings, heads: Heads, options: LossOptions, scale: Array
) -> Array:
    losses = _losses_by_steps(shards, divergence, settings, heads, options)
    return jnp.sum(token_loss.weighted(scale, losses))


def _total_fwd(shards, divergence, settings, heads, options, scale):
    specs, wanted = zip(*map(residuals.specs_and_wanted, heads), strict=True)
    heads, options, scale = custom_vjp_primal_tree_values((heads, options, scale))
    losses, grads = _losses_and_gradients(shards, divergence, settings, wanted, heads, options, scale)
    losses = token_loss.drop_infinite_if_unweighted(scale, losses)
    # Gradients, shaped as their arguments; D_t [tokens].
    return jnp.sum(scale * losses), (specs, tuple(map(residuals.left, specs, grads)), losses)


def _total_bwd(_shards, _divergence, _settings, left, total_bar):
    if isinstance(total_bar, SymbolicZero):
        return None, None, None
    specs, grads, losses = left
    wanted = tuple(map(residuals.wanted_among, specs, grads))
    grads = jax.tree.map(lambda g: total_bar * g.astype(total_bar.dtype), grads)
    return Heads(*map(residuals.as_wanted, wanted, grads)), None, total_bar * losses


_total.defvjp(_total_fwd, _total_bwd, symbolic_zeros=True)


@partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def _losses(shards: Shards, divergence: Divergence, settings: Settings, heads: Heads, options: LossOptions) -> Array:
    return _losses_by_steps(shards, divergence, settings, heads, options)


def _losses_fwd(shards, divergence, settings, heads, options):
    specs, wanted = zip(*map(residuals.specs_and_wanted, heads), strict=True)
    heads, options = custom_vjp_primal_tree_values((heads, options))
    losses = _losses_by_steps(shards, divergence, settings, heads, options)
    return losses, (specs, tuple(map(residuals.marks, specs, wanted)), heads, options)  # the arguments


def _losses_bwd(shards, divergence, settings, left, losses_bar):
    if isinstance(losses_bar, SymbolicZero):
        return None, None
    specs, marks, heads, options = left
    wanted = tuple(map(residuals.wanted_among, specs, marks))
    _, grads = _losses_and_gradients(shards, divergence, settings, wanted, heads, options, losses_bar)
    return Heads(*map(residuals.as_wanted, wanted, grads)), None


_losses.defvjp(_losses_fwd, _losses_bwd, symbolic_zeros=True)

CUSTOM_VJP_DISTILLATION_RULES = DistillationRules(_total, _losses)
