"""The loop of the fused head over chunks of tokens: only one chunk ever has its logits.

Each chunk has its own losses and dx; dW and db are sums over chunks. Ignored tokens, whose loss and gradient are 0,
come last: a chunk of them alone is skipped.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from jaxsoftmax._head.chunk_layout import chunk_layout
from jaxsoftmax._head.problem import GradSpec, GradSpecs, HeadGrads, HeadInputs, TokenChunk
from jaxsoftmax._head.schedules import Schedule, chunk_sizes
from jaxsoftmax._math.precision import accumulation_dtype
from jaxsoftmax._math.token_loss import LossOptions
from jaxsoftmax._sharding import Shards, match_vma, vma_of
from jaxsoftmax._token_labels import TokenLabels


def losses_of_tokens(
    loss: Callable[[Array, TokenLabels], Array],
    options: LossOptions,
    shards: Shards,
    chunk: int,
    inputs: HeadInputs,
    labels: TokenLabels,
) -> Array:
    """Losses [tokens]: `loss(hidden, labels)` of each chunk of tokens."""
    inputs, _ = match_vma(shards, inputs, labels.standing)
    layout = chunk_layout(options, labels, chunk)

    @jax.checkpoint  # around the choice too: within, it would save what the choice is between
    def of_chunk(tokens):
        x, y = tokens
        nothing = jnp.zeros_like(y.standing, dtype=inputs.dtype)
        return layout.skip_if_ignored(y, lambda: loss(x, y), lambda: nothing)

    tokens = zero_ignored_hidden(options, inputs.hidden, labels), labels
    return layout.from_chunks(lax.map(of_chunk, jax.tree.map(layout.to_chunks, tokens)))


def losses_and_gradients(
    schedule: Schedule,
    options: LossOptions,
    shards: Shards,
    requested: int | None,
    wanted: GradSpecs,
    inputs: HeadInputs,
    scale: Array,
    labels: TokenLabels,
    class_weights: Array | None,
) -> tuple[Array, HeadGrads]:
    """Losses [tokens], and the gradients wanted of Σ_t scale_t l_t in hidden, kernel and bias; None of the others.

    The gradients are each device's own. They have their arguments' dtypes, but float32 where more is to come before
    they are rounded: a sum over devices that share the argument; or for float16 the cotangent, which may bring them
    into its range.
    """
    sizes = chunk_sizes(schedule.budget, scale.shape[0], inputs.kernel.shape[1], inputs.dtype, requested)
    layout = chunk_layout(options, labels, sizes.tokens)
    (inputs, class_weights), _ = match_vma(shards, (inputs, class_weights), (labels.standing, scale))
    saved = _saved_dtypes(wanted, vma_of(inputs))
    loss_scale = _loss_scale(shards, scale, class_weights) if inputs.product_dtype == jnp.float16 else None

    def of_chunk(sums: HeadGrads, chunk: TokenChunk) -> tuple[HeadGrads, tuple[Array, Array | None]]:
        sums = sums._replace(hidden=_zeros_like(chunk.hidden, wanted.hidden and inputs.dtype))
        losses, (dx, dw, db) = schedule.losses_and_gradients(
            options, shards, inputs, class_weights, sums, chunk, classes=sizes.classes
        )
        return HeadGrads(None, dw, db), (losses, _unscaled(dx, loss_scale, saved.hidden))

    def step(sums: HeadGrads, chunk: TokenChunk) -> tuple[HeadGrads, tuple[Array, Array | None]]:
        nothing = _zeros_like(chunk.labels.standing, inputs.dtype), _zeros_like(chunk.hidden, saved.hidden)
        return layout.skip_if_ignored(chunk.labels, lambda: of_chunk(sums, chunk), lambda: (sums, nothing))

    x = layout.to_chunks(zero_ignored_hidden(options, inputs.hidden, labels))
    u = layout.to_chunks(scale if loss_scale is None else scale / loss_scale, filler=0)
    x_transposed = None if wanted.kernel is None else schedule.transposed(x)
    chunks = TokenChunk(x, x_transposed, jax.tree.map(layout.to_chunks, labels), u)
    dw, db = (_zeros_like(array, spec and inputs.dtype) for array, spec in zip(inputs[1:], wanted[1:], strict=True))
    (_, dw, db), (losses, dx) = lax.scan(step, HeadGrads(None, dw, db), chunks)
    dx = None if dx is None else layout.from_chunks(dx)
    gradients = HeadGrads(dx, _unscaled(dw, loss_scale, saved.kernel), _unscaled(db, loss_scale, saved.bias))
    return layout.from_chunks(losses), gradients


def zero_ignored_hidden(options: LossOptions, hidden: Array, labels: TokenLabels) -> Array:
    """The hidden states, 0 where the token is ignored: in dW, a sum over tokens, 0 times inf or NaN would be NaN."""
    return hidden if options.ignore_index is None else jnp.where(labels.ignored[:, None], 0, hidden)


def _loss_scale(shards: Shards, scale: Array, class_weights: Array | None) -> Array:
    """A power of two, about 2^-10 of the gradient's largest entry: multiples of it keep within float16's range."""
    factors = [scale] if class_weights is None else [scale, class_weights.astype(scale.dtype)]
    largest = (lax.stop_gradient(jnp.max(jnp.abs(factor), initial=0)) for factor in factors)
    exponents = (jnp.frexp(shards.pmax(one))[1] for one in largest)
    return jnp.ldexp(jnp.ones((), scale.dtype), jnp.clip(sum(exponents) - 10, -100, 100))


def _unscaled(gradient: Array | None, loss_scale: Array | None, dtype: jnp.dtype) -> Array | None:
    """The gradient without the loss scale, in the dtype that it is saved in."""
    return None if gradient is None else (gradient if loss_scale is None else gradient * loss_scale).astype(dtype)


def _zeros_like(array: Array, dtype: Any) -> Array | None:
    """Zeros of the array's shape; None without a dtype."""
    return None if dtype is None else jnp.zeros_like(array, dtype=dtype)


def _saved_dtypes(wanted: GradSpecs, axes: frozenset[str]) -> HeadGrads:
    """The dtypes of the gradients of inputs that vary over `axes`, before sums over devices and the cotangent."""

    def saved(spec: GradSpec) -> jnp.dtype:
        final = spec.dtype != jnp.float16 and axes <= spec.axes
        return spec.dtype if final else accumulation_dtype(spec.dtype)

    return HeadGrads(*(None if spec is None else saved(spec) for spec in wanted))
