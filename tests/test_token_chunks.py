"""How much of the logits the fused head holds at a time."""

import jax
import jax.numpy as jnp
import pytest

from jaxsoftmax._token_chunks import Chunk, chunk_of

FLOAT32, FLOAT64 = jnp.dtype("float32"), jnp.dtype("float64")
CPU = {
    "all logits, where they fill at most 16 MiB": ((4096, 1024, FLOAT32, None), Chunk(4096, 1024)),
    "one token more": ((4097, 1024, FLOAT32, None), Chunk(512, 1024)),
    "a block of classes, where a chunk's logits fill more": ((4096, 8193, FLOAT32, None), Chunk(512, 2048)),
    "256 MiB of logits": ((4096, 131072, FLOAT32, None), Chunk(512, 2048)),
    "half the tokens of twice the vocabulary": ((4096, 262144, FLOAT32, None), Chunk(256, 2048)),
    "half the tokens of twice the bytes": ((4096, 131072, FLOAT64, None), Chunk(256, 2048)),
    "at least 128 tokens": ((4096, 1 << 20, FLOAT32, None), Chunk(128, 2048)),
    "no more tokens than there are": ((100, 131072, FLOAT32, None), Chunk(100, 2048)),
    "no token": ((0, 7, FLOAT32, None), Chunk(1, 7)),
    "as many as asked for": ((4096, 131072, FLOAT32, 1000), Chunk(1000, 2048)),
    "asked for more than there are": ((10, 7, FLOAT32, 1000), Chunk(10, 7)),
}


@pytest.mark.parametrize("name", CPU)
def test_chunk_on_a_cpu_is(name, monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "cpu")
    arguments, expected = CPU[name]
    assert chunk_of(*arguments) == expected


def test_chunk_on_an_accelerator_fills_a_gibibyte(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert chunk_of(8192, 256000, FLOAT32, None) == Chunk(1024, 8192)
    assert chunk_of(16384, 32000, FLOAT32, None) == Chunk(4096, 8192)
