"""The schedule of the fused head: logits of a chunk of tokens, and their gradient a block of classes at a time.

Tokens are taken in chunks, each with its logits z = x W + b, and blocks of classes of the gradient G of
sum_t u_t l_t in z (M25) are used up as soon as they are formed:

    dx = G W^T,    dW = sum over chunks of x^T G,    db = sum over tokens of G

Ignored tokens, whose loss and gradient are 0, come last: a chunk of them alone is skipped.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from jaxsoftmax import _integer_labels, _lse_state, _shards
from jaxsoftmax._token_loss import LossOptions

# Logits of so few bytes are formed at once, and not in chunks and blocks: they stay in the cache.
SMALL = 16 << 20


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


class Chunk(NamedTuple):
    """How many tokens' logits, and how many classes of their gradient, are held at a time."""

    tokens: int
    classes: int


class Budget(NamedTuple):
    """What bounds a chunk by default."""

    tokens: int  # more don't make the products faster
    bytes: int  # of logits
    classes: int  # in a block of the gradient


CPU = Budget(tokens=512, bytes=256 << 20, classes=2048)
ACCELERATOR = Budget(tokens=4096, bytes=1 << 30, classes=8192)
_FEWEST_TOKENS = 128  # fewer make the products slow, however large the vocabulary


def chunk_of(tokens: int, vocab: int, dtype: jnp.dtype, asked: int | None) -> Chunk:
    """`asked` tokens, or as many as the backend's budget allows in a multiple of 128; all if their logits are small."""
    budget = CPU if jax.default_backend() == "cpu" else ACCELERATOR
    row = vocab * dtype.itemsize
    if asked is None:
        affordable = budget.bytes // row // _FEWEST_TOKENS * _FEWEST_TOKENS
        asked = tokens if tokens * row <= SMALL else max(min(affordable, budget.tokens), _FEWEST_TOKENS)
    size = max(min(asked, tokens), 1)
    return Chunk(size, vocab if size * row <= SMALL else min(budget.classes, vocab))


def losses(
    loss: Callable[[Array, Array], Array], options: LossOptions, chunk: Chunk, head: Head, labels: Array
) -> Array:
    """Losses [tokens]: `loss(hidden, labels)` of each chunk."""
    head, _ = _shards.alike(options.shards, head, labels)

    @jax.checkpoint  # around the choice too: within, it would save what the choice is between
    def of_chunk(tokens):
        x, y = tokens
        return unless_ignored(y, lambda: loss(x, y), lambda: jnp.zeros_like(y, dtype=head.dtype))

    split, join, unless_ignored = _partition(options, chunk, labels)
    return join(lax.map(of_chunk, (split(head.hidden), split(labels))))


def losses_and_gradients(
    options: LossOptions,
    chunk: Chunk,
    wanted: Wanted,
    head: Head,
    scale: Array,
    labels: Array,
    class_weights: Array | None,
) -> tuple[Array, Head]:
    """Losses [tokens], and the gradients wanted of sum_t scale_t l_t in hidden, kernel and bias; else None.

    They are each device's own. They have their arguments' dtypes, but float32 where more is to come before they are
    rounded: a sum over devices that share the argument; or for float16 the cotangent, which may lift them into range.
    """
    vocab, dtype, block = head.kernel.shape[1], head.dtype, chunk.classes
    (head, class_weights), _ = _shards.alike(options.shards, (head, class_weights), (labels, scale))
    axes = _shards.varying(head)
    saved = Head(*(None if kind is None else _saved_dtype(kind, axes) for kind in wanted))
    unit = _unit(options, scale, class_weights) if head.product_dtype == jnp.float16 else None

    def of_chunk(sums, tokens):
        x, x_transposed, y, u = tokens

        def of_block(i, sums):
            dx, dw, db = sums
            first = jnp.minimum(i * block, vocab - block)
            part = partial(lax.dynamic_slice_in_dim, start_index=first, slice_size=block)
            weights = None if class_weights is None else part(class_weights)
            g = _integer_labels.entries(
                options, part(z, axis=1), y, weights, row.state, rows, options.shards.first(vocab) + first
            )
            if vocab % block:  # the last block begins inside of the one before
                g = jnp.where(first + jnp.arange(block) >= i * block, g, 0)
            low = g.astype(head.product_dtype)
            if wanted.hidden is not None:
                dx += _dot(low, _columns(head.kernel, first, block), axis=1)
            if wanted.kernel is not None:
                dw = lax.dynamic_update_slice_in_dim(dw, part(dw, axis=1) + _dot(x_transposed, low), first, 1)
            if wanted.bias is not None:
                db = lax.dynamic_update_slice_in_dim(db, part(db) + jnp.sum(g, 0), first, 0)
            return dx, dw, db

        z = logits(x, head)
        in_one = block == vocab  # else the exponentials are formed again, block by block
        losses, row = _integer_labels.primal(options, z, y, class_weights, None, reused=in_one)
        rows = _integer_labels.coefficients(options, z, y, None, row, u)
        dx = jnp.zeros_like(x, dtype=dtype) if wanted.hidden is not None else None
        dx, *sums = lax.fori_loop(0, -(-vocab // block), of_block, (dx, *sums))
        return tuple(sums), (losses, None if dx is None else _lifted(dx, unit, saved.hidden))

    def step(sums, tokens):
        x, _, y, _ = tokens
        dx = jnp.zeros_like(x, dtype=saved.hidden) if wanted.hidden is not None else None
        nothing = (jnp.zeros_like(y, dtype=dtype), dx)
        return unless_ignored(y, lambda: of_chunk(sums, tokens), lambda: (sums, nothing))

    dw = jnp.zeros_like(head.kernel, dtype=dtype) if wanted.kernel is not None else None
    db = jnp.zeros_like(head.bias, dtype=dtype) if wanted.bias is not None else None
    split, join, unless_ignored = _partition(options, chunk, labels)
    x, y = split(head.hidden), split(labels)
    u = split(scale if unit is None else scale / unit, filler=0)
    # In memory, as XLA CPU is slow at x.T @ g.
    x_transposed = lax.optimization_barrier(jnp.swapaxes(x, 1, 2)) if wanted.kernel is not None else None
    (dw, db), (losses, dx) = lax.scan(step, (dw, db), (x, x_transposed, y, u))
    dx = None if dx is None else join(dx)
    dw = None if dw is None else _lifted(dw, unit, saved.kernel)
    db = None if db is None else _lifted(db, unit, saved.bias)
    return join(losses), Head(dx, dw, db)


def _unit(options: LossOptions, scale: Array, class_weights: Array | None) -> Array:
    """A power of two, about 2^-10 of the gradient's largest entry: multiples of it keep within float16's range."""
    factors = [scale] if class_weights is None else [scale, class_weights.astype(scale.dtype)]
    largest = (lax.stop_gradient(jnp.max(jnp.abs(factor), initial=0)) for factor in factors)
    exponents = (jnp.frexp(options.shards.maximum(one))[1] for one in largest)
    return jnp.ldexp(jnp.ones((), scale.dtype), jnp.clip(sum(exponents) - 10, -100, 100))


def _lifted(gradient: Array, unit: Array | None, dtype: jnp.dtype) -> Array:
    return (gradient if unit is None else gradient * unit).astype(dtype)


def _saved_dtype(kind: Kind, axes: frozenset[str]) -> jnp.dtype:
    early = kind.dtype != jnp.float16 and axes <= kind.axes
    return kind.dtype if early else _lse_state.accumulation_dtype(kind.dtype)


class _Partition(NamedTuple):
    """How arrays over tokens are cut into chunks, and put together again."""

    split: Callable[..., Array]  # [tokens, ...] to [chunks, chunk, ...], filled up with `filler`, or the last token
    join: Callable[[Array], Array]
    unless_ignored: Callable[..., Any]  # work() of a chunk with these labels; nothing() if all are ignored


def _partition(options: LossOptions, chunk: Chunk, labels: Array) -> _Partition:
    """Where there are several chunks ignored tokens come last, and a chunk of them alone is skipped."""
    tokens = len(labels)
    chunks = -(-tokens // chunk.tokens)
    missing = chunks * chunk.tokens - tokens
    skips = options.ignore_index is not None and chunks > 1
    order = jnp.argsort(_integer_labels.is_ignored(options, labels)) if skips else None
    places = jnp.argsort(order) if order is not None else None

    def split(array: Array, filler: float | None = None) -> Array:
        array = array if order is None else array[order]
        if missing:  # not with zeros, which an infinite kernel would make NaN
            last = array[-1] if filler is None else jnp.asarray(filler, array.dtype)
            array = jnp.concatenate([array, jnp.broadcast_to(last, (missing, *array.shape[1:]))])
        return array.reshape(chunks, chunk.tokens, *array.shape[1:])

    def join(array: Array) -> Array:
        array = array.reshape(chunks * chunk.tokens, *array.shape[2:])[:tokens]
        return array if places is None else array[places]

    def unless_ignored(labels: Array, work: Callable[[], Any], nothing: Callable[[], Any]) -> Any:
        return lax.cond(jnp.all(_integer_labels.is_ignored(options, labels)), nothing, work) if skips else work()

    return _Partition(split, join, unless_ignored)


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
