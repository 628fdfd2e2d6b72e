"""Work on some rows of many, as XLA's CPU compiler runs it well: on the confident ones, say.

The numbers of the chosen rows are put in order, and a loop gathers them a block at a time, which stays in the cache.
"""

from collections.abc import Callable

import jax.numpy as jnp
from jax import Array, lax

BLOCK = 1 << 18  # entries of the chosen rows that are read at a time


def with_rows_replaced(of_rows: Callable[[Array], Array], chosen: Array, rows: Array, width: int) -> Array:
    """`rows` [rows, ...] with those `chosen` [rows] replaced by `of_rows(indices)` [len(indices), ...].

    That is formed of a block of them at a time; `width` is how many entries of a row it reads. Where no row is chosen,
    it isn't run, but under `jax.vmap`.
    """
    count = len(chosen)
    block = max(1, min(count, BLOCK // width))

    def with_chosen() -> Array:
        until = jnp.cumsum(chosen.astype(jnp.int32))
        places = jnp.where(chosen, until - 1, count + block)
        order = jnp.zeros(count + block, jnp.int32).at[places].set(jnp.arange(count, dtype=jnp.int32), mode="drop")

        def more(carry: tuple[Array, Array]) -> Array:
            return carry[0] < until[-1]

        def step(carry: tuple[Array, Array]) -> tuple[Array, Array]:
            # Beyond the last chosen row stands row 0: it is computed too, and dropped.
            done, results = carry
            indices = lax.dynamic_slice_in_dim(order, done, block)
            kept = jnp.where(done + jnp.arange(block, dtype=jnp.int32) < until[-1], indices, count)
            return done + block, results.at[kept].set(of_rows(indices), mode="drop")

        return lax.while_loop(more, step, (jnp.zeros((), jnp.int32), rows))[1]

    return lax.cond(jnp.any(chosen), with_chosen, lambda: rows)
