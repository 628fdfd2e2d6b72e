"""The schedule of the fused head: which tokens are at work when, so that only a chunk of them ever has its logits.

Each chunk has its own losses and dx; dW and db are sums over chunks. Ignored tokens, whose loss and gradient are 0,
come last: a chunk of them alone is skipped.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from jaxsoftmax import _class_blocks, _integer_labels, _lse_state, _shards
from jaxsoftmax._class_blocks import Head, Kind, Tokens, Wanted
from jaxsoftmax._token_loss import LossOptions

# Logits of so few bytes are formed at once, and not in chunks and blocks: they stay in the cache.
SMALL = 16 << 20


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
    return join(lax.map(of_chunk, (split(_counted(options, head.hidden, labels)), split(labels))))


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
    (head, class_weights), _ = _shards.alike(options.shards, (head, class_weights), (labels, scale))
    axes = _shards.varying(head)
    saved = Head(*(None if kind is None else _saved_dtype(kind, axes) for kind in wanted))
    unit = _unit(options, scale, class_weights) if head.product_dtype == jnp.float16 else None

    def of_chunk(sums, tokens):
        losses, (dx, dw, db) = _class_blocks.losses_and_gradients(
            options, chunk.classes, wanted, head, class_weights, sums, tokens
        )
        return Head(None, dw, db), (losses, _lifted(dx, unit, saved.hidden))

    def step(sums, tokens):
        dx = jnp.zeros_like(tokens.hidden, dtype=saved.hidden) if wanted.hidden is not None else None
        nothing = (jnp.zeros_like(tokens.labels, dtype=head.dtype), dx)
        return unless_ignored(tokens.labels, lambda: of_chunk(sums, tokens), lambda: (sums, nothing))

    dw = jnp.zeros_like(head.kernel, dtype=head.dtype) if wanted.kernel is not None else None
    db = jnp.zeros_like(head.bias, dtype=head.dtype) if wanted.bias is not None else None
    split, join, unless_ignored = _partition(options, chunk, labels)
    x, y = split(_counted(options, head.hidden, labels)), split(labels)
    u = split(scale if unit is None else scale / unit, filler=0)
    # In memory, as XLA CPU is slow at x.T @ g.
    x_transposed = lax.optimization_barrier(jnp.swapaxes(x, 1, 2)) if wanted.kernel is not None else None
    (_, dw, db), (losses, dx) = lax.scan(step, Head(None, dw, db), Tokens(x, x_transposed, y, u))
    dx = None if dx is None else join(dx)
    gradients = Head(dx, _lifted(dw, unit, saved.kernel), _lifted(db, unit, saved.bias))
    return join(losses), gradients


def _counted(options: LossOptions, hidden: Array, labels: Array) -> Array:
    """The hidden states, 0 where the token is ignored: in dW, a sum over tokens, 0 times inf or NaN would be NaN."""
    if options.ignore_index is None:
        return hidden
    return jnp.where(_integer_labels.is_ignored(options, labels)[:, None], 0, hidden)


def _unit(options: LossOptions, scale: Array, class_weights: Array | None) -> Array:
    """A power of two, about 2^-10 of the gradient's largest entry: multiples of it keep within float16's range."""
    factors = [scale] if class_weights is None else [scale, class_weights.astype(scale.dtype)]
    largest = (lax.stop_gradient(jnp.max(jnp.abs(factor), initial=0)) for factor in factors)
    exponents = (jnp.frexp(options.shards.maximum(one))[1] for one in largest)
    return jnp.ldexp(jnp.ones((), scale.dtype), jnp.clip(sum(exponents) - 10, -100, 100))


def _lifted(gradient: Array | None, unit: Array | None, dtype: jnp.dtype) -> Array | None:
    return None if gradient is None else (gradient if unit is None else gradient * unit).astype(dtype)


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
