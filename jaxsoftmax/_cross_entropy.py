"""The training loss over logits: class and token weights, ignored tokens, smoothing, z-loss, soft cap (M24-M27)."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Float, Int, Real

from jaxsoftmax import _checks
from jaxsoftmax._drop_in_losses import CUSTOM_VJP_RULES, LossRules
from jaxsoftmax._integer_labels import label_weights
from jaxsoftmax._loss_arguments import as_weights, class_indices, loss_options, require_reduction
from jaxsoftmax._math import token_loss
from jaxsoftmax._math.token_loss import LossOptions
from jaxsoftmax._reduction import schedules
from jaxsoftmax._sharding import Shards, match_vma, require_sharded, shards_of_axis
from jaxsoftmax._token_labels import token_labels


def cross_entropy(
    logits: Float[ArrayLike, "*batch vocab"],
    labels: Int[ArrayLike, "*batch"] | Float[ArrayLike, "*batch vocab"],
    *,
    class_weights: Real[ArrayLike, " vocab"] | None = None,
    token_weights: Real[ArrayLike, "*batch"] | None = None,
    ignore_index: int | None = None,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
    logit_softcap: float | None = None,
    reduction: str = "mean",
    axis_name: str | tuple[str, ...] | None = None,
) -> Float[Array, "*batch"]:
    """The training loss of a classifier or language model, over logits (M24-M27).

    Per token with an integer label y, class weights w, smoothing eps and z-loss zeta:

        l = (1 - eps) w_y nll_y + (eps / V) Σ_j w_j (L - z_j) + zeta w_y L^2,   z = c tanh(x / c)    (M24)

    and with float labels p, p' = (1 - eps) p + eps / V:  l = Σ_j w_j p'_j (L - z_j) + zeta L^2      (M26).

    Args:
      logits: floating, [*batch, vocab], in nats.
      labels: integers in [0, vocab), [*batch]; or floating weights, [*batch, vocab].
      class_weights: w, [vocab]; constants, through which no gradient flows.
      token_weights: u, [*batch]; 1 if None.
      ignore_index: an integer label whose tokens have loss 0, gradient 0 and no part in the mean.
      label_smoothing: eps in [0, 1], spread over all V classes.
      z_loss: zeta >= 0, the weight of the squared log-sum-exp.
      logit_softcap: c > 0, or None for no cap.
      reduction: "mean" (the sum of u_t l_t over that of u_t w_y, or of u_t with float labels), "sum" or "none".
      axis_name: mesh axis, or several, of the `jax.shard_map` around, over which the classes are sharded:
        logits, float labels and class weights are this device's contiguous shard, integer labels count all classes.

    Returns:
      The loss in nats, at least float32: a scalar, or [*batch] for "none". A mean over nothing is 0 with gradient 0.
      A label that is neither in [0, vocab) nor `ignore_index` gives NaN for its token, whatever its token weight. A row
      of -inf alone gives +inf, with gradient 0, and so does smoothing over a class at -inf; a soft cap makes -inf the
      finite -c. An infinite loss of token weight 0 adds nothing. A logit of NaN, or of +inf at the label or with float
      labels, gives a NaN loss and gradient; a +inf elsewhere a loss of +inf (NaN under class weight 0 or label
      smoothing) and a NaN gradient.

    Raises:
      TypeError: an argument of the wrong dtype; a constant that isn't a number, or is traced.
      ValueError: an argument of the wrong shape or out of range, as are labels that JAX would cut down to another
        integer while `jax_enable_x64` is off; `ignore_index` with float labels; `axis_name`
        isn't an axis of a `jax.shard_map` with `check_vma=True`, or labels or token weights differ along it.

    Differentiation: reverse mode in logits, float labels (M12) and token weights to any order, and forward over
    reverse (`jax.custom_vjp`); saved are the arguments and three or four numbers a row. For pure forward mode use
    `jaxsoftmax.forward_mode.cross_entropy`.

    Source: M11, M14, M24-M27.

    >>> import jax, jax.numpy as jnp
    >>> logits = jnp.array([[0.0, -20.0], [0.0, 0.0]])
    >>> print(cross_entropy(logits, jnp.array([0, 1]), reduction="none"))
    [2.0611537e-09 6.9314718e-01]
    >>> print(jax.grad(cross_entropy)(logits, jnp.array([-100, 1]), ignore_index=-100))
    [[ 0.   0. ]
     [ 0.5 -0.5]]
    """
    options = loss_options(ignore_index, label_smoothing, z_loss, logit_softcap)
    arrays = logits, labels, class_weights, token_weights
    return cross_entropy_with(CUSTOM_VJP_RULES, options, reduction, axis_name, *arrays)


def cross_entropy_with(
    rules: LossRules,
    options: LossOptions,
    reduction: str,
    axis_name: Any,
    logits: Any,
    labels: Any,
    class_weights: Any,
    token_weights: Any,
) -> Array:
    """Validate the arguments of `cross_entropy`, choose the rule by the labels' dtype, and reduce."""
    require_reduction(reduction)
    shards = shards_of_axis(axis_name)
    logits = _checks.as_floating("logits", logits)
    if logits.ndim == 0:
        raise ValueError("logits: expected shape [*batch, vocab], got ()")
    require_sharded(shards, "logits", logits)
    *batch, local_vocab = logits.shape
    class_weights, token_weights = as_weights(class_weights, token_weights, batch, local_vocab)
    labels = _checks.as_labels("labels", labels)
    if jnp.issubdtype(labels.dtype, jnp.floating):
        if options.ignore_index is not None:
            raise ValueError(f"ignore_index: expected None with float labels, got {options.ignore_index}")
        meaning = "[*batch, vocab], as they are floating; classes are integers"
        _checks.require_shape("labels", labels, logits.shape, meaning)
        of_labels = _of_float_labels
    else:
        labels, of_labels = class_indices(labels, batch, local_vocab), _of_integer_labels
    return of_labels(rules, options, shards, reduction, logits, labels, class_weights, token_weights)


@partial(jax.jit, static_argnums=(0, 1, 2, 3))
def _of_float_labels(
    rules: LossRules,
    options: LossOptions,
    shards: Shards,
    reduction: str,
    logits: Array,
    labels: Array,
    class_weights: Array | None,
    token_weights: Array | None,
) -> Array:
    of_classes, token_weights = match_vma(shards, (logits, labels, class_weights), token_weights)
    losses = rules.float_labels(options, shards, *of_classes, None)
    return _reduce(reduction, losses, token_weights, jnp.ones_like(losses))


@partial(jax.jit, static_argnums=(0, 1, 2, 3))
def _of_integer_labels(
    rules: LossRules,
    options: LossOptions,
    shards: Shards,
    reduction: str,
    logits: Array,
    labels: Array,
    class_weights: Array | None,
    token_weights: Array | None,
) -> Array:
    of_classes, of_tokens = match_vma(shards, (logits, class_weights), (labels, token_weights))
    (logits, class_weights), (labels, token_weights) = of_classes, of_tokens
    labels_of_tokens = token_labels(options, shards, labels, logits.shape[-1])
    losses = rules.integer_labels(options, shards, logits, labels_of_tokens, class_weights, None)
    ignored = labels_of_tokens.ignored
    normalizers = label_weights(shards, labels_of_tokens, class_weights, losses.dtype)
    if token_weights is not None:
        token_weights = jnp.where(ignored, 0, token_weights)
    return _reduce(reduction, losses, token_weights, jnp.where(ignored, 0, normalizers))


def _reduce(reduction: str, losses: Array, token_weights: Array | None, normalizers: Array) -> Array:
    """Losses [*batch] reduced: mean = Σ_t u_t l_t / Σ_t u_t n_t (M27).

    `normalizers` is w_y for integer labels, 1 for float targets, and 0 where the token is ignored.
    """
    losses = schedules.before_total(losses)
    if token_weights is not None:
        token_weights = token_weights.astype(losses.dtype)  # once, as its gradient then is rounded once
        losses, normalizers = token_loss.weighted(token_weights, losses), token_weights * normalizers
    if reduction == "none":
        return losses
    total = jnp.sum(losses)
    return total if reduction == "sum" else token_loss.mean(total, jnp.sum(normalizers))
