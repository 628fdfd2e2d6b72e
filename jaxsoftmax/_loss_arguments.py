"""What the losses over logits and the fused head check alike: the loss's constants, weights and integer labels."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jaxsoftmax import _checks
from jaxsoftmax._math.token_loss import REDUCTIONS, LossOptions


def require_reduction(reduction: object) -> None:
    """ValueError unless it is one of those there are."""
    if not isinstance(reduction, str) or reduction not in REDUCTIONS:
        raise ValueError(f"reduction: expected one of {REDUCTIONS}, got {reduction!r}")


def loss_options(ignore_index: Any, label_smoothing: Any, z_loss: Any, logit_softcap: Any) -> LossOptions:
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
    return LossOptions(ignore_index, smoothing, penalty, cap)


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
    """Integer labels [*batch] of an argument [*batch, ...], of 32 bits or more, to be compared with any class number.

    No narrower ones: XLA's CPU compiler of jaxlib 0.12 may fail on 16 bits.
    """
    hint = "; labels that are weights, floating [*batch, vocab], are for softmax_cross_entropy and cross_entropy"
    labels = _checks.as_integer("labels", labels, hint)
    _checks.require_shape("labels", labels, batch, f"[*batch] of the {of}")
    if vocab == 0:
        raise ValueError("logits: expected at least one class, got vocab = 0")
    return labels if labels.dtype.itemsize >= 4 else labels.astype(jnp.int32)
