"""A chunk of tokens over all classes at once: the default schedule of the fused head.

The gradient G of Σ_t u_t l_t in the chunk's logits z = x W + b (M25) is formed whole and multiplied at once:

    dx = G W^T,    dW = x^T G,    db = Σ_t G_t        (M16)
"""

import jax.numpy as jnp
from jax import Array, lax

from jaxsoftmax import _integer_labels
from jaxsoftmax._head.problem import HeadGrads, HeadInputs, TokenChunk, dot, logits_of
from jaxsoftmax._math.token_loss import LossOptions
from jaxsoftmax._sharding import Shards


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

    All `classes` are held at once. A chunk may be `alone`, without others.
    """
    del classes
    z = logits_of(chunk.hidden, inputs)
    losses, stats = _integer_labels.losses_and_stats(options, shards, z, chunk.labels, class_weights, None)
    coefs = _integer_labels.gradient_coefs_of(options, shards, z, chunk.labels, None, stats, chunk.scale)
    offset = shards.class_offset(z.shape[-1])
    g = _integer_labels.gradient_entries(options, shards, z, chunk.labels, class_weights, stats.state, coefs, offset)
    low = g.astype(inputs.product_dtype)
    if not alone:
        # In memory, or each of the two products of a loop would form the exponentials again. XLA for TPU finds out by
        # itself what is best of a chunk alone: on a v5e it is to form them again.
        low = lax.optimization_barrier(low)
    dx, dw, db = sums
    return losses, HeadGrads(
        None if dx is None else dot(low, inputs.kernel, b_axis=1),
        None if dw is None else dw + dot(chunk.hidden, low, a_axis=0),
        None if db is None else db + jnp.sum(g, 0),
    )


def transposed(hidden: Array) -> None:
    """Nothing: a product takes x as it is."""
    del hidden


def columns(kernel: Array, first: Array, count: int) -> Array:
    """`count` columns of the kernel from `first` on."""
    return lax.dynamic_slice_in_dim(kernel, first, count, 1)
