"""The training loss over logits: class and token weights, ignored tokens, smoothing, z-loss, soft cap (M24-M27)."""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal, NamedTuple, Unpack, overload

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Bool, Float, Int, Real

from jaxsoftmax import _checks
from jaxsoftmax._drop_in_losses import CUSTOM_VJP_RULES, LossRules
from jaxsoftmax._explicit_axes import sharded_alike
from jaxsoftmax._integer_labels import LOSSES, LOSSES_WITH_PARTS, LabelledTokens, TokenParts, label_weights
from jaxsoftmax._loss_arguments import (
    LossKeywords,
    as_weights,
    class_indices,
    loss_options,
    require_no_ignore_index,
    require_reduction,
)
from jaxsoftmax._loss_parts import LossParts, loss_parts, with_parts
from jaxsoftmax._math import token_loss
from jaxsoftmax._math.loss_options import LossOptions
from jaxsoftmax._math.precision import accumulation_dtype
from jaxsoftmax._objective import Objective
from jaxsoftmax._reduction import schedules
from jaxsoftmax._rule_binding import with_rules
from jaxsoftmax._sharding import Shards, match_vma, require_sharded, shards_of_axis
from jaxsoftmax._sparse_labels import (
    SPARSE_LOSSES,
    SPARSE_LOSSES_WITH_PARTS,
    SparseLabels,
    losses_of,
    parts_of,
    sparse_labels,
    sparse_tokens,
    term_weights,
)
from jaxsoftmax._token_labels import token_labels


@overload
def cross_entropy(
    logits: Float[ArrayLike, "*batch vocab"],
    labels: Int[ArrayLike, "*batch"] | Float[ArrayLike, "*batch vocab"] | SparseLabels,
    *,
    has_aux: Literal[False] = False,
    axis_name: str | tuple[str, ...] | None = None,
    **keywords: Unpack[LossKeywords],
) -> Float[Array, "*batch"]: ...


@overload
def cross_entropy(
    logits: Float[ArrayLike, "*batch vocab"],
    labels: Int[ArrayLike, "*batch"] | Float[ArrayLike, "*batch vocab"] | SparseLabels,
    *,
    has_aux: Literal[True],
    axis_name: str | tuple[str, ...] | None = None,
    **keywords: Unpack[LossKeywords],
) -> tuple[Float[Array, "*batch"], LossParts]: ...


@overload
def cross_entropy(
    logits: Float[ArrayLike, "*batch vocab"],
    labels: Int[ArrayLike, "*batch"] | Float[ArrayLike, "*batch vocab"] | SparseLabels,
    *,
    has_aux: bool = False,
    axis_name: str | tuple[str, ...] | None = None,
    **keywords: Unpack[LossKeywords],
) -> Float[Array, "*batch"] | tuple[Float[Array, "*batch"], LossParts]: ...


@with_rules(CUSTOM_VJP_RULES)
def cross_entropy(
    _rules: LossRules,
    /,
    logits: Float[ArrayLike, "*batch vocab"],
    labels: Int[ArrayLike, "*batch"] | Float[ArrayLike, "*batch vocab"] | SparseLabels,
    *,
    class_weights: Real[ArrayLike, " vocab"] | None = None,
    token_weights: Real[ArrayLike, "*batch"] | Bool[ArrayLike, "*batch"] | None = None,
    ignore_index: int | None = None,
    label_smoothing: float | Float[Array, ""] = 0.0,
    z_loss: float | Float[Array, ""] = 0.0,
    logit_softcap: float | Float[Array, ""] | None = None,
    reduction: str = "mean",
    has_aux: bool = False,
    axis_name: str | tuple[str, ...] | None = None,
) -> Float[Array, "*batch"] | tuple[Float[Array, "*batch"], LossParts]:
    """The training loss of a classifier or language model, over logits (M24-M27).

    Per token with an integer label y, class weights w, smoothing eps and z-loss zeta:

        l = (1 - eps) w_y nll_y + (eps / V) Σ_j w_j (L - z_j) + zeta w_y L^2,   z = c tanh(x / c)    (M24)

    and with float labels p, p' = (1 - eps) p + eps / V:  l = Σ_j w_j p'_j (L - z_j) + zeta L^2      (M26).
    `SparseLabels` are float labels with a few entries, Σ_i weights_i e_{indices_i}                       (M31).

    Args:
      logits: floating, [*batch, vocab], in nats.
      labels: integers in [0, vocab), [*batch]; or floating weights, [*batch, vocab]; or `SparseLabels`.
      class_weights: w, [vocab]; constants, through which no gradient flows.
      token_weights: u, [*batch], numbers or a boolean mask; 1 if None.
      ignore_index: an integer label whose tokens have loss 0, gradient 0 and no part in the mean.
      label_smoothing: eps in [0, 1], spread over all V classes.
      z_loss: zeta >= 0, the weight of the squared log-sum-exp.
      logit_softcap: c > 0, or None for no cap.
      reduction: "mean" (the sum of u_t l_t over that of u_t w_y, or of u_t with other labels), "sum" or "none".
      has_aux: whether to return `(loss, LossParts)`, as for `jax.value_and_grad(..., has_aux=True)`: negative
        log-likelihood, z-loss, the sum of weights and that over right predictions, from the same pass (of float labels
        with one more sum).
      axis_name: mesh axis, or several, of the `jax.shard_map` around, over which the classes are sharded:
        logits, float labels and class weights are this device's contiguous shard, other labels count all classes.

    Returns:
      The loss in nats, at least float32: a scalar, or [*batch] for "none"; with `has_aux=True` the pair of it and its
      parts. A mean over nothing is 0 with gradient 0.
      A label that is neither in [0, vocab) nor `ignore_index` gives a NaN loss, whatever its token weight, and a NaN
      gradient in its row's logits; that is 0 under token weight 0, and where the loss is masked afterwards. A row of
      -inf alone gives +inf, with gradient 0, and so does smoothing over a class at -inf; a soft cap makes -inf the
      finite -c. An infinite loss of token weight 0 adds nothing. A logit of NaN, or of +inf at the label or with float
      labels, gives a NaN loss and gradient; a +inf elsewhere a loss of +inf (NaN under class weight 0 or label
      smoothing) and a NaN gradient.

    Raises:
      TypeError: an argument of the wrong dtype; a constant that isn't a number.
      ValueError: an argument of the wrong shape or out of range, as are labels that JAX would cut down to another
        integer while `jax_enable_x64` is off; `ignore_index` with other labels than integers; `axis_name`
        isn't an axis of a `jax.shard_map` with `check_vma=True`, or labels or token weights differ along it.

    Differentiation: reverse mode in logits, weights of labels (M12) and of tokens to any order, and forward over
    reverse (`jax.custom_vjp`); saved are the arguments and a few numbers a row. The constants label_smoothing, z_loss
    and logit_softcap may be traced scalars, whose range isn't checked, and through which no gradient flows. For pure
    forward mode use `jaxsoftmax.forward_mode.cross_entropy`.

    Source: M11, M14, M24-M27, M31, M33.

    >>> import jax, jax.numpy as jnp
    >>> logits = jnp.array([[0.0, -20.0], [0.0, 0.0]])
    >>> print(cross_entropy(logits, jnp.array([0, 1]), reduction="none"))
    [2.0611537e-09 6.9314718e-01]
    >>> print(jax.grad(cross_entropy)(logits, jnp.array([-100, 1]), ignore_index=-100))
    [[ 0.   0. ]
     [ 0.5 -0.5]]
    """
    options = loss_options(ignore_index, label_smoothing, z_loss, logit_softcap)
    require_reduction(reduction)
    shards = shards_of_axis(axis_name)
    logits = _checks.as_floating("logits", logits)
    if logits.ndim == 0:
        raise ValueError("logits: expected shape [*batch, vocab], got ()")
    require_sharded(shards, "logits", logits)
    *batch, local_vocab = logits.shape
    class_weights, token_weights = as_weights(class_weights, token_weights, batch, local_vocab)
    labels, of_labels = _validate_labels(options, logits, labels)
    task = _Task(_rules, reduction, _checks.as_flag("has_aux", has_aux), shards)
    loss, parts = of_labels(task, options, logits, labels, class_weights, token_weights)
    return with_parts(task.has_aux, loss, parts)


def _validate_labels(options: LossOptions, logits: Array, labels: Any) -> tuple[Any, Callable[..., Any]]:
    """The labels, and the function that forms the loss of labels of their kind."""
    *batch, local_vocab = logits.shape
    if isinstance(labels, SparseLabels):
        return sparse_labels(options, labels, batch, local_vocab), _of_sparse_labels
    labels = _checks.as_labels("labels", labels)
    if not jnp.issubdtype(labels.dtype, jnp.floating):
        return class_indices(labels, batch, local_vocab), _of_integer_labels
    require_no_ignore_index(options, "float labels")
    meaning = "[*batch, vocab], as they are floating; classes are integers"
    _checks.require_shape("labels", labels, logits.shape, meaning)
    return labels, _of_float_labels


class _Task(NamedTuple):
    """The static settings of a call of `cross_entropy`."""

    rules: LossRules
    reduction: str
    has_aux: bool
    shards: Shards


@partial(jax.jit, static_argnums=0)
def _of_float_labels(
    task: _Task,
    options: LossOptions,
    logits: Array,
    labels: Array,
    class_weights: Array | None,
    token_weights: Array | None,
) -> tuple[Array, LossParts | None]:
    logits, labels = sharded_alike(logits, labels)
    of_classes, token_weights = match_vma(task.shards, (logits, labels, class_weights), token_weights)
    options = options.astype(accumulation_dtype(logits.dtype, labels.dtype))
    losses, parts = task.rules.float_labels(task.shards, task.has_aux, options, *of_classes, None)
    return _reduced(task, losses, token_weights, jnp.ones_like(losses), parts)


@partial(jax.jit, static_argnums=0)
def _of_integer_labels(
    task: _Task,
    options: LossOptions,
    logits: Array,
    labels: Array,
    class_weights: Array | None,
    token_weights: Array | None,
) -> tuple[Array, LossParts | None]:
    of_classes, of_tokens = match_vma(task.shards, (logits, class_weights), (labels, token_weights))
    (logits, class_weights), (labels, token_weights) = of_classes, of_tokens
    labels_of_tokens = token_labels(options, task.shards, labels, logits.shape[-1])
    options = options.astype(accumulation_dtype(logits.dtype))
    equations = LOSSES_WITH_PARTS if task.has_aux else LOSSES
    objective = Objective(equations, options, LabelledTokens(labels_of_tokens), class_weights)
    losses, parts = task.rules.rows(task.shards, logits, objective)
    ignored = labels_of_tokens.ignored
    normalizers = label_weights(task.shards, labels_of_tokens, class_weights, losses.dtype)
    if token_weights is not None:
        token_weights = jnp.where(ignored, 0, token_weights)
    return _reduced(task, losses, token_weights, jnp.where(ignored, 0, normalizers), parts)


@partial(jax.jit, static_argnums=0)
def _of_sparse_labels(
    task: _Task,
    options: LossOptions,
    logits: Array,
    labels: SparseLabels,
    class_weights: Array | None,
    token_weights: Array | None,
) -> tuple[Array, LossParts | None]:
    of_classes, of_tokens = match_vma(task.shards, (logits, class_weights), (labels, token_weights))
    (logits, class_weights), (labels, token_weights) = of_classes, of_tokens
    dtype = accumulation_dtype(logits.dtype)
    options, tokens = options.astype(dtype), sparse_tokens(task.shards, labels.indices, logits.shape[-1])
    equations = SPARSE_LOSSES_WITH_PARTS if task.has_aux else SPARSE_LOSSES
    outputs, extras = task.rules.rows(task.shards, logits, Objective(equations, options, tokens, class_weights))
    ones = jnp.ones(logits.shape[:-1], dtype)
    losses = losses_of(term_weights(options, labels, ones), outputs)
    parts = parts_of(labels, extras) if task.has_aux else None
    return _reduced(task, losses, token_weights, ones, parts)


def _reduced(
    task: _Task, losses: Array, token_weights: Array | None, normalizers: Array, parts: TokenParts | None
) -> tuple[Array, LossParts | None]:
    """Losses [*batch] reduced: mean = Σ_t u_t l_t / Σ_t u_t n_t (M27); and their parts, reduced in the same way.

    `normalizers` is w_y for integer labels, 1 for float targets, and 0 where the token is ignored.
    """
    losses = schedules.before_total(losses)
    if token_weights is not None:
        token_weights = token_weights.astype(losses.dtype)  # once, as its gradient then is rounded once
        losses, normalizers = token_loss.weighted(token_weights, losses), token_weights * normalizers
    of_loss = None if parts is None else loss_parts(task.reduction, parts, token_weights, normalizers)
    if task.reduction == "none":
        return losses, of_loss
    total = jnp.sum(losses)
    return (total if task.reduction == "sum" else token_loss.mean(total, jnp.sum(normalizers))), of_loss
