"""The statistics of rows of x W + b with no logits in memory: a Pallas kernel for TPU.

A block of tokens stays in the chip's memory while the blocks of the kernel pass by. Each block of logits is reduced as
a row is (M18), and joined to what came before (M22); the logits themselves never leave the chip. Not yet run on a TPU:
its numbers and races are checked by an interpreter, and that it can be compiled by the compiler for TPU.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from jaxsoftmax import _integer_labels
from jaxsoftmax._head.problem import HeadInputs, logits_of
from jaxsoftmax._integer_labels import ShardStats
from jaxsoftmax._math import lse_state
from jaxsoftmax._math.loss_options import loss_logits
from jaxsoftmax._math.lse_state import LseState
from jaxsoftmax._objective import Objective
from jaxsoftmax._sharding import Shards, pvary, vma_of

_BLOCKS = ((1024, 1024), (1024, 512), (512, 512), (512, 256), (256, 256), (256, 128), (128, 128))  # tokens, classes
_ON_CHIP = 40 << 20  # bytes of blocks: v5p has 64 MiB, v5e and v6e 128
_LIMIT = 60 << 20


@partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def shard_stats(shards: Shards, interpret: Any, inputs: HeadInputs, objective: Objective) -> ShardStats:
    """What `_integer_labels.shard_stats` gives of the logits of all tokens, where `programs` finds the inputs suitable.

    `interpret` is that of a Pallas call.
    """
    options = objective.options
    operands = _operands(shards, inputs, objective)
    (tokens, embed), vocab = inputs.hidden.shape, inputs.kernel.shape[1]
    rows, columns = _block_sizes(tokens, embed, vocab, inputs.kernel.dtype.itemsize)
    of_token = jax.ShapeDtypeStruct((tokens, 1), inputs.dtype, manual_axis_type=jax.typeof(operands[0]).mat)
    by_token = pl.BlockSpec((rows, 1), lambda i, j: (i, 0))
    by_class = pl.BlockSpec((1, columns), lambda i, j: (0, j))
    maximum, remainder, label_logit, margin = pl.pallas_call(
        partial(_reduce_block, options),
        grid=(pl.cdiv(tokens, rows), pl.cdiv(vocab, columns)),
        in_specs=[
            pl.BlockSpec(memory_space=pltpu.SMEM),
            pl.BlockSpec((rows, embed), lambda i, j: (i, 0)),
            pl.BlockSpec((embed, columns), lambda i, j: (0, j)),
            by_token,
            by_class,
            by_class,
        ],
        out_specs=[by_token] * 4,
        out_shape=[of_token] * 4,
        scratch_shapes=[pltpu.VMEM((rows, 1), inputs.dtype)],
        compiler_params=pltpu.CompilerParams(dimension_semantics=("parallel", "arbitrary"), vmem_limit_bytes=_LIMIT),
        interpret=interpret,
    )(*operands)
    state = LseState(maximum, remainder)
    label_margin = -lse_state.shifted_logits(label_logit, state)
    return ShardStats(state, label_margin, margin if options.smooths else None)


@shard_stats.defjvp
def _shard_stats_jvp(shards, interpret, primals, tangents):
    """The kernel gives values alone: derivatives compute the logits."""
    del interpret
    objective = primals[1]

    def of_logits(inputs: HeadInputs) -> ShardStats:
        z = logits_of(inputs.hidden, inputs)
        return _integer_labels.shard_stats(objective, shards, z)

    return jax.jvp(of_logits, primals[:1], tangents[:1])


def _operands(shards: Shards, inputs: HeadInputs, objective: Objective) -> tuple[Array, ...]:
    """What the Pallas call takes, in its order, all of it varying over the same axes of a mesh."""
    vocab, dtype, class_weights = inputs.kernel.shape[1], inputs.dtype, objective.class_weights
    operands = (
        _classes_of_this_shard(shards, vocab),
        inputs.hidden,
        inputs.kernel,
        objective.tokens.labels.local[:, None],
        jnp.zeros((1, vocab), dtype) if inputs.bias is None else inputs.bias[None].astype(dtype),
        jnp.ones((1, vocab), dtype) if class_weights is None else class_weights[None].astype(dtype),
    )
    return pvary(operands, vma_of(operands))


def _reduce_block(options, classes, x, w, label, bias, weights, *sums):
    """Join a block of classes to the sums of its tokens, which stay on the chip from block to block."""
    maximum, remainder, label_logit, margin, weight = sums
    block = pl.program_id(1)

    @pl.when(block == 0)
    def _():
        for ref, empty in zip(sums, (jnp.finfo(maximum.dtype).min, -1, 0, 0, 0), strict=True):
            ref[...] = jnp.full_like(ref, empty)

    z = jnp.dot(x[...], w[...], preferred_element_type=maximum.dtype)
    z = loss_logits(options, z + bias[...])
    number = block * z.shape[1] + lax.broadcasted_iota(jnp.int32, z.shape, 1)
    label_logit[...] += jnp.sum(jnp.where(number == label[...], z, 0), 1, keepdims=True)
    real = number < classes[0]
    z = jnp.where(real, z, -jnp.inf)
    before, here = LseState(maximum[...], remainder[...]), lse_state.plain_state(z, (1,))
    joined = lse_state.joined(before, here)
    maximum[...], remainder[...] = joined
    if options.smooths:
        w_j = jnp.where(real, weights[...], 0)
        margins = jnp.where(w_j == 0, 0, w_j * (here.maximum - z))
        added = jnp.sum(w_j, 1, keepdims=True)
        # m - z of every class so far grows by as much as m.
        margin[...] += weight[...] * (joined.maximum - before.maximum) + jnp.sum(margins, 1, keepdims=True)
        margin[...] += added * (joined.maximum - here.maximum)
        weight[...] += added


def _classes_of_this_shard(shards: Shards, vocab: int) -> Array:
    """How many of a shard's columns are classes, [1]."""
    unpadded = vocab if shards.unpadded is None else shards.unpadded - shards.class_offset(vocab)
    return jnp.clip(jnp.asarray(unpadded, jnp.int32), 0, vocab).reshape(1)


def _block_sizes(tokens: int, embed: int, vocab: int, itemsize: int) -> tuple[int, int]:
    """Tokens and classes of a block: the largest that fits in VMEM, double buffered, with three blocks of logits."""

    def on_chip(rows: int, columns: int) -> int:
        return 2 * embed * (rows + columns) * itemsize + 3 * 4 * rows * columns

    rows, columns = next((block for block in _BLOCKS if on_chip(*block) <= _ON_CHIP), _BLOCKS[-1])
    return min(rows, tokens), min(columns, vocab)
