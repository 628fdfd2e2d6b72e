"""A chunk of tokens over all classes at once: the default schedule of the fused head.

The gradient G of the objective in the chunk's logits z = x W + b (M25) is formed whole and multiplied at once:

    dx = G W^T,    dW = x^T G,    db = Σ_t G_t        (M16)
"""

from collections.abc import Callable

import jax.numpy as jnp
from jax import Array, lax

from jaxsoftmax._head import problem
from jaxsoftmax._head.problem import ClassBlock, HeadGrads, HeadInputs, TokenChunk, dot
from jaxsoftmax._head.rounding import as_operand, rescaled


def logits(hidden: Array, inputs: HeadInputs) -> Array:
    """The chunk's logits."""
    return problem.logits_of(hidden, inputs)


def add_products(
    inputs: HeadInputs,
    chunk: TokenChunk,
    sums: HeadGrads,
    entries: Callable[[ClassBlock], Array],
    classes: int,
    alone: bool,
) -> HeadGrads:
    """The chunk's dx, and `sums` of dW and db with its part added; None where `sums` has None.

    `entries(ClassBlock())` is all of G. `alone`: the chunk is the only one. `classes` has no effect.
    """
    del classes
    g = entries(ClassBlock())
    low, scale = as_operand(g, inputs.product_dtype)
    if not alone:
        # In memory, or each of the two products of a loop would form the exponentials again. XLA for TPU finds out by
        # itself what is best of a chunk alone: on a v5e it is to form them again.
        low = lax.optimization_barrier(low)
    dx, dw, db = sums
    return HeadGrads(
        None if dx is None else rescaled(dot(low, inputs.kernel, b_axis=1), scale),
        None if dw is None else dw + rescaled(dot(chunk.hidden, low, a_axis=0), scale),
        None if db is None else db + jnp.sum(g, 0),
    )


def transposed(hidden: Array) -> None:
    """Nothing: a product takes x as it is."""
    del hidden


def columns(kernel: Array, first: Array, count: int) -> Array:
    """`count` columns of the kernel from `first` on."""
    return lax.dynamic_slice_in_dim(kernel, first, count, 1)
