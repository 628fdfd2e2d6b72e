"""What the fused head is given, which gradients are wanted of it, and the products that it is made of (M16)."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from jaxsoftmax._head.chunk_sizes import HeadSize
from jaxsoftmax._math.precision import accumulation_dtype
from jaxsoftmax._sharding import vma_of


class HeadInputs(NamedTuple):
    """What is differentiated: logits are hidden @ kernel + bias."""

    hidden: Any  # [tokens, embed]
    kernel: Any  # [embed, vocab]
    bias: Any  # [vocab], or None

    @property
    def dtype(self) -> jnp.dtype:
        """The dtype of the logits, the loss and all sums."""
        return accumulation_dtype(*(a.dtype for a in self if a is not None))

    @property
    def product_dtype(self) -> jnp.dtype:
        """The logits' gradient's dtype in products: hidden's and kernel's if equal and >= 2 bytes, else `dtype`."""
        shared = self.hidden.dtype == self.kernel.dtype and self.kernel.dtype.itemsize > 1
        return self.kernel.dtype if shared else self.dtype


class HeadGrads(NamedTuple):
    """Gradients in the inputs, shaped as they are; None where not wanted."""

    hidden: Any
    kernel: Any
    bias: Any


@jax.tree_util.register_static
@dataclass(frozen=True)
class GradSpec:
    """What a gradient has to share with its argument besides the shape."""

    dtype: jnp.dtype
    axes: frozenset[str]  # of the mesh, over which the argument varies

    @classmethod
    def of(cls, argument: Array) -> "GradSpec":
        """The specification of the gradient in this argument."""
        return cls(argument.dtype, vma_of(argument))


class GradSpecs(NamedTuple):
    """The gradients wanted; None where one isn't."""

    hidden: GradSpec | None
    kernel: GradSpec | None
    bias: GradSpec | None


def head_size(inputs: HeadInputs, saved: HeadGrads | None = None) -> HeadSize:
    """What the memory of a head depends on; its gradients are `saved` in these dtypes, or not wanted."""
    (tokens, embed), vocab = inputs.hidden.shape, inputs.kernel.shape[1]
    sums = (False, False) if saved is None else (d not in (None, inputs.dtype) for d in saved[:2])
    return HeadSize(tokens, embed, vocab, inputs.dtype, inputs.product_dtype, *sums)


def sum_dtypes(inputs: HeadInputs, saved: HeadGrads) -> HeadGrads:
    """The dtypes in which gradients are summed before they are cast to `saved`; None for those not wanted."""
    return HeadGrads(*(None if dtype is None else inputs.dtype for dtype in saved))


class TokenChunk(NamedTuple):
    """A chunk of tokens, and the cotangents of what is formed of them."""

    hidden: Any  # x [chunk, embed]
    transposed: Any  # x^T [embed, chunk], where the schedule asks for it in memory; else None
    tokens: Any  # of the objective, [chunk, ...]
    outputs_bar: Any  # [chunk, ...]


class ClassBlock(NamedTuple):
    """Consecutive classes of a shard, at which a gradient is formed: all of them, if no number is given."""

    first: Any = 0
    number: int | None = None

    def of(self, array: Array) -> Array:
        """Its classes of an array [..., local_vocab]."""
        if self.number is None:
            return array
        return lax.dynamic_slice_in_dim(array, self.first, self.number, array.ndim - 1)


def zero_ignored_hidden(hidden: Array, ignored: Array | None) -> Array:
    """The hidden states, 0 where the token is ignored: in dW, a sum over tokens, 0 times inf or NaN would be NaN."""
    return hidden if ignored is None else jnp.where(ignored[:, None], 0, hidden)


def logits_of(hidden: Array, inputs: HeadInputs) -> Array:
    """x W + b of a chunk's hidden states x, in the dtype of the logits."""
    z = dot(hidden, inputs.kernel).astype(inputs.dtype)
    return z if inputs.bias is None else z + inputs.bias.astype(z.dtype)[None]


def dot(a: Array, b: Array, a_axis: int = 1, b_axis: int = 0) -> Array:
    """Sums over a's and b's axis of operands as they are, added up in at least float32.

    The axes are named, and nothing is transposed: XLA CPU would widen a transposed low-precision operand.
    """
    dtype = accumulation_dtype(a.dtype, b.dtype)
    if a.dtype != b.dtype:
        a, b = a.astype(dtype), b.astype(dtype)
    return lax.dot_general(a, b, (((a_axis,), (b_axis,)), ((), ())), preferred_element_type=dtype)
