"""A chunk of tokens whose gradient is formed a block of classes at a time: the schedule of the fused head for XLA CPU.

With all the chunk's logits z = x W + b at hand, a block of the gradient G of Σ_t u_t l_t in z (M25) is used up as soon
as it is formed, while it is in the cache:

    dx = G W^T,    dW = x^T G,    db = Σ_t G_t        (M16)

A block is a range of classes: columns of G, W and dW, and entries of db. To all of dx it adds a term.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax import Array, lax

from jaxsoftmax import _integer_labels
from jaxsoftmax._head.problem import HeadGrads, HeadInputs, TokenChunk, dot, logits_of
from jaxsoftmax._math.token_loss import LossOptions
from jaxsoftmax._sharding import Shards


def transposed(hidden: Array) -> Array:
    """Chunks of hidden states [..., chunk, embed] transposed in memory, as XLA CPU is slow at x.T @ g."""
    return lax.optimization_barrier(jnp.swapaxes(hidden, -1, -2))


def losses_and_gradients(
    options: LossOptions,
    shards: Shards,
    inputs: HeadInputs,
    class_weights: Array | None,
    sums: HeadGrads,
    chunk: TokenChunk,
    classes: int,
    alone: bool,
) -> tuple[Array, HeadGrads]:
    """Losses [chunk], the chunk's own dx, and `sums` of dW and db with its part added; None where `sums` has None.

    So many `classes` of G are held at a time, whether the chunk is `alone` or not.
    """
    del alone
    # In memory: of a product and its sum with a bias, which it would fuse into some users, XLA CPU holds both.
    z = lax.optimization_barrier(logits_of(chunk.hidden, inputs))
    vocab = z.shape[-1]
    losses, stats = _integer_labels.losses_and_stats(options, shards, z, chunk.labels, class_weights, None)
    coefs = _integer_labels.gradient_coefs_of(options, shards, z, chunk.labels, None, stats, chunk.scale)
    offset = shards.class_offset(vocab)

    def with_block(i: Array, sums: HeadGrads) -> HeadGrads:
        first = jnp.minimum(i * classes, vocab - classes)
        weights = None if class_weights is None else lax.dynamic_slice_in_dim(class_weights, first, classes)
        block = lax.dynamic_slice_in_dim(z, first, classes, 1)
        g = _integer_labels.gradient_entries(
            options, shards, block, chunk.labels, weights, stats.state, coefs, offset, first
        )
        if vocab % classes:  # the last block begins inside of the one before
            g = jnp.where(first + lax.broadcasted_iota(jnp.int32, (1, classes), 1) >= i * classes, g, 0)
        return _with_products(inputs, chunk, sums, first, g)

    return losses, lax.fori_loop(0, -(-vocab // classes), with_block, sums)


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
