"""Cross-entropy losses with the signatures of optax: of float labels, and of integer labels (M11)."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Bool, Float, Int, Real

from jaxsoftmax import _checks
from jaxsoftmax._explicit_axes import sharded_alike
from jaxsoftmax._float_labels import float_label_losses
from jaxsoftmax._integer_labels import LOSSES, LabelledTokens
from jaxsoftmax._logsumexp import axes_last
from jaxsoftmax._loss_arguments import class_indices
from jaxsoftmax._math.loss_options import LossOptions
from jaxsoftmax._math.precision import accumulation_dtype
from jaxsoftmax._objective import Objective
from jaxsoftmax._row_rules import row_outputs
from jaxsoftmax._rule_binding import with_rules
from jaxsoftmax._sharding import NOT_SHARDED, match_vma
from jaxsoftmax._token_labels import token_labels


class LossRules(NamedTuple):
    """The functions with a derivative rule: `custom_vjp` in `jaxsoftmax`, `custom_jvp` in `forward_mode`."""

    rows: Callable[..., Any]  # as `row_outputs`
    float_labels: Callable[..., Any]  # as `float_label_losses`


CUSTOM_VJP_RULES = LossRules(row_outputs, float_label_losses)
_PLAIN = LossOptions()


@with_rules(CUSTOM_VJP_RULES)
def softmax_cross_entropy(
    _rules: LossRules,
    /,
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
    logits = _checks.as_floating("logits", logits)
    labels = _checks.as_real("labels", labels)
    if not jnp.issubdtype(labels.dtype, jnp.floating):
        _checks.require_shape("labels", labels, logits.shape, "an integer weight for every logit")
        labels = labels.astype(accumulation_dtype(logits.dtype))
    shape = _checks.broadcast_shape({"logits": logits, "labels": labels})
    axes = _checks.as_axes(axis, len(shape))
    return _drop_in_float_labels(_rules, axes, logits, labels, _as_mask_of_classes(where, shape, axes))


@with_rules(CUSTOM_VJP_RULES)
def softmax_cross_entropy_with_integer_labels(
    _rules: LossRules,
    /,
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
      Losses [*batch] in nats, at least float32. A label outside [0, vocab) gives NaN loss and a NaN gradient in its
      own row; the gradient is 0 if that loss is masked afterwards; -1 is not the last class. A fully masked row gives
      0; a row of -inf alone +inf, with gradient 0. A logit of NaN, or of +inf at the label, gives a NaN loss and
      gradient; a +inf elsewhere a loss of +inf, as in optax, and a NaN gradient.

    Raises:
      TypeError: the logits aren't floating or the labels not integers.
      ValueError: the labels' shape isn't [*batch], there are no classes, or an axis is out of range, given twice or
        None.

    Differentiation: reverse mode in the logits to any order, and forward over reverse (`jax.custom_vjp`); saved are
    the arguments and three numbers a row. For pure forward mode use
    `jaxsoftmax.forward_mode.softmax_cross_entropy_with_integer_labels`.

    Source: M11, M15, M19, M20.

    >>> import jax, jax.numpy as jnp
    >>> logits = jnp.array([0.0, -20.0])
    >>> print(softmax_cross_entropy_with_integer_labels(logits, 0))
    2.0611537e-09
    >>> print(jax.grad(softmax_cross_entropy_with_integer_labels)(logits, 0))
    [-2.0611537e-09  2.0611537e-09]
    """
    logits = _checks.as_floating("logits", logits)
    if axis is None:
        raise ValueError("axis: expected an int or a tuple of ints, got None")
    axes = _checks.as_axes(axis, logits.ndim)
    mask = _as_mask_of_classes(where, logits.shape, axes)
    batch = [n for i, n in enumerate(logits.shape) if i not in axes]
    labels = class_indices(labels, batch, math.prod(logits.shape[i] for i in axes))
    return _drop_in_integer_labels(_rules, axes, logits, labels, mask)


# Without jit, an eager call would compile its branches each time.
@partial(jax.jit, static_argnums=(0, 1))
def _drop_in_float_labels(
    rules: LossRules, axes: tuple[int, ...], logits: Array, labels: Array, where: Array | None
) -> Array:
    shape = jnp.broadcast_shapes(logits.shape, labels.shape)
    logits, labels = (axes_last(jnp.broadcast_to(array, shape), axes) for array in (logits, labels))
    mask = None if where is None else axes_last(jnp.broadcast_to(where, shape), axes)
    (logits, labels, mask), _ = match_vma(NOT_SHARDED, sharded_alike(logits, labels, mask), ())
    losses, _ = rules.float_labels(NOT_SHARDED, False, _PLAIN, logits, labels, None, mask)
    return _zero_if_masked(losses, mask)


@partial(jax.jit, static_argnums=(0, 1))
def _drop_in_integer_labels(
    rules: LossRules, axes: tuple[int, ...], logits: Array, labels: Array, where: Array | None
) -> Array:
    mask = None if where is None else axes_last(jnp.broadcast_to(where, logits.shape), axes)
    (logits, labels, mask), _ = match_vma(NOT_SHARDED, (axes_last(logits, axes), labels, mask), ())
    tokens = LabelledTokens(token_labels(_PLAIN, NOT_SHARDED, labels, logits.shape[-1]), mask)
    losses, _ = rules.rows(NOT_SHARDED, logits, Objective(LOSSES, _PLAIN, tokens))
    return _zero_if_masked(losses, mask)


def _as_mask_of_classes(where: Any, shape: tuple[int, ...], axes: tuple[int, ...]) -> Array | None:
    """A mask of the logits' rank, from one of the logits or of the batch."""
    if where is None:
        return None
    mask = _checks.as_mask("where", where)
    if mask.ndim + len(axes) == len(shape):
        batch = [n for i, n in enumerate(shape) if i not in axes]
        _checks.require_broadcastable("where", mask, batch, "logits' batch")
        mask = jnp.expand_dims(mask, axes)
    _checks.require_broadcastable("where", mask, shape, "logits'")
    return mask


def _zero_if_masked(losses: Array, mask: Array | None) -> Array:
    return losses if mask is None else jnp.where(jnp.any(mask, -1), losses, 0)
