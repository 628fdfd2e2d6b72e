"""How much the fused head holds at a time: by what a platform takes by default, or within a budget of bytes.

Of a chunk of c tokens the head holds c V logits, and their gradient for all classes or, on a CPU, for a block of them.
If the kernel's gradient is summed over chunks in a wider dtype than its own, that sum of D V numbers comes on top.
Under a `memory_budget` too small for that, losses of integer labels take all tokens through a block of classes at a
time, and compute the logits twice: four products of 2 N D V flops instead of three.
"""

from typing import Any, NamedTuple

import jax.numpy as jnp

_FEWEST = 128  # tokens or classes: fewer make the products slow


class Settings(NamedTuple):
    """How the caller wants the head to run; None for what the platform takes by default."""

    chunk_size: int | None = None  # tokens whose logits are held at a time
    memory_budget: int | None = None  # bytes of temporary arrays
    schedule: str | None = None  # "pallas": values by a Pallas kernel, where there is one for the platform
    dtype: Any = None  # of the products' operands; None for those that they have
    precision: str | None = None  # of the products, as in `jax.default_matmul_precision`
    transposed_kernel: bool = False  # whether the kernel is given as [vocab, embed]


class Budget(NamedTuple):
    """What a platform takes by default."""

    whole: int  # bytes; logits that fit are computed at once, without chunks or blocks
    tokens: int  # in a chunk, at most; more don't make the products faster
    bytes: int  # of a chunk's logits
    classes: int | None  # in a block of a chunk's gradient; None: all at once
    block: int  # bytes of a block of classes of all tokens, at most, but for `min_block_classes`
    widens: bool  # whether XLA casts low-precision operands of a product to float32
    min_block_classes: int = _FEWEST  # in a block, if they fit: hidden's gradient is read and written once a block


class HeadSize(NamedTuple):
    """What the memory of a head depends on; tokens and vocab may be symbolic, as in `jax.export`."""

    tokens: Any
    embed: int
    vocab: Any
    dtype: jnp.dtype  # of the logits and of sums
    product_dtype: jnp.dtype  # of the logits' gradient
    sums_hidden: bool = False  # whether hidden's gradient needs a sum besides the result
    sums_kernel: bool = False  # whether the kernel's gradient needs a sum besides the result
    in_blocks: bool = True  # whether all tokens may be taken through a block of classes at a time


class ChunkSizes(NamedTuple):
    """How much is held at a time."""

    tokens: int  # whose logits are held
    classes: int  # of whose logits the gradient is held
    all_tokens: bool = False  # whether all tokens are taken through a block of classes, whose logits alone are held


def chunk_sizes(budget: Budget, settings: Settings, size: HeadSize) -> ChunkSizes:
    """What is held at a time on a platform with this budget.

    By default as many tokens as the budget allows in a multiple of 128, or all if their logits are small; where the
    vocabulary is symbolic, 128.
    """
    if settings.memory_budget is not None and isinstance(size.tokens, int) and isinstance(size.vocab, int):
        sizes = _within(settings.memory_budget, budget, settings.chunk_size, size)
    else:
        sizes = ChunkSizes(_by_default(budget, settings.chunk_size, size), size.vocab)
    if sizes.all_tokens or budget.classes is None or not isinstance(size.vocab, int):
        return sizes
    in_blocks = sizes.tokens * _logits_of_token(size) > budget.whole
    return sizes._replace(classes=min(budget.classes, size.vocab)) if in_blocks else sizes


def _by_default(budget: Budget, requested: int | None, size: HeadSize) -> int:
    if requested is None and not isinstance(size.vocab, int):
        requested = _FEWEST
    if requested is None:
        of_token = _logits_of_token(size)
        if isinstance(size.tokens, int) and size.tokens * of_token <= budget.whole:
            requested = size.tokens
        else:
            requested = _bounded(_fitting(budget.bytes, of_token), budget.tokens)
    return _at_most(requested, size.tokens)


def _within(memory: int, budget: Budget, requested: int | None, size: HeadSize) -> ChunkSizes:
    """A chunk of tokens; or a block of classes, where that takes less memory and the chunk would exceed it."""
    of_logit, of_gradient = size.dtype.itemsize, size.product_dtype.itemsize
    if budget.widens and of_gradient < of_logit:
        of_gradient += of_logit
    of_product = size.embed * of_logit  # dX of a token, or dW of a class, before it is rounded
    held = size.vocab if budget.classes is None else min(budget.classes, size.vocab)
    of_token = size.vocab * of_logit + held * of_gradient + of_product
    of_class = size.tokens * (of_logit + of_gradient) + of_product
    of_sums = size.vocab * of_product if size.sums_kernel else 0

    def bytes_of_chunk(tokens: int) -> int:
        at_once = tokens >= size.tokens and budget.classes is None
        return tokens * of_token + (0 if at_once else of_sums)

    chunk = requested
    if chunk is None:
        # Where a gradient in blocks stays in the cache, as on a CPU, a chunk beyond the default one is no faster.
        most = size.tokens if budget.classes is None else _by_default(budget, None, size)
        fitting = _bounded(_fitting(memory - of_sums, of_token), budget.tokens)
        chunk = most if bytes_of_chunk(most) <= memory else fitting
    chunk = _at_most(chunk, size.tokens)
    in_chunks = ChunkSizes(chunk, size.vocab)
    if bytes_of_chunk(chunk) <= memory or not (of_sums and size.in_blocks):
        return in_chunks
    of_hidden = size.tokens * of_product if size.sums_hidden else 0
    free = min(max(memory - of_hidden, memory // 2), budget.block)
    # Beside hidden's sum, unless that alone exceeds the budget; and less than the chunk takes.
    room = min(memory - of_hidden if of_hidden < memory else memory, bytes_of_chunk(chunk) - of_hidden - 1)
    fewest = max(min(budget.min_block_classes, _fitting(room, of_class)), _FEWEST)
    classes = min(max(_fitting(free, of_class), fewest), size.vocab)
    in_blocks = ChunkSizes(size.tokens, classes, all_tokens=True)
    return in_blocks if of_hidden + classes * of_class < bytes_of_chunk(chunk) else in_chunks


def _bounded(tokens: int, most: int) -> int:
    return max(min(tokens, most), _FEWEST)


def _logits_of_token(size: HeadSize) -> int:
    """How many bytes the logits of one token take."""
    return size.vocab * size.dtype.itemsize


def _fitting(memory: int, of_one: int) -> int:
    """How many fit into the memory, in a multiple of 128."""
    return max(memory, 0) // of_one // _FEWEST * _FEWEST


def _at_most(chunk: int, tokens: Any) -> int:
    return max(min(chunk, tokens), 1) if isinstance(tokens, int) else chunk
