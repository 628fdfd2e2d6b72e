"""What the rules of the fused head are made of: its losses, and its gradients, by the schedule of the platform."""

from functools import partial
from typing import Any

import jax.numpy as jnp
from jax import Array

from jaxsoftmax import _integer_labels
from jaxsoftmax._head import class_blocks, schedules, token_chunks
from jaxsoftmax._head.chunk_sizes import ChunkSizes, Settings, chunk_sizes
from jaxsoftmax._head.gradient_task import gradient_task
from jaxsoftmax._head.problem import GradSpecs, HeadGrads, HeadInputs, head_size, logits_of
from jaxsoftmax._head.rounding import saved_dtypes
from jaxsoftmax._head.schedules import Steps
from jaxsoftmax._math.token_loss import LossOptions
from jaxsoftmax._sharding import Shards, vma_of
from jaxsoftmax._token_labels import TokenLabels


def losses(
    options: LossOptions,
    shards: Shards,
    settings: Settings,
    inputs: HeadInputs,
    labels: TokenLabels,
    class_weights: Array | None,
) -> Array:
    """Losses l_t [tokens]."""

    def by_steps(
        _steps: Steps, sizes: ChunkSizes, inputs: HeadInputs, labels: TokenLabels, class_weights: Array | None
    ) -> Array:
        def of_chunk(x: Array, y: TokenLabels) -> Array:
            return _integer_labels.losses_and_stats(options, shards, logits_of(x, inputs), y, class_weights, None)[0]

        return token_chunks.losses_of_tokens(of_chunk, options, shards, sizes.tokens, inputs, labels)

    def by_pallas(inputs: HeadInputs, labels: TokenLabels, class_weights: Array | None) -> Array:
        from jaxsoftmax._head import pallas_tpu  # Pallas takes longer to import than this package

        own = pallas_tpu.shard_stats(options, shards, False, inputs, labels, class_weights)
        vocab = inputs.kernel.shape[1]
        return _integer_labels.losses_of_shards(options, shards, own, labels, class_weights, vocab)[0]

    sizes_of = partial(chunk_sizes, settings=settings, size=head_size(inputs))
    on_tpu = by_pallas if settings.schedule == "pallas" and _suits_pallas(inputs) else None
    return schedules.by_platform(by_steps, sizes_of, inputs, labels, class_weights, on_tpu=on_tpu)


def losses_and_gradients(
    options: LossOptions,
    shards: Shards,
    settings: Settings,
    wanted: GradSpecs,
    inputs: HeadInputs,
    scale: Array,
    labels: TokenLabels,
    class_weights: Array | None,
) -> tuple[Array, HeadGrads]:
    """Losses l_t [tokens], and the gradients wanted of Σ_t scale_t l_t; None of the others.

    The gradients are each device's own, in the dtypes of `saved_dtypes`.
    """
    saved = saved_dtypes(wanted, vma_of((inputs, scale, labels, class_weights)).union(shards.classes))

    def by_steps(steps: Steps, sizes: ChunkSizes, *given: Any) -> tuple[Array, HeadGrads]:
        loop = class_blocks if sizes.all_tokens else token_chunks
        return loop.losses_and_gradients(steps, sizes, gradient_task(options, shards, saved, *given))

    sizes_of = partial(chunk_sizes, settings=settings, size=head_size(inputs, saved))
    return schedules.by_platform(by_steps, sizes_of, inputs, scale, labels, class_weights)


def _suits_pallas(inputs: HeadInputs) -> bool:
    """Whether the Pallas kernel takes inputs of these sizes and dtypes."""
    known = all(isinstance(size, int) and size > 0 for array in inputs[:2] for size in array.shape)
    dtypes = {str(array.dtype) for array in inputs[:2]}
    return known and dtypes in ({"float32"}, {"bfloat16"}) and inputs.dtype == jnp.float32
