"""Log-sum-exp of rows, plain and weighted, and the rules that attach its gradient (M8, M18)."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jaxsoftmax._math import signed_sum
from jaxsoftmax._math.lse_state import LseState, denominator, exponentials, log_sum_exp
from jaxsoftmax._math.precision import widen
from jaxsoftmax._math.signed_sum import SignedSum, Weights
from jaxsoftmax._reduction.row_state import lse_state
from jaxsoftmax._reduction.signed_state import signed_state, weights_in_units
from jaxsoftmax._sharding import Shards


class LogsumexpRules(NamedTuple):
    """The functions with a derivative rule: `custom_vjp` in `jaxsoftmax`, `custom_jvp` in `forward_mode`."""

    plain: Callable[..., Any]  # plain(shards, axes, a, where): the log-sum-exp
    weighted: Callable[..., Any]  # weighted(a, b, where), over the last axis: log |sum| and the sign


def masked_logits(a: Array, where: Array | None) -> Array:
    """`a` in its accumulation dtype, -inf where masked."""
    wide = widen(a)
    return wide if where is None else jnp.where(where, wide, -jnp.inf)


def plain_sum(
    shards: Shards, axes: tuple[int, ...], a: Array, where: Array | None, shared: bool = False
) -> tuple[Array, LseState]:
    """The log-sum-exp (M18), and the state it came from; `shared` as in `lse_state`."""
    state, _ = shards.merge_lse(lse_state(masked_logits(a, where), axes, shared))  # (M22)
    return log_sum_exp(state).astype(a.dtype), state


def plain_gradient(a: Array, where: Array | None, state: LseState, scale: Array | float = 1.0) -> Array:
    """`scale` times softmax, e / (1 + r) (M8)."""
    return exponentials(masked_logits(a, where), state) * (scale / denominator(state))


def weighted_sum(a: Array, b: Array, where: Array | None) -> tuple[tuple[Array, Array], SignedSum]:
    """(log |sum|, sign) of rows, and the state they came from."""
    state = signed_state(*_weighted_terms(a, b, where))
    log_sum, sign = signed_sum.log_absolute(state)[..., 0], signed_sum.sign(state)[..., 0]
    return (log_sum.astype(a.dtype), sign.astype(a.dtype)), state


def weighted_gradients(a: Array, b: Array, where: Array | None, state: SignedSum) -> tuple[Array, Array]:
    """b exp(a) / sum in `a`; exp(a) / sum in `b`, which a weight 0 has too, and which is NaN for an empty sum."""
    x, weights = _weighted_terms(a, b, where)
    summands, (half, other_half) = signed_sum.scaled_summands(x, weights, state)
    total = state.dominant + state.remainder
    total = jnp.where(jnp.isinf(total), jnp.nan, total)
    empty, out = signed_sum.is_empty(state), jnp.isneginf(x)
    total = jnp.where(empty, 1, total)
    ratio = half / total  # before the product with the other half may be out of range
    by_a = jnp.where(out | (weights.size == 0), 0, weights.size * ratio * (weights.unit * other_half))
    by_a = jnp.where(signed_sum.is_dominant(summands, state), summands / total, by_a)
    by_b = jnp.where(empty, jnp.nan, ratio * other_half)
    return jnp.where(empty, 0, by_a), jnp.where(out, 0, by_b)


def _weighted_terms(a: Array, b: Array, where: Array | None) -> tuple[Array, Weights]:
    x, weights = masked_logits(a, where), widen(b)
    return x, weights_in_units(weights if where is None else jnp.where(where, weights, 0))


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _plain(shards: Shards, axes: tuple[int, ...], a: Array, where: Array | None) -> Array:
    return plain_sum(shards, axes, a, where)[0]


def _plain_fwd(shards, axes, a, where):
    log_sum, state = plain_sum(shards, axes, a, where, shared=True)
    return log_sum, (a, where, state)  # the inputs, and (m, r) per row


def _plain_bwd(_shards, _axes, residuals, log_sum_bar):
    a, where, state = residuals
    scale = log_sum_bar.astype(state.maximum.dtype)
    return plain_gradient(a, where, state, scale).astype(a.dtype), None  # (M8)


_plain.defvjp(_plain_fwd, _plain_bwd)


@jax.custom_vjp
def _weighted(a: Array, b: Array, where: Array | None) -> tuple[Array, Array]:
    return weighted_sum(a, b, where)[0]


def _weighted_fwd(a, b, where):
    log_sum_and_sign, state = weighted_sum(a, b, where)
    return log_sum_and_sign, (a, b, where, state)  # the inputs, and the four numbers of the state per row


def _weighted_bwd(residuals, cotangents):
    a, b, where, state = residuals
    log_sum_bar, _ = cotangents  # the sign is piecewise constant
    by_a, by_b = weighted_gradients(a, b, where, state)
    log_sum_bar = log_sum_bar.astype(by_a.dtype)[..., None]
    return (log_sum_bar * by_a).astype(a.dtype), (log_sum_bar * by_b).astype(b.dtype), None


_weighted.defvjp(_weighted_fwd, _weighted_bwd)

CUSTOM_VJP_RULES = LogsumexpRules(_plain, _weighted)
