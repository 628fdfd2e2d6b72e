"""The loop of the fused head over chunks of tokens: only one chunk ever has its logits.

Each chunk has its own losses and dx; dW and db are sums over chunks. Ignored tokens, whose loss and gradient are 0,
come last: a chunk of them alone is skipped, unless it is the first and stands apart.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from jaxsoftmax._head.chunk_layout import chunk_layout
from jaxsoftmax._head.chunk_sizes import ChunkSizes
from jaxsoftmax._head.gradient_task import GradientTask
from jaxsoftmax._head.problem import HeadGrads, HeadInputs, TokenChunk, zero_ignored_hidden
from jaxsoftmax._head.rounding import unscaled
from jaxsoftmax._head.schedules import Steps
from jaxsoftmax._math.token_loss import LossOptions
from jaxsoftmax._sharding import Shards, match_vma
from jaxsoftmax._token_labels import TokenLabels


def losses_of_tokens(
    loss: Callable[[Array, TokenLabels], Array],
    options: LossOptions,
    shards: Shards,
    chunk: int,
    inputs: HeadInputs,
    labels: TokenLabels,
) -> Array:
    """Losses [tokens]: `loss(hidden, labels)` of each chunk of tokens."""
    inputs, _ = match_vma(shards, inputs, labels.standing)
    layout = chunk_layout(options, labels, chunk)

    @jax.checkpoint  # around the choice too: within, it would save what the choice is between
    def of_chunk(tokens):
        x, y = tokens
        nothing = jnp.zeros_like(y.standing, dtype=inputs.dtype)
        return layout.skip_if_ignored(y, lambda: loss(x, y), lambda: nothing)

    tokens = zero_ignored_hidden(options, inputs.hidden, labels), labels
    return layout.from_chunks(lax.map(of_chunk, jax.tree.map(layout.to_chunks, tokens)))


def losses_and_gradients(steps: Steps, sizes: ChunkSizes, task: GradientTask) -> tuple[Array, HeadGrads]:
    """Losses [tokens], and each device's own gradients; None of those not wanted."""
    options, shards, saved, inputs, scale, labels, class_weights, factor = task
    layout = chunk_layout(options, labels, sizes.tokens)
    alone = isinstance(layout.tokens, int) and layout.tokens <= layout.chunk

    def of_chunk(sums: HeadGrads, chunk: TokenChunk) -> tuple[HeadGrads, tuple[Array, Array | None]]:
        sums = sums._replace(hidden=_zeros_like(chunk.hidden, task.sums.hidden))
        losses, (dx, dw, db) = steps.losses_and_gradients(
            options, shards, inputs, class_weights, sums, chunk, classes=sizes.classes, alone=alone
        )
        return HeadGrads(None, dw, db), (losses, unscaled(dx, factor, saved.hidden))

    def step(sums: HeadGrads, chunk: TokenChunk) -> tuple[HeadGrads, tuple[Array, Array | None]]:
        nothing = _zeros_like(chunk.labels.standing, inputs.dtype), _zeros_like(chunk.hidden, saved.hidden)
        return layout.skip_if_ignored(chunk.labels, lambda: of_chunk(sums, chunk), lambda: (sums, nothing))

    x, u = layout.to_chunks(inputs.hidden), layout.to_chunks(scale, filler=0)
    x_transposed = None if saved.kernel is None else steps.transposed(x)
    chunks = TokenChunk(x, x_transposed, jax.tree.map(layout.to_chunks, labels), u)
    dw, db = map(_zeros_like, inputs[1:], task.sums[1:])
    apart = steps.first_apart and not alone and isinstance(x.shape[0], int)
    over_chunks = partial(_scan_first_apart, of_chunk) if apart else lax.scan
    (_, dw, db), (losses, dx) = over_chunks(step, HeadGrads(None, dw, db), chunks)
    dx = None if dx is None else layout.from_chunks(dx)
    gradients = HeadGrads(dx, unscaled(dw, factor, saved.kernel), unscaled(db, factor, saved.bias))
    return layout.from_chunks(losses), gradients


def _scan_first_apart(first_step: Callable[..., Any], step: Callable[..., Any], init: Any, xs: Any) -> Any:
    """`lax.scan(step, init, xs)`, of which the first step stands before the loop: XLA sees that zeros are added to.

    Inputs are read, and outputs written, in place: no part of them is held twice.
    """
    chunks = jax.tree.leaves(xs)[0].shape[0]
    carry, first = first_step(init, jax.tree.map(lambda array: array[0], xs))
    outs = jax.tree.map(lambda one: jnp.zeros((chunks, *one.shape), one.dtype).at[0].set(one), first)

    def body(state: Any, i: Array) -> tuple[Any, None]:
        carry, outs = state
        x = jax.tree.map(lambda array: lax.dynamic_index_in_dim(array, i, keepdims=False), xs)
        # In memory: a product that reads its slice itself is slower, on TPU. One by one, as they vary over other axes.
        carry, out = step(carry, jax.tree.map(lax.optimization_barrier, x))
        return (carry, jax.tree.map(lambda whole, one: whole.at[i].set(one), outs, out)), None

    return lax.scan(body, (carry, outs), jnp.arange(1, chunks))[0]


def _zeros_like(array: Array, dtype: Any) -> Array | None:
    """Zeros of the array's shape; None without a dtype."""
    return None if dtype is None else jnp.zeros_like(array, dtype=dtype)
