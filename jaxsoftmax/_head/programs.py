"""What the rules of the fused head are made of: outputs, and their gradients, by the schedule of the platform."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jaxsoftmax import _integer_labels
from jaxsoftmax._head import class_blocks, schedules, token_chunks
from jaxsoftmax._head.chunk_sizes import ChunkSizes, Settings, chunk_sizes
from jaxsoftmax._head.gradient_task import gradient_task
from jaxsoftmax._head.problem import GradSpecs, HeadGrads, HeadInputs, head_size, logits_of
from jaxsoftmax._head.products import as_operands, with_precision
from jaxsoftmax._head.rounding import saved_dtypes
from jaxsoftmax._head.schedules import Steps
from jaxsoftmax._objective import Objective
from jaxsoftmax._sharding import Shards, vma_of


def outputs(shards: Shards, settings: Settings, inputs: HeadInputs, objective: Objective) -> tuple[Any, Any]:
    """Outputs and extras [tokens, ...] of the objective."""
    inputs = as_operands(settings, inputs)

    def by_steps(_steps: Steps, sizes: ChunkSizes, inputs: HeadInputs, objective: Objective) -> tuple[Any, Any]:
        def of_chunk(x: Array, of_tokens: Objective) -> tuple[Any, Any]:
            return of_tokens.equations.evaluate(of_tokens, shards, logits_of(x, inputs))[:2]

        return token_chunks.outputs_of_tokens(of_chunk, shards, sizes.tokens, inputs, objective)

    def by_pallas(inputs: HeadInputs, objective: Objective) -> tuple[Array, None]:
        from jaxsoftmax._head import pallas_tpu  # Pallas takes longer to import than this package

        own = pallas_tpu.shard_stats(shards, False, inputs, objective)
        return _integer_labels.losses_of_shards(objective, shards, own, inputs.kernel.shape[1])[0], None

    sizes_of = partial(chunk_sizes, settings=settings, size=head_size(inputs))
    on_tpu = by_pallas if settings.schedule == "pallas" and _suits_pallas(inputs, objective) else None
    with with_precision(settings):
        return schedules.by_platform(by_steps, sizes_of, inputs, objective, on_tpu=on_tpu)


def outputs_and_gradients(
    shards: Shards, settings: Settings, wanted: GradSpecs, inputs: HeadInputs, outputs_bar: Any, objective: Objective
) -> tuple[Any, Any, HeadGrads]:
    """Outputs and extras [tokens, ...], and the gradients wanted of Σ <outputs_bar, outputs>; None of the others.

    The gradients are each device's own, in the dtypes of `saved_dtypes`.
    """
    inputs = as_operands(settings, inputs)
    saved = saved_dtypes(wanted, vma_of((inputs, outputs_bar, objective)).union(shards.classes))

    def by_steps(steps: Steps, sizes: ChunkSizes, *given: Any) -> tuple[Any, Any, HeadGrads]:
        loop = class_blocks if sizes.all_tokens else token_chunks
        return loop.outputs_and_gradients(steps, sizes, gradient_task(shards, saved, *given))

    in_blocks = objective.equations in (_integer_labels.LOSSES, _integer_labels.LOSSES_WITH_PARTS)
    size = head_size(inputs, saved)._replace(in_blocks=in_blocks)
    with with_precision(settings):
        sizes_of = partial(chunk_sizes, settings=settings, size=size)
        return schedules.by_platform(by_steps, sizes_of, inputs, outputs_bar, objective)


def _suits_pallas(inputs: HeadInputs, objective: Objective) -> bool:
    """Whether the Pallas kernel takes inputs of these sizes and dtypes, and the objective."""
    known = all(isinstance(size, int) and size > 0 for array in inputs[:2] for size in array.shape)
    dtypes = {str(array.dtype) for array in inputs[:2]}
    suits = known and dtypes in ({"float32"}, {"bfloat16"}) and inputs.dtype == jnp.float32
    return suits and objective.equations == _integer_labels.LOSSES and not jax.tree.leaves(objective.options)
