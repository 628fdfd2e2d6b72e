"""Losses of distillation over logits: how far a student's probabilities are from a teacher's (M29, M30, M32)."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Bool, Float, Real

from jaxsoftmax import _checks
from jaxsoftmax._divergence import divergences
from jaxsoftmax._explicit_axes import sharded_alike
from jaxsoftmax._loss_arguments import as_weights, loss_options, require_reduction
from jaxsoftmax._math import token_loss
from jaxsoftmax._math.divergence import DIVERGENCES, Divergence
from jaxsoftmax._math.loss_options import LossOptions
from jaxsoftmax._math.precision import accumulation_dtype
from jaxsoftmax._rule_binding import with_rules
from jaxsoftmax._sharding import Shards, match_vma, require_sharded, shards_of_axis


@with_rules(divergences)
def distillation(
    _rule: Callable[..., Any],
    /,
    logits: Float[ArrayLike, "*batch vocab"],
    teacher_logits: Float[ArrayLike, "*batch vocab"],
    *,
    divergence: str = "forward_kl",
    beta: float = 0.5,
    temperature: float | Float[Array, ""] = 1.0,
    token_weights: Real[ArrayLike, "*batch"] | Bool[ArrayLike, "*batch"] | None = None,
    reduction: str = "mean",
    axis_name: str | tuple[str, ...] | None = None,
) -> Float[Array, "..."]:
    """The divergence between a teacher's and a student's probabilities (M29, M30).

    With p = softmax(u / T) of the teacher's logits u, q = softmax(z / T) of the student's z and delta = log p - log q:

        forward_kl:      KL(p||q) = Σ_j p_j (delta_j + expm1(-delta_j)) = Σ_j p_j delta_j
        reverse_kl:      KL(q||p)
        jensen_shannon:  beta KL(p||m) + (1 - beta) KL(q||m),   m = beta p + (1 - beta) q

    No term is negative, and neither log-sum-exp enters delta, so that nothing cancels where student and teacher nearly
    agree: of float32 logits a divergence of 1e-9 is right to 1e-5 of itself.

    Args:
      logits: the student's z, floating, [*batch, vocab], in nats.
      teacher_logits: the teacher's u, of the same shape.
      divergence: "forward_kl", "reverse_kl" or "jensen_shannon".
      beta: the teacher's weight in Jensen-Shannon, in (0, 1): its limits 0 and 1 would give 0. No other
        divergence uses it, but it is checked.
      temperature: T > 0, or a traced scalar. The result isn't multiplied by T^2.
      token_weights: w, [*batch], numbers or a boolean mask; 1 if None.
      reduction: "mean" (the sum of w_t D_t over that of w_t), "sum" or "none".
      axis_name: mesh axis, or several, of the `jax.shard_map` around, over which the classes are sharded: logits are
        this device's contiguous shard, and tokens are the same on all.

    Returns:
      The divergence in nats, at least float32: a scalar, or [*batch] for "none". A class at -inf in both rows adds
      nothing, and one at -inf in the student's row alone gives +inf in forward_kl, in the teacher's alone in
      reverse_kl; a token weight of 0 leaves that out. Two rows of -inf alone give 0, one NaN; so does a logit of +inf
      or NaN.

    Raises:
      TypeError: logits that aren't floating, a constant that isn't a number.
      ValueError: shapes that differ, a constant out of range, which of a traced temperature isn't known; `axis_name`
        isn't an axis of a `jax.shard_map` with `check_vma=True`.

    Differentiation: in both logits and the token weights, in reverse mode to any order and forward over reverse
    (`jax.custom_vjp`): q - p in z for "forward_kl". Temperature and beta are constants. Saved are the arguments and up
    to thirteen numbers a row. Stop the teacher's gradient with `jax.lax.stop_gradient`, and none is computed. For pure
    forward mode use `jaxsoftmax.forward_mode.distillation`.

    Source: M29, M30, M32.

    >>> import jax, jax.numpy as jnp
    >>> teacher = jnp.array([[0.0, 1.0, 2.0]])
    >>> print(f"{distillation(teacher + jnp.array([1e-4, 0.0, 0.0]), teacher):.5}")
    4.0964e-10
    >>> print((1e5 * jax.grad(distillation)(teacher * 2, teacher)).astype(int))
    [[ -7415 -12741  20157]]
    """
    which, options = as_divergence(divergence, beta), loss_options(temperature=temperature)
    require_reduction(reduction)
    shards = shards_of_axis(axis_name)
    logits = _checks.as_floating("logits", logits)
    teacher_logits = _checks.as_floating("teacher_logits", teacher_logits)
    if logits.ndim == 0 or logits.shape[-1] == 0:
        raise ValueError(f"logits: expected shape [*batch, vocab] with at least one class, got {logits.shape}")
    _checks.require_shape("teacher_logits", teacher_logits, logits.shape, "the logits'")
    require_sharded(shards, "logits", logits)
    _, token_weights = as_weights(None, token_weights, logits.shape[:-1], logits.shape[-1])
    return _of_rows(_rule, which, shards, reduction, options, logits, teacher_logits, token_weights)


def as_divergence(kind: Any, beta: Any) -> Divergence:
    """The divergence, if there is one of this name, and beta in its range."""
    if not isinstance(kind, str) or kind not in DIVERGENCES:
        raise ValueError(f"divergence: expected one of {DIVERGENCES}, got {kind!r}")
    number = _checks.as_number("beta", beta, "a number in (0, 1)")
    if not 0 < number < 1:
        raise ValueError(f"beta: expected a number in (0, 1), got {number}")
    return Divergence(kind, number) if kind == "jensen_shannon" else Divergence(kind)


@partial(jax.jit, static_argnums=(0, 1, 2, 3))
def _of_rows(
    rule: Callable[..., Any],
    divergence: Divergence,
    shards: Shards,
    reduction: str,
    options: LossOptions,
    logits: Array,
    teacher_logits: Array,
    token_weights: Array | None,
) -> Array:
    pair = sharded_alike(logits, teacher_logits)
    (logits, teacher_logits), token_weights = match_vma(shards, pair, token_weights)
    dtype = accumulation_dtype(logits.dtype, teacher_logits.dtype)
    losses = rule(shards, divergence, options.astype(dtype), logits, teacher_logits)
    weights = jnp.ones_like(losses) if token_weights is None else token_weights.astype(dtype)
    losses = token_loss.weighted(weights, losses)
    if reduction == "none":
        return losses
    return jnp.sum(losses) if reduction == "sum" else token_loss.mean(jnp.sum(losses), jnp.sum(weights))
