"""A chunk of tokens of the fused head: its logits and losses, and its gradient a block of classes at a time.

With all the chunk's logits z = x W + b at hand, a block of the gradient G of sum_t u_t l_t in z (M25) is used up as
soon as it is formed:

    dx = G W^T,    dW = x^T G,    db = sum_t G_t        (M16)

A block is a range of classes: columns of G, W and dW, and entries of db. To all of dx it adds a term.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from jaxsoftmax import _integer_labels, _lse_state, _shards
from jaxsoftmax._token_loss import LossOptions


class Head(NamedTuple):
    """What is differentiated: logits are hidden @ kernel + bias."""

    hidden: Any  # [tokens, embed]
    kernel: Any  # [embed, vocab]
    bias: Any  # [vocab], or None

    @property
    def dtype(self) -> jnp.dtype:
        """Of the logits, the loss and all sums."""
        return _lse_state.accumulation_dtype(*(a.dtype for a in self if a is not None))

    @property
    def product_dtype(self) -> jnp.dtype:
        """Of the logits' gradient where it is multiplied: that of hidden and kernel, if it is theirs and a wide one."""
        alike = self.hidden.dtype == self.kernel.dtype and self.kernel.dtype.itemsize > 1
        return self.kernel.dtype if alike else self.dtype


@jax.tree_util.register_static
@dataclass(frozen=True)
class Kind:
    """What a gradient shares with its argument besides the shape."""

    dtype: jnp.dtype
    axes: frozenset[str]  # of the mesh, over which it varies

    @classmethod
    def of(cls, argument: Array) -> "Kind":
        """The kind of an argument."""
        return cls(argument.dtype, _shards.varying(argument))


class Wanted(NamedTuple):
    """The gradients asked for; None of the others."""

    hidden: Kind | None
    kernel: Kind | None
    bias: Kind | None


class Tokens(NamedTuple):
    """The tokens of a chunk, and the weights of their losses."""

    hidden: Any  # x [tokens, embed]
    transposed: Any  # x^T [embed, tokens]; None where the kernel's gradient isn't wanted
    labels: Any  # y [tokens]
    scale: Any  # u [tokens]


class _Block(NamedTuple):
    """Consecutive classes."""

    first: Array
    size: int

    def of(self, array: Array, axis: int = 0) -> Array:
        """The entries of these classes, which are along `axis`."""
        return lax.dynamic_slice_in_dim(array, self.first, self.size, axis)

    def put(self, array: Array, entries: Array, axis: int = 0) -> Array:
        """The array with these entries instead."""
        return lax.dynamic_update_slice_in_dim(array, entries, self.first, axis)


def losses_and_gradients(
    options: LossOptions,
    classes: int,
    wanted: Wanted,
    head: Head,
    class_weights: Array | None,
    sums: Head,
    tokens: Tokens,
) -> tuple[Array, Head]:
    """Losses [tokens] of a chunk, and the gradients wanted: its own dx, and `sums` of dW and db with its part added.

    All have the dtype of sums. So many `classes` of G are held at a time. `head` has the hidden states of all tokens;
    the chunk's are in `tokens`.
    """
    x, _, y, u = tokens
    vocab = head.kernel.shape[1]
    z = logits(x, head)
    in_one = classes == vocab  # else the exponentials are formed again, block by block
    losses, row = _integer_labels.primal(options, z, y, class_weights, None, reused=in_one)
    rows = _integer_labels.coefficients(options, z, y, None, row, u)

    def with_block(i: Array, sums: Head) -> Head:
        block = _Block(jnp.minimum(i * classes, vocab - classes), classes)
        weights = None if class_weights is None else block.of(class_weights)
        g = _integer_labels.entries(
            options, block.of(z, axis=1), y, weights, row.state, rows, options.shards.first(vocab) + block.first
        )
        if vocab % classes:  # the last block begins inside of the one before
            g = jnp.where(block.first + jnp.arange(classes) >= i * classes, g, 0)
        return _with_products(head, tokens, block, g, sums)

    dx = jnp.zeros_like(x, dtype=head.dtype) if wanted.hidden is not None else None
    return losses, lax.fori_loop(0, -(-vocab // classes), with_block, sums._replace(hidden=dx))


def _with_products(head: Head, tokens: Tokens, block: _Block, g: Array, sums: Head) -> Head:
    """The sums with what a block of G adds to them; None where they aren't wanted."""
    dx, dw, db = sums
    low = g.astype(head.product_dtype)
    if dx is not None:
        dx += _dot(low, _columns(head.kernel, block.first, block.size), axis=1)  # G W^T (M16)
    if dw is not None:
        dw = block.put(dw, block.of(dw, axis=1) + _dot(tokens.transposed, low), axis=1)  # x^T G (M16)
    if db is not None:
        db = block.put(db, block.of(db) + jnp.sum(g, 0))  # sum_t G_t (M16)
    return Head(dx, dw, db)


def logits(x: Array, head: Head) -> Array:
    """x W + b of a chunk's hidden states x, at accumulation precision."""
    z = _dot(x, head.kernel).astype(head.dtype)
    return z if head.bias is None else z + head.bias.astype(z.dtype)


def _dot(a: Array, b: Array, axis: int = 0) -> Array:
    """Sums of a's last axis with b's `axis`, of operands as they are, added up in at least float32.

    The axis is named, and b isn't transposed: XLA CPU would widen a transposed low-precision operand.
    """
    dtype = _lse_state.accumulation_dtype(a.dtype, b.dtype)
    if a.dtype != b.dtype:
        a, b = a.astype(dtype), b.astype(dtype)
    return lax.dot_general(a, b, (((1,), (axis,)), ((), ())), preferred_element_type=dtype)


@partial(jax.custom_jvp, nondiff_argnums=(2,))
def _columns(kernel: Array, first: Array, count: int) -> Array:
    """`count` columns of the kernel from `first` on; low precision as bits, or XLA CPU widens all of it for a slice."""
    if kernel.dtype.itemsize > 2:
        return lax.dynamic_slice_in_dim(kernel, first, count, 1)
    bits = lax.bitcast_convert_type(kernel, f"uint{8 * kernel.dtype.itemsize}")
    return lax.bitcast_convert_type(lax.dynamic_slice_in_dim(bits, first, count, 1), kernel.dtype)


@_columns.defjvp
def _columns_jvp(count, primals, tangents):
    kernel, first = primals
    return _columns(kernel, first, count), lax.dynamic_slice_in_dim(tangents[0], first, count, 1)
