"""A chunk of tokens over all classes at once: the default schedule of the fused head.

The gradient G of the objective in the chunk's logits z = x W + b (M25) is formed whole and multiplied at once:

    dx = G W^T,    dW = x^T G,    db = Σ_t G_t        (M16)
"""

import jax.numpy as jnp
from jax import Array, lax

from jaxsoftmax._head.problem import HeadGrads, HeadInputs, TokenChunk, dot, logits_of
from jaxsoftmax._objective import Formed, Objective
from jaxsoftmax._sharding import Shards


def formed_and_gradients(
    objective: Objective,
    shards: Shards,
    inputs: HeadInputs,
    sums: HeadGrads,
    chunk: TokenChunk,
    classes: int,
    alone: bool,
) -> tuple[Formed, HeadGrads]:
    """What is formed of the chunk's logits, its dx, and `sums` of dW and db with its part; None where `sums` has None.

    All `classes` are held at once. A chunk may be `alone`, without others.
    """
    del classes
    z = logits_of(chunk.hidden, inputs)
    equations, objective = objective.equations, objective.of(chunk.tokens)
    formed = equations.form(objective, shards, z)
    coefs = equations.coefs(objective, shards, z, formed.stats, chunk.outputs_bar)
    g = equations.entries(objective, shards, z, formed.stats, coefs, shards.class_offset(z.shape[-1]))
    return formed, with_products(inputs, chunk, sums, g, alone)


def with_products(inputs: HeadInputs, chunk: TokenChunk, sums: HeadGrads, g: Array, alone: bool) -> HeadGrads:
    """The chunk's dx, and `sums` of dW and db with what G adds; None where `sums` has None (M16)."""
    low = g.astype(inputs.product_dtype)
    if not alone:
        # In memory, or each of the two products of a loop would form the exponentials again. XLA for TPU finds out by
        # itself what is best of a chunk alone: on a v5e it is to form them again.
        low = lax.optimization_barrier(low)
    dx, dw, db = sums
    if dw is not None:
        by_rows = chunk.transposed is None
        dw += dot(chunk.hidden, low, a_axis=0) if by_rows else dot(chunk.transposed, low)
    return HeadGrads(
        None if dx is None else dot(low, inputs.kernel, b_axis=1), dw, None if db is None else db + jnp.sum(g, 0)
    )


def transposed(hidden: Array) -> None:
    """Nothing: a product takes x as it is."""
    del hidden


def columns(kernel: Array, first: Array, count: int) -> Array:
    """`count` columns of the kernel from `first` on."""
    return lax.dynamic_slice_in_dim(kernel, first, count, 1)
