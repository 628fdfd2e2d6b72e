"""Log-probability, entropy, log-sum-exp and prediction of rows of logits, as an objective (M28, M32, M33)."""

from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Int

from jaxsoftmax._integer_labels import capped, is_on_this_shard
from jaxsoftmax._math import row_stats
from jaxsoftmax._math.loss_options import loss_logits_slope
from jaxsoftmax._math.lse_state import LseState, log_sum_exp
from jaxsoftmax._math.precision import widen
from jaxsoftmax._math.row_stats import StatsGradient
from jaxsoftmax._math.token_loss import negative_log_likelihood
from jaxsoftmax._objective import Equations, Evaluation, Objective
from jaxsoftmax._predictions import predictions
from jaxsoftmax._reduction import schedules
from jaxsoftmax._reduction.row_state import lse_state, margin_sum, margins_at
from jaxsoftmax._sharding import Shards
from jaxsoftmax._tangents import inner
from jaxsoftmax._token_labels import nan_if_invalid


class TokenStats(NamedTuple):
    """Statistics of tokens, as `token_stats` and `linear_token_stats` return them, [*batch] each (M28, M32, M33).

    Attributes:
      log_prob: log s_y of the token's label y, in nats.
      entropy: -Σ_j s_j log s_j, in nats.
      log_sum_exp: L = log Σ_j exp(z_j).
      prediction: the first class of the maximum, int32.

    >>> import jax.numpy as jnp
    >>> from jaxsoftmax import token_stats
    >>> stats = token_stats(jnp.array([0.0, 0.0]), jnp.array(1))
    >>> print(stats.log_prob, stats.entropy, stats.prediction)
    -0.6931472 0.6931472 0
    """

    log_prob: Float[Array, "*batch"]
    entropy: Float[Array, "*batch"]
    log_sum_exp: Float[Array, "*batch"]
    prediction: Int[Array, "*batch"]


class StatsOutputs(NamedTuple):
    """The differentiable statistics, [*batch] each; as a cotangent, None where a statistic isn't used."""

    log_prob: Any
    entropy: Any
    log_sum_exp: Any


class _RowStats(NamedTuple):
    """What the gradient needs of each row, [*batch, 1] each."""

    state: LseState
    label_margin: Array  # m - z_y
    mean_margin: Array  # Σ_j s_j (m - z_j)


def _evaluate(objective: Objective, shards: Shards, logits: Array, shared: bool = False) -> Evaluation:
    labels, vocab = objective.tokens, logits.shape[-1]
    x = widen(logits)
    z = capped(objective.options, shards, x, shards.class_offset(vocab))
    own = lse_state(z, (z.ndim - 1,), shared)
    label_margin = margins_at(objective.options, z, logits, labels.local[..., None], own)
    state = own
    if shards.classes:
        here = is_on_this_shard(labels, vocab)[..., None]
        margins, weights = (jnp.where(here, label_margin, 0),), (here.astype(z.dtype),)
        state, (label_margin,) = shards.merge_lse(own, margins, weights)  # (M22)
    of_rows = shards.merge_margin_sum(state, own, margin_sum(z, schedules.for_recomputation(own)))
    mean_margin = row_stats.mean_margin(state, of_rows)
    log_prob = -negative_log_likelihood(state, label_margin)[..., 0]  # (M19)
    log_prob = jnp.where(labels.invalid, jnp.nan, log_prob)
    entropy = row_stats.entropy(state, mean_margin)[..., 0]  # (M28)
    log_prob, entropy = (jnp.where(labels.ignored, 0, number) for number in (log_prob, entropy))
    outputs = StatsOutputs(log_prob, entropy, log_sum_exp(state)[..., 0])
    return Evaluation(outputs, predictions(shards, x), _RowStats(state, label_margin, mean_margin))


def _coefs(
    objective: Objective, shards: Shards, logits: Array, stats: _RowStats, outputs_bar: StatsOutputs
) -> tuple[StatsGradient, Array | None]:
    """The coefficients of each row, and in which rows the gradient is 0 whatever their logits, [*batch, 1]."""
    labels, options, zero = objective.tokens, objective.options, jnp.zeros((), stats.mean_margin.dtype)
    log_prob_bar, entropy_bar, lse_bar = outputs_bar
    if log_prob_bar is not None:
        log_prob_bar = jnp.where(labels.ignored, 0, nan_if_invalid(labels.invalid, log_prob_bar))[..., None]
    if entropy_bar is not None:
        entropy_bar = jnp.where(labels.ignored, 0, entropy_bar)[..., None]
    bars = (
        (zero if log_prob_bar is None else log_prob_bar),
        entropy_bar,
        (zero if lse_bar is None else lse_bar[..., None]),
    )
    coefs = row_stats.stats_gradient(*stats, *bars)
    label_logit = None if options.logit_softcap is None else widen(schedules.entry_at(logits, labels.local))
    coefs = coefs._replace(label_entry=coefs.label_entry * loss_logits_slope(options, label_logit))  # (M23, M32)
    ignored = _ignored(objective, outputs_bar)
    return coefs, None if ignored is None else ignored[..., None]


def _gradient_entries(
    objective: Objective,
    shards: Shards,
    logits: Array,
    stats: _RowStats,
    coefs: tuple[StatsGradient, Array | None],
    offset: Array | int,
    first: Array | int = 0,
) -> Array:
    """The gradient of Σ <outputs_bar, outputs> in the logits (M28)."""
    x = widen(logits)
    z = capped(objective.options, shards, x, offset + first)
    of_rows, nothing = coefs
    entries = row_stats.stats_entries(of_rows, z, stats.state) * loss_logits_slope(objective.options, x)  # (M23, M32)
    entries = schedules.with_entry_at(entries, objective.tokens.local - first, of_rows.label_entry)
    return entries if nothing is None else jnp.where(nothing, 0, entries)


def _tangents(objective: Objective, shards: Shards, logits: Array, stats: _RowStats, logits_dot: Array) -> StatsOutputs:
    """<gradient, v> of each output."""
    offset = shards.class_offset(logits.shape[-1])
    one = jnp.ones(logits.shape[:-1], stats.mean_margin.dtype)

    def along(**outputs_bar: Any) -> Array:
        coefs = _coefs(objective, shards, logits, stats, StatsOutputs(None, None, None)._replace(**outputs_bar))
        gradient = _gradient_entries(objective, shards, logits, stats, coefs, offset)
        return shards.psum(inner(gradient, logits_dot, -1)[..., 0])

    return StatsOutputs(along(log_prob=one), along(entropy=one), along(log_sum_exp=one))


def _ignored(objective: Objective, outputs_bar: StatsOutputs | None) -> Array | None:
    """Which tokens are ignored; None in a forward pass, and if log-sum-exps, which all tokens have, get cotangents."""
    if outputs_bar is None or outputs_bar.log_sum_exp is not None or objective.options.ignore_index is None:
        return None
    return objective.tokens.ignored


def _of_ignored(objective: Objective, dtype: jnp.dtype) -> tuple[StatsOutputs, Array]:
    """Zeros: only a backward pass skips ignored tokens, and it has no use for outputs."""
    zero = jnp.zeros_like(objective.tokens.standing, dtype=dtype)
    return StatsOutputs(zero, zero, zero), jnp.zeros_like(objective.tokens.standing, dtype=jnp.int32)


STATS = Equations(_evaluate, _coefs, _gradient_entries, _ignored, _of_ignored, _tangents)
