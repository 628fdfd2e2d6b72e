"""The loop of the fused head over chunks of tokens: only one chunk ever has its logits.

Each chunk has its own outputs and dx; dW and db are sums over chunks. Ignored tokens are sorted last: a chunk of
ignored tokens alone is skipped, unless it is the first and peeled off the loop.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
from jax import Array, lax

from jaxsoftmax._head.chunk_layout import chunk_layout
from jaxsoftmax._head.chunk_loop import scan_chunks, zeros_like
from jaxsoftmax._head.chunk_sizes import ChunkSizes
from jaxsoftmax._head.gradient_task import GradientTask
from jaxsoftmax._head.problem import ClassBlock, HeadGrads, HeadInputs, TokenChunk, zero_ignored_hidden
from jaxsoftmax._head.rounding import as_saved
from jaxsoftmax._head.schedules import Steps
from jaxsoftmax._objective import Objective
from jaxsoftmax._sharding import Shards, pvary_with


def outputs_of_tokens(
    outputs: Callable[[Array, Objective], Any], shards: Shards, chunk: int, inputs: HeadInputs, objective: Objective
) -> Any:
    """Arrays [tokens, ...]: `outputs(hidden, objective)` of each chunk of tokens."""
    inputs = pvary_with(shards, inputs, objective.tokens)
    layout = chunk_layout(inputs.hidden.shape[0], objective.ignored(), chunk)

    @jax.checkpoint  # outside of the `cond`: inside, JAX would save the residuals of both branches
    def of_chunk(chunk: tuple[Array, Any]) -> Any:
        x, of_tokens = chunk[0], objective.of(chunk[1])
        nothing = partial(of_tokens.of_ignored, inputs.dtype)
        return layout.skip_if_ignored(of_tokens.ignored(), lambda: outputs(x, of_tokens), nothing)

    tokens = zero_ignored_hidden(inputs.hidden, objective.ignored()), objective.tokens
    of_chunks = lax.map(of_chunk, jax.tree.map(layout.to_chunks, tokens))
    return jax.tree.map(layout.from_chunks, of_chunks)


def outputs_and_gradients(steps: Steps, sizes: ChunkSizes, task: GradientTask) -> tuple[Any, Any, HeadGrads]:
    """Outputs and extras [tokens, ...], and each device's own gradients; None for those not wanted."""
    _, saved, inputs, outputs_bar, objective = task
    layout = chunk_layout(inputs.hidden.shape[0], objective.ignored(outputs_bar), sizes.tokens)
    alone = isinstance(layout.tokens, int) and layout.tokens <= layout.chunk

    of_chunk = partial(_of_chunk, steps, sizes, task, alone)

    def step(sums: HeadGrads, chunk: TokenChunk) -> tuple[HeadGrads, tuple[Any, Array | None]]:
        tokens = objective.of(chunk.tokens)

        def nothing() -> tuple[HeadGrads, tuple[Any, Array | None]]:
            of_ignored = tokens.of_ignored(inputs.dtype)
            return sums, (of_ignored, zeros_like(chunk.hidden, saved.hidden))

        return layout.skip_if_ignored(tokens.ignored(chunk.outputs_bar), lambda: of_chunk(sums, chunk), nothing)

    x = layout.to_chunks(inputs.hidden)
    x_transposed = None if saved.kernel is None else steps.transposed(x)
    tokens = jax.tree.map(layout.to_chunks, objective.tokens)
    bars = jax.tree.map(partial(layout.to_chunks, filler=0), outputs_bar)
    dw, db = map(zeros_like, inputs[1:], task.sums[1:])
    chunks = TokenChunk(x, x_transposed, tokens, bars)
    first_step = of_chunk if steps.first_apart and not alone else None
    (_, dw, db), (outputs, dx) = scan_chunks(step, HeadGrads(None, dw, db), chunks, first_step)
    dx = None if dx is None else layout.from_chunks(dx)
    gradients = HeadGrads(dx, as_saved(dw, saved.kernel), as_saved(db, saved.bias))
    return *jax.tree.map(layout.from_chunks, outputs), gradients


def _of_chunk(
    steps: Steps, sizes: ChunkSizes, task: GradientTask, alone: bool, sums: HeadGrads, chunk: TokenChunk
) -> tuple[HeadGrads, tuple[Any, Array | None]]:
    """The sums with a chunk's part; its outputs and extras, and its dx as it is saved."""
    shards, saved, inputs, _, objective = task
    z, of_tokens = steps.logits(chunk.hidden, inputs), objective.of(chunk.tokens)
    equations = objective.equations
    evaluation = equations.evaluate(of_tokens, shards, z)
    coefs = equations.coefs(of_tokens, shards, z, evaluation.stats, chunk.outputs_bar)
    offset = shards.class_offset(z.shape[-1])

    def entries(block: ClassBlock) -> Array:
        weights = None if objective.class_weights is None else block.of(objective.class_weights)
        of_block = of_tokens.with_class_weights(weights)
        return equations.gradient_entries(of_block, shards, block.of(z), evaluation.stats, coefs, offset, block.first)

    sums = sums._replace(hidden=zeros_like(chunk.hidden, task.sums.hidden))
    dx, dw, db = steps.add_products(inputs, chunk, sums, entries, sizes.classes, alone)
    return HeadGrads(None, dw, db), (evaluation[:2], as_saved(dx, saved.hidden))
