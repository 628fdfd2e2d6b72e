"""The training loss of hidden @ kernel + bias, without ever holding the logits of all tokens (M16, M24-M27).

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
from jax.custom_derivatives import CustomVJPPrimal, SymbolicZero
from jax.typing import ArrayLike
from jaxtyping import Float, Int, Real

from jaxsoftmax import _checks, _class_blocks, _cross_entropy, _integer_labels, _shards, _token_chunks, _token_loss
from jaxsoftmax._class_blocks import Head, Kind, Wanted
from jaxsoftmax._token_chunks import Chunk
from jaxsoftmax._token_loss import LossOptions


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
        16 MiB; else on a CPU as many as 256 MiB hold, but at most 512; on others 1 GiB and 4096; at least 128.
      axis_name: mesh axis, or several, of the `jax.shard_map` around, over whose devices the classes are spread:
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
      ValueError: an argument of the wrong shape or out of range; `axis_name` isn't an axis of a `jax.shard_map` with
        `check_vma=True`, or labels or token weights differ along it.

    Differentiation: reverse mode in hidden, kernel, bias and token weights to any order, and forward over reverse
    (`jax.custom_vjp`). With "mean" and "sum" the gradients themselves are saved and a number a token, with "none" the
    arguments. For pure forward mode use `jaxsoftmax.forward_mode.linear_cross_entropy`.

    Source: M14, M16, M24-M27.

    >>> import jax.numpy as jnp
    >>> print(linear_cross_entropy(jnp.array([[1.0, 0.0]]), jnp.array([[0.0, -20.0], [0.0, 0.0]]), jnp.array([0])))
    2.0611537e-09
    """
    options = _cross_entropy.loss_options(ignore_index, label_smoothing, z_loss, logit_softcap, axis_name)
    arguments, chunk_size = checked(hidden, kernel, labels, bias, class_weights, token_weights, reduction, chunk_size)
    return apply(REVERSE_MODE, options, arguments, reduction, chunk_size)


class LinearRules(NamedTuple):
    """The functions that carry a derivative: in reverse mode here, in both modes in `forward_mode`."""

    total: Callable[..., Any]  # sum_t scale_t l_t
    losses: Callable[..., Any]  # l_t


class Arguments(NamedTuple):
    """The arrays, checked."""

    hidden: Any  # [*batch, embed]
    labels: Any  # [*batch]
    token_weights: Any  # [*batch], or None
    kernel: Any  # [embed, vocab]
    bias: Any  # [vocab], or None
    class_weights: Any  # [vocab], or None


def checked(
    hidden: Any,
    kernel: Any,
    labels: Any,
    bias: Any,
    class_weights: Any,
    token_weights: Any,
    reduction: str,
    chunk_size: Any,
) -> tuple[Arguments, int | None]:
    """The arrays and the chunk's size, if all fits together; else the error that names what doesn't."""
    _token_loss.require_reduction(reduction)
    chunk_size = None if chunk_size is None else _checks.as_int("chunk_size", chunk_size)
    if chunk_size is not None and chunk_size < 1:
        raise ValueError(f"chunk_size: expected an int >= 1 or None, got {chunk_size}")
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
    labels = _cross_entropy.class_indices(labels, batch, vocab, of="hidden")
    class_weights, token_weights = _cross_entropy.as_weights(class_weights, token_weights, batch, vocab)
    return Arguments(hidden, labels, token_weights, kernel, bias, class_weights), chunk_size


def apply(
    rules: LinearRules, options: LossOptions, arguments: Arguments, reduction: str, chunk_size: int | None
) -> Array:
    """Put the tokens in a row, and hand over to the rule of the reduction."""
    hidden, labels, token_weights, kernel, bias, class_weights = arguments
    _shards.require_spread(options.shards, "kernel", kernel)
    batch, columns = labels.shape, kernel.shape[1]
    head = Head(hidden.reshape(math.prod(batch), kernel.shape[0]), kernel, bias)
    labels = labels.reshape(-1)
    scale = jnp.ones(labels.shape) if token_weights is None else token_weights.reshape(-1)
    _, (labels, scale) = _shards.alike(options.shards, (head, class_weights), (labels, scale))
    scale = jnp.where(_integer_labels.is_ignored(options, labels), 0, scale.astype(head.dtype))
    chunk = _token_chunks.chunk_of(len(labels), columns, head.dtype, chunk_size)
    if reduction == "none":
        losses = rules.losses(options, chunk, head, labels, class_weights)
        return _token_loss.weighted(scale, losses).reshape(batch)
    if reduction == "mean":
        normalizers = _integer_labels.label_weights(options, labels, class_weights, columns, head.dtype)
        scale = _token_loss.mean_weights(options, scale, normalizers)
    return options.shards.sum_of_tokens(rules.total(options, chunk, head, scale, labels, class_weights))


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _total(
    options: LossOptions, chunk: Chunk, head: Head, scale: Array, labels: Array, class_weights: Array | None
) -> Array:
    losses = _losses_in_chunks(options, chunk, head, labels, class_weights)
    return jnp.sum(_token_loss.weighted(scale, losses))


def _total_fwd(options, chunk, head, scale, labels, class_weights):
    wanted, (head, scale, labels, class_weights) = _perturbed(head), _values((head, scale, labels, class_weights))
    losses, head_bar = _token_chunks.losses_and_gradients(options, chunk, wanted, head, scale, labels, class_weights)
    losses = _token_loss.counted(scale, losses)
    return jnp.sum(scale * losses), (wanted, head_bar, losses)  # gradients, shaped as their arguments; l_t [tokens]


def _total_bwd(_options, _chunk, residuals, total_bar):
    if isinstance(total_bar, SymbolicZero):
        return None, None, None, None
    wanted, head_bar, losses = residuals
    head_bar = _as_wanted(wanted, jax.tree.map(lambda g: total_bar * g.astype(total_bar.dtype), head_bar))
    return head_bar, total_bar * losses, None, None  # labels are integers; class weights are constants


_total.defvjp(_total_fwd, _total_bwd, symbolic_zeros=True)


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _losses(options: LossOptions, chunk: Chunk, head: Head, labels: Array, class_weights: Array | None) -> Array:
    return _losses_in_chunks(options, chunk, head, labels, class_weights)


def _losses_fwd(options, chunk, head, labels, class_weights):
    wanted, arguments = _perturbed(head), _values((head, labels, class_weights))
    return _losses_in_chunks(options, chunk, *arguments), (wanted, *arguments)  # the arguments


def _losses_bwd(options, chunk, residuals, losses_bar):
    if isinstance(losses_bar, SymbolicZero):
        return None, None, None
    wanted, head, labels, class_weights = residuals
    head_bar = _token_chunks.losses_and_gradients(options, chunk, wanted, head, losses_bar, labels, class_weights)[1]
    return _as_wanted(wanted, head_bar), None, None  # labels are integers; class weights are constants


_losses.defvjp(_losses_fwd, _losses_bwd, symbolic_zeros=True)


def _losses_in_chunks(
    options: LossOptions, chunk: Chunk, head: Head, labels: Array, class_weights: Array | None
) -> Array:
    def loss(x: Array, y: Array) -> Array:
        z = _class_blocks.logits(x, head)
        return _integer_labels.primal(options, z, y, class_weights, None, reused=False)[0]

    return _token_chunks.losses(loss, options, chunk, head, labels)


def _perturbed(head: Head) -> Wanted:
    return Wanted(*(Kind.of(a.value) if a is not None and a.perturbed else None for a in head))


def _as_wanted(wanted: Wanted, head_bar: Head) -> Head:
    """Each gradient summed over the devices that share its argument, and then rounded as that is."""

    def of_kind(kind: Kind, g: Array) -> Array:
        return _shards.summed_to(kind.axes, g).astype(kind.dtype)

    return Head(*(None if k is None else of_kind(k, g) for k, g in zip(wanted, head_bar, strict=True)))


def _values(arguments: Any) -> Any:
    return jax.tree.map(lambda x: x.value, arguments, is_leaf=lambda x: isinstance(x, CustomVJPPrimal))


REVERSE_MODE = LinearRules(_total, _losses)
