r"""The training loss of hidden @ kernel + bias, without ever holding the logits of all tokens (M16, M24-M27).

Tokens are taken in chunks, each with its logits z = x W + b, and blocks of classes of the gradient G of
sum_t u_t l_t in z (M25) are used up as soon as they are formed:

    dx = G W^T,    dW = sum over chunks of x^T G,    db = sum over tokens of G

With `mean` and `sum` every u_t is known when the loss is computed, and the gradient is formed then and there: three
matrix products in all. With `none` the u_t are the cotangents, which come later: the logits are computed again.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.custom_derivatives import CustomVJPPrimal
from jax.typing import ArrayLike
from jaxtyping import Float, Int, Real

from jaxsoftmax import _checks, _cross_entropy, _integer_labels, _lse_state, _token_loss
from jaxsoftmax._token_loss import LossOptions

CHUNK = 512  # tokens whose logits are held at a time
BLOCK = 2048  # classes of a chunk whose gradient is held at a time


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
) -> Float[Array, "*batch"]:
    """`cross_entropy(hidden @ kernel + bias, labels, ...)` in the memory of a few tokens' logits (M16, M24-M27).

    Args:
      hidden: floating, [*batch, embed].
      kernel: floating, [embed, vocab].
      labels: integers in [0, vocab), [*batch].
      bias: floating, [vocab]; 0 if None.
      class_weights: w, [vocab]; constants, through which no gradient flows.
      token_weights: u, [*batch]; 1 if None.
      ignore_index: an integer label whose tokens have loss 0, gradient 0 and no part in the mean.
      label_smoothing: eps in [0, 1], spread over all V classes.
      z_loss: zeta >= 0, the weight of the squared log-sum-exp.
      logit_softcap: c > 0, or None for no cap.
      reduction: "mean" (the sum of u_t l_t over that of u_t w_y), "sum" or "none".
      chunk_size: tokens whose logits are held at a time, at least 1; 512 if None.

    Returns:
      The loss in nats, at least float32, as `cross_entropy` has it. The matrix products take `hidden` and `kernel` as
      they are and add up in at least float32; the logits are not rounded to their dtype.

    Raises:
      TypeError: an argument of the wrong dtype; a constant that isn't a Python number.
      ValueError: an argument of the wrong shape or out of range.

    Differentiation: reverse mode in hidden, kernel, bias and token weights to any order, and forward over reverse
    (`jax.custom_vjp`). With "mean" and "sum" the gradients themselves are saved, with "none" the arguments.

    Source: M14, M16, M24-M27.

    >>> import jax.numpy as jnp
    >>> print(linear_cross_entropy(jnp.array([[1.0, 0.0]]), jnp.array([[0.0, -20.0], [0.0, 0.0]]), jnp.array([0])))
    2.0611537e-09
    """
    options = _cross_entropy.loss_options(ignore_index, label_smoothing, z_loss, logit_softcap)
    _cross_entropy.require_reduction(reduction)
    chunk = CHUNK if chunk_size is None else _chunk_size(chunk_size)
    hidden, kernel = _checks.as_floating("hidden", hidden), _checks.as_floating("kernel", kernel)
    if hidden.ndim == 0:
        raise ValueError("hidden: expected shape [*batch, embed], got ()")
    *batch, embed = hidden.shape
    if kernel.ndim != 2 or kernel.shape[0] != embed:
        raise ValueError(f"kernel: expected shape [embed, vocab] with the hidden's embed = {embed}, got {kernel.shape}")
    vocab = kernel.shape[1]
    if bias is not None:
        bias = _checks.as_floating("bias", bias)
        _checks.require_shape("bias", bias, (vocab,), "[vocab]")
    labels = _cross_entropy.class_indices(labels, batch, vocab)
    class_weights, token_weights = _cross_entropy.as_weights(class_weights, token_weights, batch, vocab)
    dtype = _lse_state.accumulation_dtype(hidden.dtype, kernel.dtype)
    labels = labels.reshape(-1)
    ignored = _integer_labels.is_ignored(options, labels)
    tokens = jnp.ones(labels.shape, dtype) if token_weights is None else token_weights.reshape(-1).astype(dtype)
    tokens = jnp.where(ignored, 0, tokens)
    head = Head(hidden.reshape(-1, embed), kernel, bias)
    if reduction == "none":
        losses: Any = _losses(options, chunk, head, labels, class_weights)
        return _token_loss.weighted(tokens, losses).reshape(batch)
    if reduction == "mean":
        normalizers = _integer_labels.label_weights(labels, class_weights, vocab, dtype)
        tokens = _token_loss.mean_weights(tokens, normalizers)
    return _total(options, chunk, head, tokens, labels, class_weights)


class Head(NamedTuple):
    """What is differentiated: logits are hidden @ kernel + bias."""

    hidden: Any  # [tokens, embed]
    kernel: Any  # [embed, vocab]
    bias: Any  # [vocab], or None


def _chunk_size(value: Any) -> int:
    chunk = _checks.as_int("chunk_size", value)
    if chunk < 1:
        raise ValueError(f"chunk_size: expected an int >= 1 or None, got {chunk}")
    return chunk


def _dot(a: Array, b: Array) -> Array:
    """a @ b of operands as they are, added up in at least float32."""
    dtype = _lse_state.accumulation_dtype(a.dtype, b.dtype)
    if a.dtype != b.dtype:
        a, b = a.astype(dtype), b.astype(dtype)
    return lax.dot(a, b, preferred_element_type=dtype)


def _logits(x: Array, head: Head) -> Array:
    z = _dot(x, head.kernel)
    return z if head.bias is None else z + head.bias.astype(z.dtype)


def _in_chunks(chunk: int, *arrays: Array) -> tuple[Array, ...]:
    """Arrays over tokens as [chunks, chunk, ...], the last chunk filled up with zeros."""
    tokens = len(arrays[0])
    size = max(min(chunk, tokens), 1)
    missing = -tokens % size
    filled = (jnp.pad(a, [(0, missing)] + [(0, 0)] * (a.ndim - 1)) if missing else a for a in arrays)
    return tuple(a.reshape(-1, size, *a.shape[1:]) for a in filled)


def _losses_in_chunks(
    options: LossOptions, chunk: int, head: Head, labels: Array, class_weights: Array | None
) -> Array:
    """Losses [tokens]."""

    def of_chunk(tokens):
        x, y = tokens
        return _integer_labels.primal(options, _logits(x, head), y, class_weights, None, differentiated=False)[0]

    return lax.map(of_chunk, _in_chunks(chunk, head.hidden, labels)).reshape(-1)[: len(labels)]


def _with_gradients(
    options: LossOptions,
    chunk: int,
    wanted: tuple[bool, bool, bool],
    head: Head,
    scale: Array,
    labels: Array,
    class_weights: Array | None,
) -> tuple[Array, Head]:
    """Losses [tokens], and the gradients wanted of sum_t scale_t l_t in hidden, kernel and bias; else None."""
    by_hidden, by_kernel, by_bias = wanted
    (embed, vocab), dtype = head.kernel.shape, _lse_state.accumulation_dtype(head.hidden.dtype, head.kernel.dtype)
    block = min(BLOCK, vocab)

    def of_chunk(carry, tokens):
        x, x_transposed, y, u = tokens
        z = _logits(x, head)
        losses, state = _integer_labels.primal(options, z, y, class_weights, None)
        rows = _integer_labels.coefficients(options, z, y, class_weights, None, state, u)

        def of_block(i, sums):
            dx, dw, db = sums
            first = jnp.minimum(i * block, vocab - block)
            part = partial(lax.dynamic_slice_in_dim, start_index=first, slice_size=block)
            weights = None if class_weights is None else part(class_weights)
            g = _integer_labels.entries(options, part(z, axis=1), y, weights, state, rows, first)
            if vocab % block:  # the last block begins inside of the one before
                g = jnp.where(first + jnp.arange(block) >= i * block, g, 0)
            low = g.astype(head.kernel.dtype)
            if by_hidden:
                dx += _dot(low, part(head.kernel, axis=1).T)
            if by_kernel:
                dw = lax.dynamic_update_slice_in_dim(dw, part(dw, axis=1) + _dot(x_transposed, low), first, 1)
            if by_bias:
                db = lax.dynamic_update_slice_in_dim(db, part(db) + jnp.sum(g, 0), first, 0)
            return dx, dw, db

        dx = jnp.zeros(x.shape, dtype) if by_hidden else None
        dx, *carry = lax.fori_loop(0, -(-vocab // block), of_block, (dx, *carry))
        return tuple(carry), (losses, None if dx is None else dx.astype(x.dtype))

    start = (jnp.zeros((embed, vocab), dtype) if by_kernel else None, jnp.zeros(vocab, dtype) if by_bias else None)
    x, y, u = _in_chunks(chunk, head.hidden, labels, scale)
    # In memory, as XLA CPU is slow at x.T @ g.
    x_transposed = lax.optimization_barrier(jnp.swapaxes(x, 1, 2)) if by_kernel else None
    (dw, db), (losses, dx) = lax.scan(of_chunk, start, (x, x_transposed, y, u))
    dx = None if dx is None else dx.reshape(-1, embed)[: len(labels)]
    dw = None if dw is None else dw.astype(head.kernel.dtype)
    db = None if db is None else db.astype(head.bias.dtype)
    return losses.reshape(-1)[: len(labels)], Head(dx, dw, db)


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _total(
    options: LossOptions, chunk: int, head: Head, scale: Array, labels: Array, class_weights: Array | None
) -> Array:
    """sum_t scale_t l_t."""
    return jnp.sum(_token_loss.weighted(scale, _losses_in_chunks(options, chunk, head, labels, class_weights)))


def _total_fwd(options, chunk, head, scale, labels, class_weights):
    wanted = (head.hidden.perturbed, head.kernel.perturbed, head.bias is not None and head.bias.perturbed)
    arguments = (head, scale, labels, class_weights)
    values = jax.tree.map(lambda x: x.value, arguments, is_leaf=lambda x: isinstance(x, CustomVJPPrimal))
    losses, gradients = _with_gradients(options, chunk, wanted, *values)
    return jnp.sum(_token_loss.weighted(values[1], losses)), (losses, gradients)


def _total_bwd(_options, _chunk, residuals, total_bar):
    losses, gradients = residuals
    head_bar = (None if g is None else (total_bar * g.astype(total_bar.dtype)).astype(g.dtype) for g in gradients)
    return Head(*head_bar), total_bar * losses, None, None


_total.defvjp(_total_fwd, _total_bwd, symbolic_zeros=True)


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _losses(options: LossOptions, chunk: int, head: Head, labels: Array, class_weights: Array | None) -> Array:
    """l_t, [tokens]."""
    return _losses_in_chunks(options, chunk, head, labels, class_weights)


def _losses_fwd(options, chunk, head, labels, class_weights):
    return _losses_in_chunks(options, chunk, head, labels, class_weights), (head, labels, class_weights)


def _losses_bwd(options, chunk, residuals, losses_bar):
    head, labels, class_weights = residuals
    wanted = (True, True, head.bias is not None)
    _, head_bar = _with_gradients(options, chunk, wanted, head, losses_bar, labels, class_weights)
    return head_bar, None, None


_losses.defvjp(_losses_fwd, _losses_bwd)
