"""The training loss of hidden @ kernel + bias, with the logits of some tokens or classes at a time (M16, M24-M27).

With `mean` and `sum` the weight u_t of each token's loss is known when the loss is computed, and the gradient is
formed then and there: three matrix products in all. With `none` the u_t are the cotangents, which come later: the
logits are computed again.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.custom_derivatives import SymbolicZero
from jax.typing import ArrayLike
from jaxtyping import Float, Int, Real

from jaxsoftmax import _checks, _integer_labels
from jaxsoftmax._head import programs, residuals
from jaxsoftmax._head.chunk_sizes import Settings
from jaxsoftmax._head.problem import HeadInputs
from jaxsoftmax._loss_arguments import as_weights, class_indices, loss_options, require_reduction
from jaxsoftmax._math import token_loss
from jaxsoftmax._math.token_loss import LossOptions
from jaxsoftmax._sharding import Shards, match_vma, require_sharded, require_unsharded, shards_of_axis
from jaxsoftmax._token_labels import TokenLabels, token_labels


def linear_cross_entropy(
    hidden: Float[ArrayLike, "*batch embed"],
    kernel: Float[ArrayLike, "embed vocab"],
    labels: Int[ArrayLike, "*batch"],
    *,
    bias: Float[ArrayLike, " vocab"] | None = None,
    class_weights: Real[ArrayLike, " vocab"] | None = None,
    token_weights: Real[ArrayLike, "*batch"] | None = None,
    ignore_index: int | None = None,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
    logit_softcap: float | None = None,
    reduction: str = "mean",
    chunk_size: int | None = None,
    memory_budget: int | None = None,
    schedule: str | None = None,
    axis_name: str | tuple[str, ...] | None = None,
) -> Float[Array, "*batch"]:
    """`cross_entropy(hidden @ kernel + bias, labels, ...)` in the memory of a few tokens' logits (M16, M24-M27).

    Per token with hidden state x, integer label y, class weights w, smoothing eps and z-loss zeta:

        z = c tanh((x W + b) / c),   l = (1 - eps) w_y nll_y + (eps / V) Σ_j w_j (L - z_j) + zeta w_y L^2    (M24)
        dX = G W^T,   dW = X^T G,   db = Σ_t G_t,   where G is the loss's gradient in x W + b          (M16, M25)

    Args:
      hidden: floating, [*batch, embed].
      kernel: floating, [embed, vocab].
      labels: integers in [0, vocab), [*batch].
      bias: floating, [vocab]; 0 if None.
      class_weights: w, [vocab]; constants, through which no gradient flows.
      token_weights: u, [*batch]; 1 if None.
      ignore_index: an integer label whose tokens have loss 0, gradient 0 and no part in the mean, and add nothing to
        the kernel's and the bias's gradient, even if their hidden states are NaN or infinite.
      label_smoothing: eps in [0, 1], spread over all V classes.
      z_loss: zeta >= 0, the weight of the squared log-sum-exp.
      logit_softcap: c > 0, or None for no cap.
      reduction: "mean" (the sum of u_t l_t over that of u_t w_y), "sum" or "none".
      chunk_size: tokens whose logits are held at a time, at least 1. If None: all, where the logits fill at most
        16 MiB (4 GiB on a TPU); else as many as fit into 256 MiB on a CPU, 2 GiB on a TPU, 1 GiB elsewhere; at least
        128 and at most 4096, on a CPU 512.
      memory_budget: bytes that the temporary arrays should take, at least 1, in place of those that the chunks of
        `chunk_size=None` take; copies of `hidden` come on top. Chunks are made to fit. Where even the smallest, of 128
        tokens or as `chunk_size` says, don't fit beside a float32 sum of the kernel's gradient, which is rounded to a
        narrower dtype at its end, all tokens are taken through a block of 128 classes or more at a time, without that
        sum: the logits are formed twice, and ignored tokens aren't skipped. Ignored with symbolic sizes (`jax.export`).
      schedule: "pallas" forms losses without gradients, and those of "none", by a Pallas kernel for TPU: for
        evaluation, as a training step of "mean" or "sum" has no use for it. It takes hidden and kernel both in float32
        or both in bfloat16; other inputs, and other platforms, go as with None. No logits leave the chip. It has never
        run on a TPU: an interpreter checked it, and TPU's compiler takes it for v5e, v5p and v6e.
      axis_name: mesh axis, or several, of the `jax.shard_map` around, over which the classes are sharded:
        kernel, bias and class weights are this device's contiguous shard, labels count the classes of all, and tokens
        are the same on all. "mean" and "sum" are of this device's tokens. For global arrays there is
        `sharded_linear_cross_entropy`.

    Returns:
      The loss in nats, at least float32: a scalar, or [*batch] for "none". A mean over nothing is 0 with gradient 0. A
      label that is neither in [0, vocab) nor `ignore_index` gives NaN for its token, and for all of the kernel's and
      the bias's gradient, which are sums over tokens. Logits of +-inf do what they do in `cross_entropy`; an infinite
      loss of token weight 0 adds nothing. The matrix products take `hidden` and `kernel` as they are and add up in at
      least float32; the logits are not rounded to their dtype, but G is.

    Raises:
      TypeError: an argument of the wrong dtype; a constant that isn't a number, or is traced.
      ValueError: an argument of the wrong shape or out of range, or sharded over Explicit axes of a mesh; `axis_name`
        isn't an axis of a `jax.shard_map` with `check_vma=True`, or labels or token weights differ along it.

    Differentiation: reverse mode in hidden, kernel, bias and token weights to any order, and forward over reverse
    (`jax.custom_vjp`). With "mean" and "sum" the gradients themselves are saved and a number a token, with "none" the
    arguments. The value that comes with a gradient may be a rounding apart from the value alone. For pure forward mode
    use `jaxsoftmax.forward_mode.linear_cross_entropy`.

    Source: M14, M16, M24-M27.

    >>> import jax.numpy as jnp
    >>> print(linear_cross_entropy(jnp.array([[1.0, 0.0]]), jnp.array([[0.0, -20.0], [0.0, 0.0]]), jnp.array([0])))
    2.0611537e-09
    """
    options = loss_options(ignore_index, label_smoothing, z_loss, logit_softcap)
    arrays = hidden, kernel, labels, bias, class_weights, token_weights
    settings = as_settings(chunk_size, memory_budget, schedule)
    return linear_cross_entropy_with(CUSTOM_VJP_RULES, options, reduction, settings, axis_name, *arrays)


class HeadRules(NamedTuple):
    """The functions that carry a derivative: in reverse mode here, in both modes in `forward_mode`."""

    total: Callable[..., Any]  # Σ_t scale_t l_t
    losses: Callable[..., Any]  # l_t


class HeadArguments(NamedTuple):
    """The arrays of a head's call, validated."""

    hidden: Any  # [*batch, embed]
    labels: Any  # [*batch]
    token_weights: Any  # [*batch], or None
    kernel: Any  # [embed, vocab]
    bias: Any  # [vocab], or None
    class_weights: Any  # [vocab], or None


def linear_cross_entropy_with(
    rules: HeadRules, options: LossOptions, reduction: str, settings: Settings, axis_name: Any, *arrays: Any
) -> Array:
    """Validate the arguments of `linear_cross_entropy`, its arrays in the order of `validate`, and form the loss."""
    require_reduction(reduction)
    shards = shards_of_axis(axis_name)
    arguments = validate(*arrays)
    require_unsharded(arguments._asdict(), "sharded_linear_cross_entropy")
    require_sharded(shards, "kernel", arguments.kernel)
    return head_loss(rules, options, shards, reduction, settings, arguments)


def as_settings(chunk_size: Any, memory_budget: Any, schedule: Any) -> Settings:
    """How the caller wants the head to run, if the arguments say so."""
    sizes = {
        "chunk_size": None if chunk_size is None else _checks.as_int("chunk_size", chunk_size),
        "memory_budget": None if memory_budget is None else _checks.as_int("memory_budget", memory_budget, bits=64),
    }
    for name, size in sizes.items():
        if size is not None and size < 1:
            raise ValueError(f"{name}: expected an int >= 1 or None, got {size}")
    if schedule is not None and not (isinstance(schedule, str) and schedule == "pallas"):
        raise ValueError(f"schedule: expected 'pallas' or None, got {schedule!r}")
    return Settings(**sizes, schedule=schedule)


def validate(hidden: Any, kernel: Any, labels: Any, bias: Any, class_weights: Any, token_weights: Any) -> HeadArguments:
    """The arrays, if their dtypes and shapes fit together; else the error that names what doesn't."""
    hidden, kernel = _checks.as_floating("hidden", hidden), _checks.as_floating("kernel", kernel)
    if hidden.ndim == 0:
        raise ValueError("hidden: expected shape [*batch, embed], got ()")
    *batch, embed = hidden.shape
    if kernel.ndim != 2 or kernel.shape[0] != embed:
        raise ValueError(f"kernel: expected shape [embed, vocab] with the hidden's embed = {embed}, got {kernel.shape}")
    vocab = kernel.shape[1]
    if vocab == 0:
        raise ValueError(f"kernel: expected at least one class, got {kernel.shape}")
    if bias is not None:
        bias = _checks.as_floating("bias", bias)
        _checks.require_shape("bias", bias, (vocab,), "[vocab]")
    labels = class_indices(labels, batch, vocab, of="hidden")
    class_weights, token_weights = as_weights(class_weights, token_weights, batch, vocab)
    return HeadArguments(hidden, labels, token_weights, kernel, bias, class_weights)


# Without jit, an eager call would compile its loops each time.
@partial(jax.jit, static_argnums=(0, 1, 2, 3, 4))
def head_loss(
    rules: HeadRules, options: LossOptions, shards: Shards, reduction: str, settings: Settings, arguments: HeadArguments
) -> Array:
    """Put the tokens in a row, normalise their labels, and hand over to the rule of the reduction."""
    hidden, labels, token_weights, kernel, bias, class_weights = arguments
    batch, local_vocab = labels.shape, kernel.shape[1]
    tokens = math.prod(batch)
    inputs = HeadInputs(hidden.reshape(tokens, kernel.shape[0]), kernel, bias)
    scale = jnp.ones(batch) if token_weights is None else token_weights
    _, (labels, scale) = match_vma(shards, (inputs, class_weights), (labels.reshape(tokens), scale.reshape(tokens)))
    labels = token_labels(options, shards, labels, local_vocab)
    scale = jnp.where(labels.ignored, 0, scale.astype(inputs.dtype))
    if reduction == "none":
        losses = rules.losses(options, shards, settings, inputs, labels, class_weights)
        return token_loss.weighted(scale, losses).reshape(batch)
    if reduction == "mean":
        normalizers = _integer_labels.label_weights(shards, labels, class_weights, inputs.dtype)
        scale = token_loss.mean_weights(scale, shards.psum_over_tokens(jnp.sum(scale * normalizers)))
    total = rules.total(options, shards, settings, inputs, scale, labels, class_weights)
    return shards.psum_over_tokens(total)


@partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def _total(
    options: LossOptions,
    shards: Shards,
    settings: Settings,
    inputs: HeadInputs,
    scale: Array,
    labels: TokenLabels,
    class_weights: Array | None,
) -> Array:
    losses = programs.losses(options, shards, settings, inputs, labels, class_weights)
    return jnp.sum(token_loss.weighted(scale, losses))


def _total_fwd(options, shards, settings, inputs, scale, labels, class_weights):
    specs, wanted = residuals.specs_and_wanted(inputs)
    arguments = residuals.values((inputs, scale, labels, class_weights))
    losses, grads = programs.losses_and_gradients(options, shards, settings, wanted, *arguments)
    scale = arguments[1]
    losses = token_loss.drop_infinite_if_unweighted(scale, losses)
    # Gradients, shaped as their arguments; l_t [tokens].
    return jnp.sum(scale * losses), (specs, residuals.left(specs, grads), losses)


def _total_bwd(_options, _shards, _settings, left, total_bar):
    if isinstance(total_bar, SymbolicZero):
        return None, None, None, None
    specs, grads, losses = left
    wanted = residuals.wanted_among(specs, grads)
    grads = residuals.as_wanted(wanted, jax.tree.map(lambda g: total_bar * g.astype(total_bar.dtype), grads))
    return grads, total_bar * losses, None, None  # labels are integers; class weights are constants


_total.defvjp(_total_fwd, _total_bwd, symbolic_zeros=True)


@partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def _losses(
    options: LossOptions,
    shards: Shards,
    settings: Settings,
    inputs: HeadInputs,
    labels: TokenLabels,
    class_weights: Array | None,
) -> Array:
    return programs.losses(options, shards, settings, inputs, labels, class_weights)


def _losses_fwd(options, shards, settings, inputs, labels, class_weights):
    specs, wanted = residuals.specs_and_wanted(inputs)
    arguments = residuals.values((inputs, labels, class_weights))
    losses = programs.losses(options, shards, settings, *arguments)
    return losses, (specs, residuals.marks(specs, wanted), *arguments)  # the arguments


def _losses_bwd(options, shards, settings, left, losses_bar):
    if isinstance(losses_bar, SymbolicZero):
        return None, None, None
    specs, marks, inputs, labels, class_weights = left
    wanted = residuals.wanted_among(specs, marks)
    _, grads = programs.losses_and_gradients(
        options, shards, settings, wanted, inputs, losses_bar, labels, class_weights
    )
    return residuals.as_wanted(wanted, grads), None, None  # labels are integers; class weights are constants


_losses.defvjp(_losses_fwd, _losses_bwd, symbolic_zeros=True)


CUSTOM_VJP_RULES = HeadRules(_total, _losses)
