"""What the losses over logits and the fused head take and check alike: constants, weights and integer labels."""

from collections.abc import Callable, Sequence
from typing import Any, TypedDict

import jax
import jax.numpy as jnp
from jax import Array
from jax.core import Tracer
from jax.typing import ArrayLike
from jaxtyping import Bool, Float, Real

from jaxsoftmax import _checks
from jaxsoftmax._math.loss_options import LossOptions, Number
from jaxsoftmax._math.token_loss import REDUCTIONS


class LossKeywords(TypedDict, total=False):
    """What `cross_entropy`, `linear_cross_entropy` and `sharded_linear_cross_entropy` all take, for their overloads.

    `has_aux`, by which these tell a type checker what is returned, isn't among them.
    """

    class_weights: Real[ArrayLike, " vocab"] | None
    token_weights: Real[ArrayLike, "*batch"] | Bool[ArrayLike, "*batch"] | None
    ignore_index: int | None
    label_smoothing: float | Float[Array, ""]
    z_loss: float | Float[Array, ""]
    logit_softcap: float | Float[Array, ""] | None
    reduction: str


def require_reduction(reduction: object) -> None:
    """ValueError unless `reduction` is one of `REDUCTIONS`."""
    if not isinstance(reduction, str) or reduction not in REDUCTIONS:
        raise ValueError(f"reduction: expected one of {REDUCTIONS}, got {reduction!r}")


def loss_options(
    ignore_index: Any = None,
    label_smoothing: Any = 0.0,
    z_loss: Any = 0.0,
    logit_softcap: Any = None,
    temperature: Any = 1.0,
) -> LossOptions:
    """The validated constants of a loss; the range of a traced one isn't checked."""
    if ignore_index is not None:
        ignore_index = _checks.as_int("ignore_index", ignore_index)
    label_smoothing = as_constant("label_smoothing", label_smoothing, "a number in [0, 1]", lambda n: 0 <= n <= 1)
    z_loss = as_constant("z_loss", z_loss, "a number >= 0", lambda n: n >= 0)
    if logit_softcap is not None:
        logit_softcap = as_constant("logit_softcap", logit_softcap, "a number > 0", lambda n: n > 0, or_else=" or None")
    temperature = as_constant("temperature", temperature, "a number > 0", lambda n: n > 0)
    return LossOptions(ignore_index, label_smoothing, z_loss, logit_softcap, temperature)


def as_constant(name: str, value: Any, expected: str, in_range: Callable[[float], bool], or_else: str = "") -> Number:
    """`value` as a Python number in its range; or a traced scalar, through which no gradient flows."""
    if isinstance(value, Tracer):
        _checks.require_shape(name, value, (), f"{expected}, or a traced scalar")
        return jax.lax.stop_gradient(_checks.as_inexact(name, value))
    number = _checks.as_number(name, value, expected)
    if not in_range(number):
        raise ValueError(f"{name}: expected {expected}{or_else}, got {number}")
    return number


def require_no_ignore_index(options: LossOptions, labels: str) -> None:
    """ValueError if there is an `ignore_index`, which is of integer labels alone."""
    if options.ignore_index is not None:
        raise ValueError(f"ignore_index: expected None with {labels}, got {options.ignore_index}")


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
    hint = (
        "; labels that are weights, floating [*batch, vocab], are for softmax_cross_entropy and cross_entropy, and "
        "SparseLabels for the losses of a head too"
    )
    labels = _checks.as_integer("labels", labels, hint)
    _checks.require_shape("labels", labels, batch, f"[*batch] of the {of}")
    if vocab == 0:
        raise ValueError("logits: expected at least one class, got vocab = 0")
    return labels if labels.dtype.itemsize >= 4 else labels.astype(jnp.int32)
