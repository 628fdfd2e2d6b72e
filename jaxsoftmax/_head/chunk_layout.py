"""Arrays over tokens cut into chunks, with ignored tokens last, and put together again."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array, lax


class ChunkLayout(NamedTuple):
    """How arrays [tokens, ...] become arrays [chunks, chunk, ...]."""

    tokens: int
    chunk: int
    order: Array | None  # of the tokens, with ignored ones last, where a chunk of them alone is skipped; else None

    @property
    def padding(self) -> int:
        """How many tokens the last chunk lacks."""
        return -self.tokens % self.chunk

    def to_chunks(self, array: Array, filler: float | None = None) -> Array:
        """[tokens, ...] as [chunks, chunk, ...], padded with `filler`, or with the last token."""
        array = array if self.order is None else array[self.order]
        if not isinstance(self.padding, int) or self.padding:  # not with zeros, which an infinite kernel would make NaN
            last = array[-1] if filler is None else jnp.asarray(filler, array.dtype)
            padding = jnp.broadcast_to(last, (self.padding, *array.shape[1:]))
            array = jnp.concatenate([array, padding])
        return array.reshape(-(-self.tokens // self.chunk), self.chunk, *array.shape[1:])

    def from_chunks(self, array: Array) -> Array:
        """[chunks, chunk, ...] as [tokens, ...], in the tokens' own order."""
        array = array.reshape(array.shape[0] * self.chunk, *array.shape[2:])[: self.tokens]
        return array if self.order is None else array[jnp.argsort(self.order)]

    def skip_if_ignored(self, ignored: Array | None, work: Callable[[], Any], nothing: Callable[[], Any]) -> Any:
        """`work()` of a chunk; `nothing()` if all of its tokens are `ignored` [chunk]."""
        return work() if self.order is None or ignored is None else lax.cond(jnp.all(ignored), nothing, work)


def chunk_layout(tokens: Any, ignored: Array | None, chunk: int) -> ChunkLayout:
    """The layout of so many tokens, `ignored` [tokens] or none of them; `chunk` is the number of them in each chunk."""
    one_chunk = isinstance(tokens, int) and tokens <= chunk
    return ChunkLayout(tokens, chunk, None if ignored is None or one_chunk else jnp.argsort(ignored))
