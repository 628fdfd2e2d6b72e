"""Cross-entropy losses over logits: the drop-ins for optax, and the training loss."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Bool, Float, Int, Real

from jaxsoftmax import _checks, _integer_labels, _lse_state, _shards, _token_loss
from jaxsoftmax._float_labels import float_label_losses
from jaxsoftmax._integer_labels import integer_label_losses
from jaxsoftmax._token_loss import LossOptions


class LossRules(NamedTuple):
    """The functions that carry a derivative: in reverse mode here, in both modes in `forward_mode`."""

    integer_labels: Callable[..., Any]
    float_labels: Callable[..., Any]


REVERSE_MODE = LossRules(integer_label_losses, float_label_losses)


def softmax_cross_entropy(
    logits: Float[ArrayLike, "..."],
    labels: Real[ArrayLike, "..."],
    axis: int | tuple[int, ...] | None = -1,
    where: Bool[ArrayLike, "..."] | None = None,
) -> Float[Array, "*batch"]:
    """Cross-entropy with a weight for every class, -Σ_i t_i log s_i (M11).

    A drop-in for `optax.softmax_cross_entropy`. The labels may be any real weights: probabilities, unnormalised or
    signed. Its gradient is s Σ_j t_j - t for all of them.

    Args:
      logits: floating, [*batch, vocab] for the default axis, in nats.
      labels: real, of a shape that broadcasts with the logits'; integer labels must have exactly that shape.
      axis: the class axis or axes; None means all.
      where: boolean mask of the elements to include, of the logits' rank or [*batch].

    Returns:
      Losses [*batch] in nats, at least float32. A class of label 0 adds nothing, even at a logit of -inf; another
      label at -inf gives +inf. A fully masked row, or one of no classes, gives 0; a row of -inf alone +inf, with
      gradient 0. A logit of +inf or NaN gives a NaN loss and gradient.

    Raises:
      TypeError: the logits aren't floating, or an argument isn't a real array.
      ValueError: the shapes don't broadcast, or an axis is out of range or given twice.

    Differentiation: reverse mode in logits and labels (M12) to any order, and forward over reverse
    (`jax.custom_vjp`); saved are the arguments and four numbers a row. For pure forward mode use
    `jaxsoftmax.forward_mode.softmax_cross_entropy`.

    Source: M11, M12, M15, M19, M20.

    >>> import jax, jax.numpy as jnp
    >>> logits, labels = jnp.array([0.0, -20.0]), jnp.array([1.0, 0.0])
    >>> print(softmax_cross_entropy(logits, labels))
    2.0611537e-09
    >>> print(jax.grad(softmax_cross_entropy)(logits, labels))
    [-2.0611537e-09  2.0611537e-09]
    """
    return apply_float_labels(REVERSE_MODE, logits, labels, axis, where)


def softmax_cross_entropy_with_integer_labels(
    logits: Float[ArrayLike, "..."],
    labels: Int[ArrayLike, "*batch"],
    axis: int | tuple[int, ...] = -1,
    where: Bool[ArrayLike, "..."] | None = None,
) -> Float[Array, "*batch"]:
    """Negative log-likelihood of a class, -log s_y = (m - x_y) + log1p(r) (M11, M19).

    A drop-in for `optax.softmax_cross_entropy_with_integer_labels`. Its gradient is s - e_y, with both the loss and
    the label's entry s_y - 1 relatively accurate however confident the row is.

    Args:
      logits: floating, [*batch, vocab] for the default axis, in nats.
      labels: integers in [0, vocab), [*batch]. With several axes a label is the flat index into them.
      axis: the class axis or axes.
      where: boolean mask of the elements to include, of the logits' rank or [*batch]. As in optax a masked
        label still names its own logit.

    Returns:
      Losses [*batch] in nats, at least float32. A label outside [0, vocab) gives NaN loss and a NaN gradient for its
      own row; -1 is not the last class. A fully masked row gives 0; a row of -inf alone +inf, with gradient 0. A
      logit of +inf or NaN gives a NaN loss and gradient.

    Raises:
      TypeError: the logits aren't floating or the labels not integers.
      ValueError: the labels' shape isn't [*batch], there are no classes, or an axis is out of range, given twice or
        None.

    Differentiation: reverse mode in the logits to any order, and forward over reverse (`jax.custom_vjp`); saved are
    the arguments and two numbers a row. For pure forward mode use
    `jaxsoftmax.forward_mode.softmax_cross_entropy_with_integer_labels`.

    Source: M11, M15, M19, M20.

    >>> import jax, jax.numpy as jnp
    >>> logits = jnp.array([0.0, -20.0])
    >>> print(softmax_cross_entropy_with_integer_labels(logits, 0))
    2.0611537e-09
    >>> print(jax.grad(softmax_cross_entropy_with_integer_labels)(logits, 0))
    [-2.0611537e-09  2.0611537e-09]
    """
    return apply_integer_labels(REVERSE_MODE, logits, labels, axis, where)


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
      axis_name: mesh axis, or several, of the `jax.shard_map` around, over whose devices the classes are spread:
        logits, float labels and class weights are this device's contiguous shard, integer labels count all classes.

    Returns:
      The loss in nats, at least float32: a scalar, or [*batch] for "none". A mean over nothing is 0 with gradient 0.
      A label that is neither in [0, vocab) nor `ignore_index` gives NaN for its token, whatever its token weight. A row
      of -inf alone gives +inf, with gradient 0, and so does smoothing over a class at -inf; a soft cap makes -inf the
      finite -c. An infinite loss of token weight 0 adds nothing. A logit of +inf or NaN gives a NaN loss and gradient.

    Raises:
      TypeError: an argument of the wrong dtype; a constant that isn't a number, or is traced.
      ValueError: an argument of the wrong shape or out of range, or `ignore_index` with float labels; `axis_name`
        isn't an axis of a `jax.shard_map` with `check_vma=True`, or labels or token weights differ along it.

    Differentiation: reverse mode in logits, float labels (M12) and token weights to any order, and forward over
    reverse (`jax.custom_vjp`); saved are the arguments and two or four numbers a row. For pure forward mode use
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
    options = loss_options(ignore_index, label_smoothing, z_loss, logit_softcap, axis_name)
    return apply_training_loss(REVERSE_MODE, options, logits, labels, class_weights, token_weights, reduction)


def apply_float_labels(rules: LossRules, logits: Any, labels: Any, axis: Any, where: Any) -> Array:
    """Validate, move the classes to the last axis, and hand over to the rule."""
    logits = _checks.as_floating("logits", logits)
    labels = _checks.as_array("labels", labels)
    if not jnp.issubdtype(labels.dtype, jnp.floating):
        _checks.require_shape("labels", labels, logits.shape, "an integer weight for every logit")
        labels = labels.astype(logits.dtype)
    shape = _checks.broadcast_shape({"logits": logits, "labels": labels})
    axes = _checks.as_axes(axis, len(shape))
    logits, labels = (_lse_state.axes_last(jnp.broadcast_to(array, shape), axes) for array in (logits, labels))
    mask = _mask_classes_last(where, shape, axes)
    return _unless_masked(rules.float_labels(LossOptions(), logits, labels, None, mask), mask)


def apply_integer_labels(rules: LossRules, logits: Any, labels: Any, axis: Any, where: Any) -> Array:
    """Validate, move the classes to the last axis, and hand over to the rule."""
    logits = _checks.as_floating("logits", logits)
    if axis is None:
        raise ValueError("axis: expected an int or a tuple of ints, got None")
    axes = _checks.as_axes(axis, logits.ndim)
    mask = _mask_classes_last(where, logits.shape, axes)
    logits = _lse_state.axes_last(logits, axes)
    labels = class_indices(labels, logits.shape[:-1], logits.shape[-1])
    return _unless_masked(rules.integer_labels(LossOptions(), logits, labels, None, mask), mask)


def apply_training_loss(
    rules: LossRules,
    options: LossOptions,
    logits: Any,
    labels: Any,
    class_weights: Any,
    token_weights: Any,
    reduction: str,
) -> Array:
    """Validate, choose the rule by the labels' dtype, and reduce."""
    _token_loss.require_reduction(reduction)
    logits = _checks.as_floating("logits", logits)
    if logits.ndim == 0:
        raise ValueError("logits: expected shape [*batch, vocab], got ()")
    _shards.require_spread(options.shards, "logits", logits)
    *batch, columns = logits.shape
    class_weights, token_weights = as_weights(class_weights, token_weights, batch, columns)
    labels = _checks.as_array("labels", labels)
    if jnp.issubdtype(labels.dtype, jnp.floating):
        if options.ignore_index is not None:
            raise ValueError(f"ignore_index: expected None with float labels, got {options.ignore_index}")
        _checks.require_shape("labels", labels, logits.shape, "[*batch, vocab], as they are floating")
        of_classes, token_weights = _shards.alike(options.shards, (logits, labels, class_weights), token_weights)
        losses = rules.float_labels(options, *of_classes, None)
        normalizers = jnp.ones(batch, losses.dtype)
    else:
        of_classes, of_tokens = (logits, class_weights), (class_indices(labels, batch, columns), token_weights)
        (logits, class_weights), (labels, token_weights) = _shards.alike(options.shards, of_classes, of_tokens)
        losses = rules.integer_labels(options, logits, labels, class_weights, None)
        ignored = _integer_labels.is_ignored(options, labels)
        label_weights = _integer_labels.label_weights(options, labels, class_weights, columns, losses.dtype)
        normalizers = jnp.where(ignored, 0, label_weights)
        token_weights = None if token_weights is None else jnp.where(ignored, 0, token_weights)
    return _token_loss.reduce(reduction, losses, token_weights, normalizers)  # (M27)


def loss_options(
    ignore_index: Any, label_smoothing: Any, z_loss: Any, logit_softcap: Any, axis_name: Any = None
) -> LossOptions:
    """The static options, each in its range."""
    if ignore_index is not None:
        ignore_index = _checks.as_int("ignore_index", ignore_index)
    smoothing = _checks.as_number("label_smoothing", label_smoothing, "a number in [0, 1]")
    if not 0 <= smoothing <= 1:
        raise ValueError(f"label_smoothing: expected a number in [0, 1], got {smoothing}")
    penalty = _checks.as_number("z_loss", z_loss, "a number >= 0")
    if penalty < 0:
        raise ValueError(f"z_loss: expected a number >= 0, got {penalty}")
    cap = None if logit_softcap is None else _checks.as_number("logit_softcap", logit_softcap, "a number > 0")
    if cap is not None and cap <= 0:
        raise ValueError(f"logit_softcap: expected a number > 0 or None, got {cap}")
    return LossOptions(ignore_index, smoothing, penalty, cap, _shards.of_axis(axis_name))


def as_weights(
    class_weights: Any, token_weights: Any, batch: Sequence[int], vocab: int
) -> tuple[Array | None, Array | None]:
    """Class weights [vocab], which are constants, and token weights [*batch], where given."""
    if class_weights is not None:
        class_weights = jax.lax.stop_gradient(_checks.as_inexact("class_weights", class_weights))
        _checks.require_shape("class_weights", class_weights, (vocab,), "[vocab]")
    if token_weights is not None:
        token_weights = _checks.as_inexact("token_weights", token_weights)
        _checks.require_shape("token_weights", token_weights, batch, "[*batch]")
    return class_weights, token_weights


def class_indices(labels: Any, batch: Sequence[int], vocab: int, of: str = "logits") -> Array:
    """Integer labels [*batch] of an argument [*batch, ...], wide enough to compare with any of `vocab` classes."""
    hint = "; labels that are weights, floating [*batch, vocab], are for softmax_cross_entropy and cross_entropy"
    labels = _checks.as_integer("labels", labels, hint)
    _checks.require_shape("labels", labels, batch, f"[*batch] of the {of}")
    if vocab == 0:
        raise ValueError("logits: expected at least one class, got vocab = 0")
    return labels.astype(jnp.int64 if labels.dtype.itemsize == 8 else jnp.int32)  # from 2^31 or 2^63 on: negative


def _mask_classes_last(where: Any, shape: tuple[int, ...], axes: tuple[int, ...]) -> Array | None:
    if where is None:
        return None
    mask = _checks.as_mask("where", where)
    if mask.ndim + len(axes) == len(shape):
        batch = [n for i, n in enumerate(shape) if i not in axes]
        _checks.require_broadcastable("where", mask, batch, "logits' batch")
        mask = jnp.expand_dims(mask, axes)
    _checks.require_broadcastable("where", mask, shape, "logits'")
    return _lse_state.axes_last(jnp.broadcast_to(mask, shape), axes)


def _unless_masked(losses: Array, mask: Array | None) -> Array:
    return losses if mask is None else jnp.where(jnp.any(mask, -1), losses, 0)
