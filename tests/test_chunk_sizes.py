"""How much of the logits the fused head holds at a time, by the platform's default and within a budget of bytes."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxsoftmax._head.chunk_sizes import ChunkSizes, HeadSize, Settings, chunk_sizes
from jaxsoftmax._head.schedules import CPU, DEFAULT, TPU

FLOAT32, FLOAT64, BFLOAT16 = jnp.dtype("float32"), jnp.dtype("float64"), jnp.dtype("bfloat16")
ON_CPU = {
    "all logits, where they fill at most 16 MiB": ((4096, 1024, FLOAT32, None), ChunkSizes(4096, 1024)),
    "one token more": ((4097, 1024, FLOAT32, None), ChunkSizes(512, 1024)),
    "a block of classes, where a chunk's logits fill more": ((4096, 8193, FLOAT32, None), ChunkSizes(512, 2048)),
    "256 MiB of logits": ((4096, 131072, FLOAT32, None), ChunkSizes(512, 2048)),
    "half the tokens of twice the vocabulary": ((4096, 262144, FLOAT32, None), ChunkSizes(256, 2048)),
    "half the tokens of twice the bytes": ((4096, 131072, FLOAT64, None), ChunkSizes(256, 2048)),
    "at least 128 tokens": ((4096, 1 << 20, FLOAT32, None), ChunkSizes(128, 2048)),
    "no more tokens than there are": ((100, 131072, FLOAT32, None), ChunkSizes(100, 2048)),
    "no token": ((0, 7, FLOAT32, None), ChunkSizes(1, 7)),
    "as many as asked for": ((4096, 131072, FLOAT32, 1000), ChunkSizes(1000, 2048)),
    "asked for more than there are": ((10, 7, FLOAT32, 1000), ChunkSizes(10, 7)),
}


@pytest.mark.parametrize("name", ON_CPU)
def test_chunk_on_a_cpu_is(name):
    (tokens, vocab, dtype, requested), expected = ON_CPU[name]
    size = HeadSize(tokens, 64, vocab, dtype, dtype)
    assert chunk_sizes(CPU.budget, Settings(requested), size) == expected


def narrow(tokens, embed, vocab, sums=True):
    """Of hidden states and a kernel in bfloat16."""
    return HeadSize(tokens, embed, vocab, FLOAT32, BFLOAT16, sums, sums)


def test_chunk_on_a_gpu_fills_a_gibibyte_with_whole_rows_and_on_a_tpu_two():
    assert chunk_sizes(DEFAULT.budget, Settings(), narrow(8192, 2304, 256000)) == ChunkSizes(1024, 256000)
    assert chunk_sizes(DEFAULT.budget, Settings(), narrow(16384, 64, 32000)) == ChunkSizes(4096, 32000)
    assert chunk_sizes(TPU.budget, Settings(), narrow(8192, 4096, 128256)) == ChunkSizes(8192, 128256)  # all
    assert chunk_sizes(TPU.budget, Settings(), narrow(32768, 4096, 128256)) == ChunkSizes(4096, 128256)
    assert chunk_sizes(TPU.budget, Settings(), narrow(8192, 4096, 1 << 20)) == ChunkSizes(512, 1 << 20)


LARGE = narrow(8192, 4096, 128256)
OF_TOKEN = 128256 * (4 + 2) + 4096 * 4  # logits and their gradient, and what hidden's is before it is rounded
OF_SUMS = 4096 * 128256 * 4
WITHIN = {
    "all tokens": (Settings(None, 8192 * OF_TOKEN), LARGE, ChunkSizes(8192, 128256)),
    "a byte less": (Settings(None, 8192 * OF_TOKEN - 1), LARGE, ChunkSizes(4096, 128256)),
    "beside the kernel's sums": (Settings(None, OF_SUMS + 1000 * OF_TOKEN), LARGE, ChunkSizes(896, 128256)),
    "128 tokens beside these": (Settings(None, OF_SUMS + 128 * OF_TOKEN), LARGE, ChunkSizes(128, 128256)),
    "a byte less than that": (Settings(None, OF_SUMS + 128 * OF_TOKEN - 1), LARGE, ChunkSizes(8192, 1792, True)),
    "no room for these": (Settings(None, 256 << 20), LARGE, ChunkSizes(8192, 1792, True)),
    "no sums, as of a frozen kernel": (
        Settings(None, 512 << 20),
        LARGE._replace(sums_kernel=False),
        ChunkSizes(640, 128256),
    ),
    "hidden's sum is the larger": (Settings(None, 512 << 20), narrow(65536, 4096, 32000), ChunkSizes(128, 32000)),
    "the same, but it isn't wanted": (
        Settings(None, 512 << 20),
        narrow(65536, 4096, 32000)._replace(sums_hidden=False),
        ChunkSizes(65536, 1024, True),
    ),
    "less than hidden's sum": (Settings(None, 256 << 20), narrow(32768, 4096, 128256), ChunkSizes(32768, 1024, True)),
    "no room for 1024 classes": (Settings(None, 64 << 20), narrow(32768, 4096, 128256), ChunkSizes(32768, 256, True)),
    "1024 classes not beside hidden's sum": (
        Settings(None, 300 << 20),
        narrow(32768, 1024, 128256),
        ChunkSizes(32768, 896, True),
    ),
    "1024 classes would take more than a chunk": (
        Settings(None, 256 << 20),
        narrow(32768, 4096, 40000),
        ChunkSizes(32768, 640, True),
    ),
    "next to nothing": (Settings(None, 1), LARGE, ChunkSizes(8192, 128, True)),
    "a chunk as asked for": (Settings(1000, OF_SUMS + 1000 * OF_TOKEN), LARGE, ChunkSizes(1000, 128256)),
    "a chunk as asked for, and no room": (Settings(1000, 512 << 20), LARGE, ChunkSizes(8192, 1792, True)),
    "no token": (Settings(None, 1), narrow(0, 4, 9), ChunkSizes(1, 9)),
}


@pytest.mark.parametrize("name", WITHIN)
def test_chunk_within_a_budget_of_bytes_is(name):
    settings, size, expected = WITHIN[name]
    assert chunk_sizes(TPU.budget, settings, size) == expected


def bytes_held(sizes, size):
    """The bytes that `sizes` holds by a schedule of whole rows: logits, their gradient, and sums before rounding."""
    of_product = 4 * size.embed
    if sizes.all_tokens:
        return size.tokens * of_product * size.sums_hidden + sizes.classes * (size.tokens * (4 + 2) + of_product)
    of_sums = size.vocab * of_product if sizes.tokens < size.tokens and size.sums_kernel else 0
    return sizes.tokens * (size.vocab * (4 + 2) + of_product) + of_sums


def test_blocks_of_at_least_1024_classes_exceed_no_budget_that_smaller_ones_keep():
    random = np.random.default_rng(0)
    small, gained = DEFAULT.budget._replace(min_block_classes=128), 0
    for _ in range(2000):
        tokens, embed, vocab, memory = (int(2**x) for x in random.uniform([10, 6, 12, 24], [18, 13, 18, 33]))
        size = narrow(tokens, embed, vocab, random.random() < 0.8)
        plan, smaller = (chunk_sizes(budget, Settings(None, memory), size) for budget in (DEFAULT.budget, small))
        assert bytes_held(plan, size) <= memory or bytes_held(smaller, size) > memory, (size, memory)
        gained += plan.classes > smaller.classes
    assert gained > 50


def test_on_a_cpu_a_chunk_within_a_budget_has_its_gradient_in_blocks_of_classes_too():
    assert chunk_sizes(CPU.budget, Settings(None, 4 << 30), LARGE) == ChunkSizes(512, 2048)


def test_on_a_cpu_a_large_budget_changes_nothing():
    for tokens, vocab in ((8192, 32768), (1024, 8192), (64, 100)):
        size = narrow(tokens, 256, vocab)
        assert chunk_sizes(CPU.budget, Settings(None, 8 << 30), size) == chunk_sizes(CPU.budget, Settings(), size)


def test_on_a_cpu_the_blocks_of_one_chunk_are_added_up_too():
    one_chunk = narrow(512, 768, 131072)
    of_logits, of_sums = 512 * (131072 * 4 + 2048 * 6 + 768 * 4), 768 * 131072 * 4
    assert chunk_sizes(CPU.budget, Settings(None, of_logits + of_sums), one_chunk) == ChunkSizes(512, 2048)
    assert chunk_sizes(CPU.budget, Settings(None, of_logits), one_chunk).all_tokens
    assert not chunk_sizes(TPU.budget, Settings(None, 512 * (131072 * 6 + 768 * 4)), one_chunk).all_tokens
