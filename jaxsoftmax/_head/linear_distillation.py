"""Distillation between two fused heads, with the logits of some tokens at a time (M16, M29, M30, M32)."""

import math
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Bool, Float, Real

from jaxsoftmax._distillation import as_divergence
from jaxsoftmax._head.arguments import as_settings, validate_bias, validate_product
from jaxsoftmax._head.chunk_sizes import Settings
from jaxsoftmax._head.distillation_rules import CUSTOM_VJP_DISTILLATION_RULES, DistillationRules, Heads
from jaxsoftmax._head.problem import HeadInputs
from jaxsoftmax._loss_arguments import as_weights, loss_options, require_reduction
from jaxsoftmax._math import token_loss
from jaxsoftmax._math.divergence import Divergence
from jaxsoftmax._math.loss_options import LossOptions
from jaxsoftmax._math.precision import accumulation_dtype
from jaxsoftmax._rule_binding import with_rules
from jaxsoftmax._sharding import Shards, match_vma, require_sharded, require_unsharded, shards_of_axis


@with_rules(CUSTOM_VJP_DISTILLATION_RULES)
def linear_distillation(
    _rules: DistillationRules,
    /,
    hidden: Float[ArrayLike, "*batch embed"],
    kernel: Float[ArrayLike, "embed vocab"],
    teacher_hidden: Float[ArrayLike, "*batch teacher_embed"],
    teacher_kernel: Float[ArrayLike, "teacher_embed vocab"],
    *,
    bias: Float[ArrayLike, " vocab"] | None = None,
    teacher_bias: Float[ArrayLike, " vocab"] | None = None,
    divergence: str = "forward_kl",
    beta: float = 0.5,
    temperature: float | Float[Array, ""] = 1.0,
    token_weights: Real[ArrayLike, "*batch"] | Bool[ArrayLike, "*batch"] | None = None,
    reduction: str = "mean",
    chunk_size: int | None = None,
    memory_budget: int | None = None,
    axis_name: str | tuple[str, ...] | None = None,
) -> Float[Array, "..."]:
    """`distillation` between two heads' logits, in the memory of a few tokens' logits of both (M16, M29, M30).

    With z = hidden @ kernel + bias of the student, u = teacher_hidden @ teacher_kernel + teacher_bias of the teacher,
    q = softmax(z / T) and p = softmax(u / T):

        forward_kl:      KL(p||q),        reverse_kl:  KL(q||p)
        jensen_shannon:  beta KL(p||m) + (1 - beta) KL(q||m),   m = beta p + (1 - beta) q

    Args:
      hidden: the student's hidden states, floating, [*batch, embed].
      kernel: the student's kernel, floating, [embed, vocab]; the products take it as it is.
      teacher_hidden: the teacher's hidden states, floating, [*batch, teacher_embed].
      teacher_kernel: the teacher's kernel, floating, [teacher_embed, vocab].
      bias: the student's bias, [vocab]; 0 if None.
      teacher_bias: the teacher's bias, [vocab]; 0 if None.
      divergence: "forward_kl", "reverse_kl" or "jensen_shannon".
      beta: the teacher's weight in Jensen-Shannon, in (0, 1); no other divergence uses it, but it is checked.
      temperature: T > 0, or a traced scalar. The result isn't multiplied by T^2.
      token_weights: w, [*batch], numbers or a boolean mask; 1 if None.
      reduction: "mean" (the sum of w_t D_t over that of w_t), "sum" or "none".
      chunk_size: tokens whose logits are held at a time, of both heads; if None, as many as
        `linear_cross_entropy` takes of a vocabulary four times as large.
      memory_budget: bytes that a chunk's arrays should take, in place of those that `chunk_size=None` takes.
      axis_name: mesh axis, or several, of the `jax.shard_map` around, over which the classes are sharded: kernels and
        biases are this device's contiguous shards, and tokens are the same on all.

    Returns:
      The divergence in nats, as of `distillation`. Where student and teacher nearly agree, the products' own rounding
      of the logits sets the limit: in float32 divergences below about 1e-12 are noise.

    Raises:
      TypeError: an argument of the wrong dtype; a constant that isn't a number.
      ValueError: an argument of the wrong shape, as a teacher's vocabulary of another size, or out of range, or sharded
        over Explicit axes of a mesh; `axis_name` isn't an axis of a `jax.shard_map` with `check_vma=True`.

    Differentiation: in hidden, kernel and bias of either head, and the token weights, in reverse mode to any order and
    forward over reverse (`jax.custom_vjp`). Temperature and beta are constants. Only what is asked for is formed:
    nothing of the teacher, if it is a constant. With "mean" and "sum" the gradients themselves are saved, with "none"
    the arguments. For pure forward mode use `jaxsoftmax.forward_mode.linear_distillation`.

    Source: M16, M29, M30, M32.

    >>> import jax.numpy as jnp
    >>> hidden, kernel = jnp.array([[1.0, 0.0]]), jnp.array([[0.0, 1.0], [0.0, 0.0]])
    >>> print(round(float(linear_distillation(hidden, kernel, 2 * hidden, kernel)), 4))
    0.0671
    """
    which, options = as_divergence(divergence, beta), loss_options(temperature=temperature)
    settings = as_settings(chunk_size, memory_budget)
    arguments = validate_heads(
        settings, hidden, kernel, teacher_hidden, teacher_kernel, bias, teacher_bias, token_weights
    )
    task = DistillationTask(_rules, which, reduction, settings)
    require_reduction(reduction)
    shards = shards_of_axis(axis_name)
    require_unsharded(arguments, "jax.shard_map, and axis_name in it")
    require_sharded(shards, "kernel", arguments.kernel)
    require_sharded(shards, "teacher_kernel", arguments.teacher_kernel)
    return _of_heads(task, shards, options, arguments)


class DistillationTask(NamedTuple):
    """The static settings of a call of `linear_distillation`."""

    rules: DistillationRules
    divergence: Divergence
    reduction: str
    settings: Settings


class DistillationArguments(NamedTuple):
    """The array arguments of `linear_distillation`."""

    hidden: Any
    kernel: Any
    teacher_hidden: Any
    teacher_kernel: Any
    bias: Any
    teacher_bias: Any
    token_weights: Any


def validate_heads(
    settings: Settings,
    hidden: Any,
    kernel: Any,
    teacher_hidden: Any,
    teacher_kernel: Any,
    bias: Any,
    teacher_bias: Any,
    token_weights: Any,
) -> DistillationArguments:
    """Validates dtypes and shapes; an error names the argument at fault."""
    hidden, kernel = validate_product(settings, hidden, kernel)
    teacher_hidden, teacher_kernel = validate_product(settings, teacher_hidden, teacher_kernel, "teacher_")
    batch, vocab = hidden.shape[:-1], kernel.shape[1]
    if teacher_hidden.shape[:-1] != batch:
        got = teacher_hidden.shape
        raise ValueError(f"teacher_hidden: expected shape [*batch, embed] with the hidden's batch {batch}, got {got}")
    if teacher_kernel.shape[1] != vocab:
        got = teacher_kernel.shape
        raise ValueError(f"teacher_kernel: expected shape [embed, vocab] with the kernel's vocab = {vocab}, got {got}")
    bias, teacher_bias = validate_bias("bias", bias, vocab), validate_bias("teacher_bias", teacher_bias, vocab)
    _, token_weights = as_weights(None, token_weights, batch, vocab)
    return DistillationArguments(hidden, kernel, teacher_hidden, teacher_kernel, bias, teacher_bias, token_weights)


@partial(jax.jit, static_argnums=(0, 1))
def _of_heads(task: DistillationTask, shards: Shards, options: LossOptions, arguments: DistillationArguments) -> Array:
    batch = arguments.hidden.shape[:-1]
    tokens = math.prod(batch)
    hidden, teacher_hidden = (
        states.reshape(tokens, states.shape[-1]) for states in (arguments.hidden, arguments.teacher_hidden)
    )
    student = HeadInputs(hidden, arguments.kernel, arguments.bias)
    teacher = HeadInputs(teacher_hidden, arguments.teacher_kernel, arguments.teacher_bias)
    dtype = accumulation_dtype(student.dtype, teacher.dtype)
    weights = arguments.token_weights
    weights = jnp.ones(tokens, dtype) if weights is None else weights.reshape(tokens).astype(dtype)
    heads = Heads(student, teacher)
    _, weights = match_vma(shards, heads, weights)
    options, settings = options.astype(dtype), task.settings
    if task.reduction == "none":
        losses = task.rules.losses(shards, task.divergence, settings, heads, options)
        return token_loss.weighted(weights, losses).reshape(batch)
    if task.reduction == "mean":
        weights = token_loss.mean_weights(weights, jnp.sum(weights))
    return task.rules.total(shards, task.divergence, settings, heads, options, weights)
