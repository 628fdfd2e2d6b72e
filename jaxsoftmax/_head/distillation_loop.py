"""The loop of distillation between two fused heads: only one chunk of tokens ever has its logits, of both heads.

With the divergence's gradients G and G' in a chunk's logits of student and teacher (M29, M30)

    dx = G W^T,  dW = x^T G,  db = Σ_t G_t        (M16)

of each head, for those gradients that are wanted.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
from jax import Array, lax

from jaxsoftmax._divergence import divergences_of, pair_stats, weighted_gradients
from jaxsoftmax._head.chunk_layout import chunk_layout
from jaxsoftmax._head.chunk_loop import scan_chunks, zeros_like
from jaxsoftmax._head.chunk_sizes import ChunkSizes
from jaxsoftmax._head.problem import ClassBlock, HeadGrads, HeadInputs, TokenChunk, sum_dtypes
from jaxsoftmax._head.rounding import as_saved
from jaxsoftmax._head.schedules import Steps
from jaxsoftmax._math.divergence import Divergence
from jaxsoftmax._math.loss_options import LossOptions
from jaxsoftmax._sharding import Shards


class Head(NamedTuple):
    """One of the two heads."""

    inputs: HeadInputs
    saved: HeadGrads  # the dtypes that gradients are saved in; None for those not wanted

    @property
    def sums(self) -> HeadGrads:
        """The dtypes in which gradients are summed; None for those not wanted."""
        return sum_dtypes(self.inputs, self.saved)

    @property
    def is_wanted(self) -> bool:
        """Whether any gradient is."""
        return any(dtype is not None for dtype in self.saved)


class DistillationGradientTask(NamedTuple):
    """What the loop is to form: divergences D_t, and the gradients of Σ_t scale_t D_t."""

    shards: Shards
    divergence: Divergence
    options: LossOptions
    heads: tuple[Head, ...]  # of the student, and of the teacher
    scale: Array  # [tokens]


def losses_and_gradients(
    steps: Steps, sizes: ChunkSizes, task: DistillationGradientTask
) -> tuple[Array, tuple[HeadGrads, ...]]:
    """Divergences [tokens], and each device's own gradients of the student's and the teacher's inputs."""
    heads, layout = task.heads, chunk_layout(task.scale.shape[0], None, sizes.tokens)
    alone = isinstance(layout.tokens, int) and layout.tokens <= layout.chunk
    step = partial(_of_chunk, steps, sizes, task, alone)
    chunks = tuple(_chunks(steps, layout, head, task.scale) for head in heads)
    zeros = tuple(HeadGrads(None, *map(zeros_like, head.inputs[1:], head.sums[1:])) for head in heads)
    first_step = step if steps.first_apart and not alone else None
    sums, (losses, dx) = scan_chunks(step, zeros, chunks, first_step)
    grads = tuple(
        HeadGrads(
            None if dx_ is None else layout.from_chunks(dx_),
            as_saved(dw, head.saved.kernel),
            as_saved(db, head.saved.bias),
        )
        for head, (_, dw, db), dx_ in zip(heads, sums, dx, strict=True)
    )
    return layout.from_chunks(losses), grads


def _of_chunk(
    steps: Steps,
    sizes: ChunkSizes,
    task: DistillationGradientTask,
    alone: bool,
    sums: tuple[HeadGrads, ...],
    chunks: tuple[TokenChunk, ...],
) -> tuple[tuple[HeadGrads, ...], tuple[Array, tuple[Array | None, ...]]]:
    """The sums with a chunk's part; its divergences, and the dx of each head as they are saved."""
    shards, divergence, options, heads, _ = task
    z, u = (steps.logits(chunk.hidden, head.inputs) for chunk, head in zip(chunks, heads, strict=True))
    stats = pair_stats(shards, divergence, options, z, u)

    def gradient(of: int, block: ClassBlock) -> Array:
        return weighted_gradients(divergence, options, block.of(z), block.of(u), stats, chunks[of].outputs_bar)[of]

    def products(of: int) -> tuple[HeadGrads, Array | None]:
        head, chunk = heads[of], chunks[of]
        if not head.is_wanted:
            return sums[of], None
        zeros = sums[of]._replace(hidden=zeros_like(chunk.hidden, head.sums.hidden))
        dx, dw, db = steps.add_products(head.inputs, chunk, zeros, partial(gradient, of), sizes.classes, alone)
        return HeadGrads(None, dw, db), as_saved(dx, head.saved.hidden)

    of_heads = [products(of) for of in range(len(heads))]
    return tuple(sum_ for sum_, _ in of_heads), (divergences_of(divergence, stats), tuple(dx for _, dx in of_heads))


def losses_of_tokens(losses: Any, chunk_size: int, student: Array, teacher: Array, options: LossOptions) -> Array:
    """Losses [tokens]: `losses(student, teacher, options)` of the hidden states of each chunk of tokens."""
    layout = chunk_layout(student.shape[0], None, chunk_size)

    @jax.checkpoint
    def of_chunk(hidden: tuple[Array, Array]) -> Array:
        return losses(*hidden, options)

    return layout.from_chunks(lax.map(of_chunk, (layout.to_chunks(student), layout.to_chunks(teacher))))


def _chunks(steps: Steps, layout: Any, head: Head, scale: Array) -> TokenChunk:
    x = layout.to_chunks(head.inputs.hidden)
    transposed = None if head.saved.kernel is None else steps.transposed(x)
    return TokenChunk(x, transposed, None, layout.to_chunks(scale, filler=0))
