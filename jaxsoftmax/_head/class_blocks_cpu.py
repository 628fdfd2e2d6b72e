"""A chunk of tokens whose gradient is formed a block of classes at a time: the schedule of the fused head for XLA CPU.

With all the chunk's logits z = x W + b at hand, a block of the objective's gradient G in z (M25) is used up as soon as
it is formed, while it is in the cache:

    dx = G W^T,    dW = x^T G,    db = Σ_t G_t        (M16)

A block is a range of classes: columns of G, W and dW, and entries of db. To all of dx it adds a term.
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jax import Array, lax

from jaxsoftmax._head import problem
from jaxsoftmax._head.problem import ClassBlock, HeadGrads, HeadInputs, TokenChunk, dot
from jaxsoftmax._head.rounding import as_operand, rescaled


def transposed(hidden: Array) -> Array:
    """Chunks of hidden states [..., chunk, embed] transposed in memory, as XLA CPU is slow at x.T @ g."""
    return lax.optimization_barrier(jnp.swapaxes(hidden, -1, -2))


def logits(hidden: Array, inputs: HeadInputs) -> Array:
    """The chunk's logits, behind a barrier: XLA CPU would otherwise hold both x W and x W + b.

    Low-precision hidden states get one too: where both operands are transposed, XLA CPU transposes the product instead,
    and then can't run it.
    """
    hidden = hidden if hidden.dtype.itemsize > 2 else lax.optimization_barrier(hidden)
    return lax.optimization_barrier(problem.logits_of(hidden, inputs))


def add_products(
    inputs: HeadInputs,
    chunk: TokenChunk,
    sums: HeadGrads,
    entries: Callable[[ClassBlock], Array],
    classes: int,
    alone: bool,
) -> HeadGrads:
    """The chunk's dx, and `sums` of dW and db with its part added; None where `sums` has None.

    `entries(block)` is G at a block of classes; `classes` of them are held at a time. `alone` has no effect.
    """
    del alone
    vocab = inputs.kernel.shape[1]

    def with_block(i: Array, sums: HeadGrads) -> HeadGrads:
        first = jnp.minimum(i * classes, vocab - classes)
        g = entries(ClassBlock(first, classes))
        if vocab % classes:  # the last block begins inside of the one before
            g = jnp.where(first + lax.broadcasted_iota(jnp.int32, (1, classes), 1) >= i * classes, g, 0)
        return _with_products(inputs, chunk, sums, first, g)

    return lax.fori_loop(0, -(-vocab // classes), with_block, sums)


def _with_products(inputs: HeadInputs, chunk: TokenChunk, sums: HeadGrads, first: Array, g: Array) -> HeadGrads:
    """The sums with what a block of G, of which `first` is the first class, adds to them."""
    dx, dw, db = sums
    classes, (low, scale) = g.shape[-1], as_operand(g, inputs.product_dtype)
    if dx is not None:
        dx += rescaled(_product(low, columns(inputs.kernel, first, classes), b_axis=1), scale)  # G W^T (M16)
    if dw is not None:
        block = rescaled(_product(chunk.transposed, low), scale)  # x^T G (M16)
        block += lax.dynamic_slice_in_dim(dw, first, classes, 1)
        dw = lax.dynamic_update_slice_in_dim(dw, block, first, 1)
    if db is not None:
        entries = lax.dynamic_slice_in_dim(db, first, classes) + jnp.sum(g, 0)  # Σ_t G_t (M16)
        db = lax.dynamic_update_slice_in_dim(db, entries, first, 0)
    return HeadGrads(dx, dw, db)


def _product(a: Array, b: Array, b_axis: int = 0) -> Array:
    """`dot`, with a barrier after a low-precision product: XLA CPU can't run it with a transpose folded in."""
    product = dot(a, b, b_axis=b_axis)
    narrow = a.dtype == b.dtype != product.dtype
    return lax.optimization_barrier(product) if narrow else product


@partial(jax.custom_jvp, nondiff_argnums=(2,))
def columns(kernel: Array, first: Array, count: int) -> Array:
    """`count` columns of the kernel from `first` on; low precision as bits, or XLA CPU widens all of it for a slice."""
    if kernel.dtype.itemsize > 2:
        return lax.dynamic_slice_in_dim(kernel, first, count, 1)
    bits = lax.bitcast_convert_type(kernel, f"uint{8 * kernel.dtype.itemsize}")
    return lax.bitcast_convert_type(lax.dynamic_slice_in_dim(bits, first, count, 1), kernel.dtype)


@columns.defjvp
def _columns_jvp(count, primals, tangents):
    kernel, first = primals
    return columns(kernel, first, count), lax.dynamic_slice_in_dim(tangents[0], first, count, 1)
