"""The fused head a block of classes at a time, of all tokens: the schedule of a small memory budget.

Two loops over the blocks W_b of the kernel. The first forms the logits z_b = x W_b + b_b for the rows' statistics (M18,
M22); the second forms them again, and their gradient G_b (M25), which is used up at once:

    dx += G_b W_b^T,    dW_b = x^T G_b,    db_b = Σ_t G_tb        (M16)

A block of dW is written once, in the dtype that it is saved in. `chunk_sizes` takes this loop where that is narrower
than the sum of dW over chunks of tokens, which isn't held here.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from jaxsoftmax import _integer_labels
from jaxsoftmax._head.chunk_sizes import ChunkSizes
from jaxsoftmax._head.gradient_task import GradientTask
from jaxsoftmax._head.problem import HeadGrads, HeadInputs, dot, logits_of
from jaxsoftmax._head.rounding import as_operand, as_saved, rescaled
from jaxsoftmax._head.schedules import Steps
from jaxsoftmax._integer_labels import LabelStats, ShardStats
from jaxsoftmax._math.loss_options import loss_logits
from jaxsoftmax._math.lse_state import LseState, shifted_logits
from jaxsoftmax._objective import Objective
from jaxsoftmax._reduction import schedules as reduction
from jaxsoftmax._reduction.row_state import lse_state
from jaxsoftmax._sharding import Shards, merge_stacked


def outputs_and_gradients(steps: Steps, sizes: ChunkSizes, task: GradientTask) -> tuple[Array, Any, HeadGrads]:
    """Losses [tokens], their parts if wanted, and each device's own gradients; None of those not wanted."""
    shards, saved, inputs, losses_bar, objective = task
    blocks = _Blocks(steps, inputs, objective, sizes.classes)
    own, of_label, predicted = _statistics(shards, blocks)
    losses, rows = _integer_labels.losses_of_shards(objective, shards, own, blocks.vocab)
    stats = LabelStats(rows.state, rows.label_margin)
    coefs = _integer_labels.gradient_coefs(objective, shards, of_label, stats, losses_bar, blocks.vocab)
    parts = None
    if objective.equations == _integer_labels.LOSSES_WITH_PARTS:
        label = objective.tokens.labels.local + shards.class_offset(blocks.vocab)
        parts = _integer_labels.token_parts(objective, rows, predicted == label)

    def gradient_block(i: Array) -> Array:
        block, objective, first = blocks.at(i)
        x = logits_of(inputs.hidden, block)
        offset = shards.class_offset(blocks.vocab)
        return objective.equations.gradient_entries(objective, shards, x, stats, coefs, offset, first)

    return losses, parts, _products(blocks, saved, gradient_block)


class _Blocks(NamedTuple):
    """Kernel, bias and class weights, cut into blocks; the last one may begin inside of the one before."""

    steps: Steps
    inputs: HeadInputs
    objective: Objective  # with integer labels
    classes: int  # in a block

    @property
    def vocab(self) -> int:
        """All classes of this shard."""
        return self.inputs.kernel.shape[1]

    @property
    def numbers(self) -> Array:
        """The numbers of all blocks."""
        return jnp.arange(-(-self.vocab // self.classes), dtype=jnp.int32)

    def at(self, i: Array) -> tuple[HeadInputs, Objective, Array]:
        """Block i of the inputs and of the objective, and its first class."""
        first = _first_class(i, self.classes, self.vocab)
        kernel, bias = self.steps.columns(self.inputs.kernel, first, self.classes), self.inputs.bias
        bias = None if bias is None else lax.dynamic_slice_in_dim(bias, first, self.classes)
        objective, weights = self.objective, self.objective.class_weights
        if weights is not None:
            objective = objective.with_class_weights(lax.dynamic_slice_in_dim(weights, first, self.classes))
        return self.inputs._replace(kernel=kernel, bias=bias), objective, first

    def is_new(self, i: Array) -> Array:
        """Which classes of block i aren't in the one before, [1, classes]."""
        first = _first_class(i, self.classes, self.vocab)
        return first + lax.broadcasted_iota(jnp.int32, (1, self.classes), 1) >= i * self.classes


def _first_class(i: Array, classes: int, vocab: int) -> Array:
    return jnp.minimum(i * classes, vocab - classes)


class _BlockStats(NamedTuple):
    """Statistics of rows over a block of classes, [tokens] each."""

    state: LseState
    label_logit: Array  # x_y; 0 if the label isn't among them
    margin: Array | None  # Σ_j w_j (m - z_j), where the labels are smoothed
    weight: Array | None  # Σ_j w_j, a scalar
    largest: Array  # of the logits
    predicted: Array  # the number of its class


def _statistics(shards: Shards, blocks: _Blocks) -> tuple[ShardStats, Array, Array]:
    """The statistics of rows over this shard's classes, the label's logit x_y [tokens, 1], and the predictions."""
    offset = shards.class_offset(blocks.vocab)
    options, labels = blocks.objective.options, blocks.objective.tokens.labels

    @jax.checkpoint
    def of_block(i: Array) -> _BlockStats:
        inputs, objective, first = blocks.at(i)
        new = blocks.is_new(i)
        x = logits_of(inputs.hidden, inputs)
        z = jnp.where(new, _integer_labels.capped(options, shards, x, offset + first), -jnp.inf)
        state = lse_state(z, (1,))
        label_logit = reduction.entry_at(jnp.where(new, x, 0), labels.local - first)
        margin = weight = None
        if options.smooths:
            weights = 1 if objective.class_weights is None else objective.class_weights
            of_new = jnp.where(new[0], weights, 0).astype(z.dtype)
            margin = _integer_labels.weighted_margin(z, of_new, reduction.for_recomputation(state))
            weight = jnp.sum(of_new)
        real = jax.lax.stop_gradient(jnp.where(z == -jnp.inf, -jnp.inf, x))
        index = reduction.first_maximum(real)
        stats = _BlockStats(state, label_logit, margin, weight, reduction.entry_at(real, index), first + index)
        return jax.tree.map(lambda array: array.reshape(-1), stats)

    state, label_logit, margin, weight, largest, predicted = lax.map(of_block, blocks.numbers)
    state, (margin,) = merge_stacked(state, (margin,), (weight,))  # (M22)
    state, label_logit, margin = jax.tree.map(lambda array: array[:, None], (state, jnp.sum(label_logit, 0), margin))
    label_margin = -shifted_logits(loss_logits(options, label_logit), state)
    block = jnp.argmax(largest, 0)[None]
    largest, predicted = (jnp.take_along_axis(of_blocks, block, 0)[0] for of_blocks in (largest, predicted))
    if shards.classes:
        predicted = shards.first_of_largest(largest, predicted + offset)
    return ShardStats(state, label_margin, margin), label_logit, predicted


def _products(blocks: _Blocks, saved: HeadGrads, gradient_block: Callable[[Array], Array]) -> HeadGrads:
    """The gradients that have a dtype to be `saved` in, from those of the logits a block at a time (M16)."""
    inputs = blocks.inputs
    transposed = None if saved.kernel is None else blocks.steps.transposed(inputs.hidden)

    @jax.checkpoint
    def of_block(i: Array) -> HeadGrads:
        g = gradient_block(i)
        low, scale = as_operand(g, inputs.product_dtype)
        low = lax.optimization_barrier(low)
        dx = dw = db = None
        if saved.hidden is not None:
            dx = rescaled(dot(low, jnp.where(blocks.is_new(i), blocks.at(i)[0].kernel, 0), b_axis=1), scale)
        if saved.kernel is not None:
            dw = dot(inputs.hidden, low, a_axis=0) if transposed is None else dot(transposed, low)
            dw = rescaled(dw, scale)
        if saved.bias is not None:
            db = jnp.sum(g, 0)
        return HeadGrads(dx, as_saved(dw, saved.kernel), as_saved(db, saved.bias))

    def with_block(sums: HeadGrads, i: Array) -> tuple[HeadGrads, None]:
        block, first = of_block(i), _first_class(i, blocks.classes, blocks.vocab)
        dx = None if sums.hidden is None else sums.hidden + block.hidden
        return HeadGrads(dx, _written(first, sums.kernel, block.kernel), _written(first, sums.bias, block.bias)), None

    dtypes = saved._replace(hidden=None if saved.hidden is None else inputs.dtype)
    zeros = (None if d is None else jnp.zeros_like(array, dtype=d) for array, d in zip(inputs, dtypes, strict=True))
    sums, _ = lax.scan(with_block, HeadGrads(*zeros), blocks.numbers)
    return sums._replace(hidden=as_saved(sums.hidden, saved.hidden))


def _written(first: Array, array: Array | None, block: Array | None) -> Array | None:
    """The array with the block of its last axis that begins at `first`."""
    return (
        None if array is None or block is None else lax.dynamic_update_slice_in_dim(array, block, first, array.ndim - 1)
    )
