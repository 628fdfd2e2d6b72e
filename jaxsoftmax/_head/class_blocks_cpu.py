"""A chunk of tokens whose gradient is formed a block of classes at a time: the schedule of the fused head for XLA CPU.

With all the chunk's logits z = x W + b at hand, a block of the objective's gradient G in z (M25) is used up as soon as
it is formed, while it is in the cache:

    dx = G W^T,    dW = x^T G,    db = Σ_t G_t        (M16)

A block is a range of classes: columns of G, W and dW, and entries of db. To all of dx it adds a term.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax import Array, lax

from jaxsoftmax._head.problem import HeadGrads, HeadInputs, TokenChunk, dot, logits_of
from jaxsoftmax._objective import Formed, Objective
from jaxsoftmax._sharding import Shards


def transposed(hidden: Array) -> Array:
    """Chunks of hidden states [..., chunk, embed] transposed in memory, as XLA CPU is slow at x.T @ g."""
    return lax.optimization_barrier(jnp.swapaxes(hidden, -1, -2))


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

    So many `classes` of G are held at a time, whether the chunk is `alone` or not.
    """
    del alone
    # In memory: of a product and its sum with a bias, which it would fuse into some users, XLA CPU holds both.
    z = lax.optimization_barrier(logits_of(chunk.hidden, inputs))
    vocab = z.shape[-1]
    equations, objective = objective.equations, objective.of(chunk.tokens)
    formed = equations.form(objective, shards, z)
    coefs = equations.coefs(objective, shards, z, formed.stats, chunk.outputs_bar)
    offset = shards.class_offset(vocab)

    def with_block(i: Array, sums: HeadGrads) -> HeadGrads:
        first = jnp.minimum(i * classes, vocab - classes)
        block = lax.dynamic_slice_in_dim(z, first, classes, 1)
        of_block = objective.of_classes(first, classes)
        g = equations.entries(of_block, shards, block, formed.stats, coefs, offset, first)
        if vocab % classes:  # the last block begins inside of the one before
            g = jnp.where(first + lax.broadcasted_iota(jnp.int32, (1, classes), 1) >= i * classes, g, 0)
        return _with_products(inputs, chunk, sums, first, g)

    return formed, lax.fori_loop(0, -(-vocab // classes), with_block, sums)


def _with_products(inputs: HeadInputs, chunk: TokenChunk, sums: HeadGrads, first: Array, g: Array) -> HeadGrads:
    """The sums with what a block of G, of which `first` is the first class, adds to them."""
    dx, dw, db = sums
    classes, low = g.shape[-1], g.astype(inputs.product_dtype)
    if dx is not None:
        dx += dot(low, columns(inputs.kernel, first, classes), b_axis=1)  # G W^T (M16)
    if dw is not None:
        block = lax.dynamic_slice_in_dim(dw, first, classes, 1) + dot(chunk.transposed, low)  # x^T G (M16)
        dw = lax.dynamic_update_slice_in_dim(dw, block, first, 1)
    if db is not None:
        entries = lax.dynamic_slice_in_dim(db, first, classes) + jnp.sum(g, 0)  # Σ_t G_t (M16)
        db = lax.dynamic_update_slice_in_dim(db, entries, first, 0)
    return HeadGrads(dx, dw, db)


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
