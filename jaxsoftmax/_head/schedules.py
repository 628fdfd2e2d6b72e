"""Which schedule the fused head follows: a table by the platform that the program is lowered for.

A schedule takes one chunk of tokens through all classes. To add one, for instance as a Pallas kernel, give it a module
beside `whole_rows`, and a row here.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array, lax

from jaxsoftmax._head import class_blocks_cpu, whole_rows
from jaxsoftmax._head.problem import HeadGrads

# Logits of so few bytes are formed at once, and not in chunks and blocks: they stay in the cache.
UNCHUNKED_MAX_BYTES = 16 << 20
_FEWEST_TOKENS = 128  # fewer make the products slow, however large the vocabulary


class ChunkSizes(NamedTuple):
    """How many tokens' logits, and how many classes of their gradient, are held at a time."""

    tokens: int
    classes: int


class Budget(NamedTuple):
    """What bounds a chunk by default."""

    tokens: int  # more don't make the products faster
    bytes: int  # of logits
    classes: int | None  # in a block of the gradient; None: all


class Schedule(NamedTuple):
    """How a chunk of tokens is taken through all classes.

    `losses_and_gradients` is that of `whole_rows`, and takes `classes`, the classes of the gradient that are held at a
    time. It has to be differentiable, for second derivatives. `transposed` takes the hidden states of all chunks, and
    gives `TokenChunk.transposed` of each, or None.
    """

    budget: Budget
    losses_and_gradients: Callable[..., tuple[Array, HeadGrads]]
    transposed: Callable[[Array], Array | None]


def _whole_rows(*arguments: Any, classes: int) -> tuple[Array, HeadGrads]:
    return whole_rows.losses_and_gradients(*arguments)


def _nothing(hidden: Array) -> None:
    return None


CPU = Schedule(
    Budget(tokens=512, bytes=256 << 20, classes=2048),
    class_blocks_cpu.losses_and_gradients,
    class_blocks_cpu.transposed,
)
DEFAULT = Schedule(Budget(tokens=4096, bytes=1 << 30, classes=None), _whole_rows, _nothing)
BY_PLATFORM = {"cpu": CPU}
ON_EVERY_PLATFORM = CPU.budget  # for a chunk whose size may not depend on the platform


def by_platform(work: Callable[..., Any], *arguments: Any) -> Any:
    """`work(schedule, *arguments)` with the schedule of the platform that the program is lowered for."""
    others = {platform: partial(work, schedule) for platform, schedule in BY_PLATFORM.items()}
    return lax.platform_dependent(*arguments, default=partial(work, DEFAULT), **others)


def chunk_sizes(budget: Budget, tokens: int, vocab: int, dtype: jnp.dtype, requested: int | None) -> ChunkSizes:
    """`requested` tokens, or as many as the budget allows in a multiple of 128; all if their logits are small.

    Where the vocabulary is symbolic, as in `jax.export`, 128 unless requested.
    """
    known_tokens, known_vocab = isinstance(tokens, int), isinstance(vocab, int)
    row = vocab * dtype.itemsize if known_vocab else None
    size = requested
    if size is None:
        size = _FEWEST_TOKENS if row is None else _tokens_within(budget, row)
        if known_tokens and row is not None and tokens * row <= UNCHUNKED_MAX_BYTES:
            size = tokens
    size = max(min(size, tokens), 1) if known_tokens else size
    if budget.classes is None or row is None or size * row <= UNCHUNKED_MAX_BYTES:
        return ChunkSizes(size, vocab)
    return ChunkSizes(size, min(budget.classes, vocab))


def _tokens_within(budget: Budget, row: int) -> int:
    affordable = budget.bytes // row // _FEWEST_TOKENS * _FEWEST_TOKENS
    return max(min(affordable, budget.tokens), _FEWEST_TOKENS)
