"""How much of the logits the fused head holds at a time."""

import jax.numpy as jnp
import pytest

from jaxsoftmax._head.schedules import CPU, DEFAULT, ChunkSizes, chunk_sizes

FLOAT32, FLOAT64 = jnp.dtype("float32"), jnp.dtype("float64")
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
    arguments, expected = ON_CPU[name]
    assert chunk_sizes(CPU.budget, *arguments) == expected


def test_chunk_on_an_accelerator_fills_a_gibibyte_with_whole_rows():
    assert chunk_sizes(DEFAULT.budget, 8192, 256000, FLOAT32, None) == ChunkSizes(1024, 256000)
    assert chunk_sizes(DEFAULT.budget, 16384, 32000, FLOAT32, None) == ChunkSizes(4096, 32000)
