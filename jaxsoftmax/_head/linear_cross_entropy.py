"""The training loss of hidden @ kernel + bias, with the logits of some tokens or classes at a time (M16, M24-M27)."""

from typing import Literal, Unpack, overload

from jax import Array
from jax.typing import ArrayLike, DTypeLike
from jaxtyping import Bool, Float, Int, Real

from jaxsoftmax._head.arguments import HeadKeywords, PrecisionLike, as_settings, validate
from jaxsoftmax._head.loss import head_loss, head_task
from jaxsoftmax._head.rules import CUSTOM_VJP_RULES, HeadRules
from jaxsoftmax._loss_arguments import loss_options
from jaxsoftmax._loss_parts import LossParts, with_parts
from jaxsoftmax._rule_binding import with_rules
from jaxsoftmax._sharding import require_sharded, require_unsharded, shards_of_axis
from jaxsoftmax._sparse_labels import SparseLabels


@overload
def linear_cross_entropy(
    hidden: Float[ArrayLike, "*batch embed"],
    kernel: Float[ArrayLike, "embed vocab"] | Float[ArrayLike, "vocab embed"],
    labels: Int[ArrayLike, "*batch"] | SparseLabels,
    *,
    has_aux: Literal[False] = False,
    axis_name: str | tuple[str, ...] | None = None,
    **keywords: Unpack[HeadKeywords],
) -> Float[Array, "*batch"]: ...


@overload
def linear_cross_entropy(
    hidden: Float[ArrayLike, "*batch embed"],
    kernel: Float[ArrayLike, "embed vocab"] | Float[ArrayLike, "vocab embed"],
    labels: Int[ArrayLike, "*batch"] | SparseLabels,
    *,
    has_aux: Literal[True],
    axis_name: str | tuple[str, ...] | None = None,
    **keywords: Unpack[HeadKeywords],
) -> tuple[Float[Array, "*batch"], LossParts]: ...


@overload
def linear_cross_entropy(
    hidden: Float[ArrayLike, "*batch embed"],
    kernel: Float[ArrayLike, "embed vocab"] | Float[ArrayLike, "vocab embed"],
    labels: Int[ArrayLike, "*batch"] | SparseLabels,
    *,
    has_aux: bool = False,
    axis_name: str | tuple[str, ...] | None = None,
    **keywords: Unpack[HeadKeywords],
) -> Float[Array, "*batch"] | tuple[Float[Array, "*batch"], LossParts]: ...


@with_rules(CUSTOM_VJP_RULES)
def linear_cross_entropy(
    _rules: HeadRules,
    /,
    hidden: Float[ArrayLike, "*batch embed"],
    kernel: Float[ArrayLike, "embed vocab"] | Float[ArrayLike, "vocab embed"],
    labels: Int[ArrayLike, "*batch"] | SparseLabels,
    *,
    bias: Float[ArrayLike, " vocab"] | None = None,
    class_weights: Real[ArrayLike, " vocab"] | None = None,
    token_weights: Real[ArrayLike, "*batch"] | Bool[ArrayLike, "*batch"] | None = None,
    ignore_index: int | None = None,
    label_smoothing: float | Float[Array, ""] = 0.0,
    z_loss: float | Float[Array, ""] = 0.0,
    logit_softcap: float | Float[Array, ""] | None = None,
    reduction: str = "mean",
    has_aux: bool = False,
    transposed_kernel: bool = False,
    dtype: DTypeLike | None = None,
    precision: PrecisionLike = None,
    chunk_size: int | None = None,
    memory_budget: int | None = None,
    schedule: str | None = None,
    axis_name: str | tuple[str, ...] | None = None,
) -> Float[Array, "*batch"] | tuple[Float[Array, "*batch"], LossParts]:
    """`cross_entropy(hidden @ kernel + bias, labels, ...)` in the memory of a few tokens' logits (M16, M24-M27).

    Per token with hidden state x, integer label y, class weights w, smoothing eps and z-loss zeta:

        z = c tanh((x W + b) / c),   l = (1 - eps) w_y nll_y + (eps / V) Σ_j w_j (L - z_j) + zeta w_y L^2    (M24)
        dX = G W^T,   dW = X^T G,   db = Σ_t G_t,   where G is the loss's gradient in x W + b          (M16, M25)

    Args:
      hidden: floating, [*batch, embed].
      kernel: floating, [embed, vocab]; or [vocab, embed] with `transposed_kernel`.
      labels: integers in [0, vocab), [*batch]; or `SparseLabels`, a few weighted classes a token.
      bias: floating, [vocab]; 0 if None.
      class_weights: w, [vocab]; constants, through which no gradient flows.
      token_weights: u, [*batch], numbers or a boolean mask; 1 if None.
      ignore_index: an integer label whose tokens have loss 0, gradient 0 and no part in the mean, and add nothing to
        the kernel's and the bias's gradient, even if their hidden states are NaN or infinite.
      label_smoothing: eps in [0, 1], spread over all V classes.
      z_loss: zeta >= 0, the weight of the squared log-sum-exp.
      logit_softcap: c > 0, or None for no cap.
      reduction: "mean" (the sum of u_t l_t over that of u_t w_y, or of u_t with `SparseLabels`), "sum" or "none".
      has_aux: whether to return `(loss, LossParts)`, as for `jax.value_and_grad(..., has_aux=True)`: negative
        log-likelihood, z-loss, the sum of weights and that over right predictions, with no further product.
      transposed_kernel: whether the kernel is [vocab, embed], as an embedding table is; so is its gradient then.
      dtype: that of hidden and kernel in the products, as Flax casts them; None for their own. Gradients come back in
        their arguments' dtypes, and that of a float32 kernel is summed up in float32.
      precision: of the products: a `jax.lax.Precision` or `DotAlgorithmPreset`, or a name that
        `jax.default_matmul_precision` takes.
      chunk_size: tokens whose logits are held at a time, at least 1. If None: all, where the logits fill at most
        16 MiB (4 GiB on a TPU); else as many as fit into 256 MiB on a CPU, 2 GiB on a TPU, 1 GiB elsewhere; at least
        128 and at most 4096, on a CPU 512.
      memory_budget: bytes that the temporary arrays should take, at least 1, in place of those that the chunks of
        `chunk_size=None` take; copies of `hidden` come on top. Chunks are made to fit. With integer labels, where even
        the smallest, of 128 tokens or as `chunk_size` says, don't fit beside a float32 sum of the kernel's gradient,
        which is rounded to a narrower dtype at its end, all tokens are taken through a block of 128 classes or more at
        a time, without that sum: the logits are formed twice, and ignored tokens aren't skipped. Ignored with symbolic
        sizes (`jax.export`).
      schedule: "pallas" forms losses without gradients, and those of "none", by a Pallas kernel for TPU: for
        evaluation, as a training step of "mean" or "sum" has no use for it. It takes integer labels, no `has_aux`,
        constants that are Python numbers, and hidden and kernel both in float32 or both in bfloat16; all else, and
        other platforms, go as with None. No logits leave the chip. It has never
        run on a TPU: an interpreter checked it, and TPU's compiler takes it for v5e, v5p and v6e.
      axis_name: mesh axis, or several, of the `jax.shard_map` around, over which the classes are sharded:
        kernel, bias and class weights are this device's contiguous shard, labels count the classes of all, and tokens
        are the same on all. "mean" and "sum" are of this device's tokens. For global arrays there is
        `sharded_linear_cross_entropy`.

    Returns:
      The loss in nats, at least float32: a scalar, or [*batch] for "none"; with `has_aux=True` the pair of it and its
      parts. A mean over nothing is 0 with gradient 0. A label that is neither in [0, vocab) nor `ignore_index` gives
      NaN for its token, and for all of the kernel's and the bias's gradient, which are sums over tokens. A token of
      weight 0, or one whose loss of "none" is masked afterwards, adds a gradient of 0. Logits of +-inf do what they do
      in `cross_entropy`; an infinite loss of token weight 0 adds nothing. The matrix products take `hidden` and
      `kernel` as they are and add up in at least float32; the logits are not rounded to their dtype, but G is.

    Raises:
      TypeError: an argument of the wrong dtype; a constant that isn't a number.
      ValueError: an argument of the wrong shape or out of range, or sharded over Explicit axes of a mesh;
        `ignore_index` with `SparseLabels`; `axis_name` isn't an axis of a `jax.shard_map` with `check_vma=True`, or
        labels or token weights differ along it.

    Differentiation: reverse mode in hidden, kernel, bias and the weights of tokens and sparse labels to any order, and
    forward over reverse (`jax.custom_vjp`). The constants label_smoothing, z_loss and logit_softcap may be traced
    scalars, whose range isn't checked, and through which no gradient flows. With "mean" and "sum" the gradients
    themselves are saved and a number a token (with `SparseLabels` one for each class named, and one more with
    smoothing or z-loss), with "none" the arguments. The value that comes with a gradient may be a
    rounding apart from the value alone. For pure forward mode use `jaxsoftmax.forward_mode.linear_cross_entropy`.

    Source: M14, M16, M24-M27, M31, M33.

    >>> import jax.numpy as jnp
    >>> print(linear_cross_entropy(jnp.array([[1.0, 0.0]]), jnp.array([[0.0, -20.0], [0.0, 0.0]]), jnp.array([0])))
    2.0611537e-09
    """
    options = loss_options(ignore_index, label_smoothing, z_loss, logit_softcap)
    settings = as_settings(chunk_size, memory_budget, schedule, dtype, precision, transposed_kernel)
    arguments = validate(settings, options, hidden, kernel, labels, bias, class_weights, token_weights)
    task = head_task(_rules, reduction, has_aux, settings)
    shards = shards_of_axis(axis_name)
    require_unsharded(arguments, "sharded_linear_cross_entropy")
    require_sharded(shards, "kernel", arguments.kernel)
    loss, parts = head_loss(task, shards, options, arguments)
    return with_parts(task.has_aux, loss, parts)
