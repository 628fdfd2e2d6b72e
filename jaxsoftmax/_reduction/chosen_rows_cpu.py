"""Work on some rows of many, as XLA's CPU compiler runs it well: on the confident ones, say.

The numbers of the chosen rows are listed, and a loop gathers them a block at a time, which stays in the cache.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.custom_batching import custom_vmap

BLOCK = 1 << 18  # entries of the chosen rows that are read at a time


def with_rows_replaced(of_rows: Callable[..., Array], chosen: Array, results: Array, *rows: Array, width: int) -> Array:
    """`results` [rows] with those `chosen` [rows] replaced by `of_rows(indices, *rows)` [len(indices)].

    That is formed of a block of them at a time; `width` is how many entries of a row it reads. Where no row is chosen,
    it isn't run. Under `jax.vmap` there are more rows, not more runs.
    """

    @custom_vmap
    def replaced(chosen: Array, results: Array, *rows: Array) -> Array:
        return lax.cond(jnp.any(chosen), lambda: _replaced(of_rows, chosen, results, rows, width), lambda: results)

    @replaced.def_vmap
    def of_batch(size: int, batched: list[bool], *arrays: Array) -> tuple[Array, bool]:
        if all(batched):
            merged = (array.reshape(-1, *array.shape[2:]) for array in arrays)
            return replaced(*merged).reshape(size, -1), True
        return jax.vmap(replaced.fun, [0 if one else None for one in batched], axis_size=size)(*arrays), True

    return replaced(chosen, results, *rows)


def _replaced(
    of_rows: Callable[..., Array], chosen: Array, results: Array, rows: tuple[Array, ...], width: int
) -> Array:
    count = len(chosen)
    block = max(1, min(count, BLOCK // width))
    # XLA CPU makes machine code of the two small loops; a cumulative sum and scatters take five times their time.
    # Formed of `chosen`, so that inside of a `jax.shard_map` they are sharded as it is.
    nowhere = jnp.pad(jnp.zeros_like(chosen, jnp.int32), (0, block))

    def append(row: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        numbers, length = carry
        with_row = lax.dynamic_update_index_in_dim(numbers, row.astype(numbers.dtype), length, 0)
        return with_row, length + chosen[row].astype(length.dtype)

    numbers, until = lax.fori_loop(0, count, append, (nowhere, nowhere[0]))

    def more(carry: tuple[Array, Array]) -> Array:
        return carry[0] < until

    def step(carry: tuple[Array, Array]) -> tuple[Array, Array]:
        done, results = carry
        indices = lax.dynamic_slice_in_dim(numbers, done, block)
        of_block = of_rows(indices, *rows)

        def replace(i: Array, results: Array) -> Array:
            return lax.dynamic_update_index_in_dim(results, of_block[i], indices[i], 0)

        # Beyond the last chosen row stand any: they are computed too, and dropped.
        return done + block, lax.fori_loop(0, jnp.minimum(block, until - done), replace, results)

    return lax.while_loop(more, step, (nowhere[0], results))[1]
