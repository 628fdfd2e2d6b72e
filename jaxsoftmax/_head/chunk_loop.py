"""A loop over chunks of tokens whose sums start at 0."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax


def scan_chunks(
    step: Callable[..., Any], init: Any, xs: Any, first_step: Callable[..., Any] | None = None
) -> tuple[Any, Any]:
    """`lax.scan(step, init, xs)`, with the first iteration peeled off if `first_step` is given.

    Peeled, it writes its sums instead of adding them to zeros. Inputs are read, and outputs written, in place: no part
    of them is held twice.
    """
    chunks = jax.tree.leaves(xs)[0].shape[0]
    if first_step is None or not isinstance(chunks, int):
        return lax.scan(step, init, xs)
    carry, first = first_step(init, jax.tree.map(lambda array: array[0], xs))
    outs = jax.tree.map(lambda one: jnp.zeros((chunks, *one.shape), one.dtype).at[0].set(one), first)

    def body(state: Any, i: Array) -> tuple[Any, None]:
        carry, outs = state
        x = jax.tree.map(lambda array: lax.dynamic_index_in_dim(array, i, keepdims=False), xs)
        # A barrier per slice: on TPU a product that reads its own slice is slower. Slices may vary over different axes.
        carry, out = step(carry, jax.tree.map(lax.optimization_barrier, x))
        return (carry, jax.tree.map(lambda whole, one: whole.at[i].set(one), outs, out)), None

    return lax.scan(body, (carry, outs), jnp.arange(1, chunks))[0]


def zeros_like(array: Array, dtype: Any) -> Array | None:
    """Zeros of the array's shape; None without a dtype."""
    return None if dtype is None else jnp.zeros_like(array, dtype=dtype)
