"""Divergences between rows of a teacher's and a student's logits, with their derivatives (M29, M30, M32)."""

from collections.abc import Iterable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.custom_derivatives import SymbolicZero

from jaxsoftmax._math import log_ratio as equations
from jaxsoftmax._math.divergence import (
    Centre,
    Divergence,
    LogRatios,
    RowPair,
    Sums,
    deviation,
    divergence_terms,
    divergence_value,
    log_ratios,
    product_or_zero,
    student_gradient,
    teacher_gradient,
)
from jaxsoftmax._math.log_ratio import Shift, States
from jaxsoftmax._math.loss_options import LossOptions, Number
from jaxsoftmax._math.lse_state import LseState, is_confident, is_dominant, is_empty, shifted_tangent
from jaxsoftmax._math.precision import accumulation_dtype
from jaxsoftmax._math.softmax import probabilities
from jaxsoftmax._reduction import schedules
from jaxsoftmax._reduction.row_state import lse_state
from jaxsoftmax._sharding import Shards
from jaxsoftmax._tangents import inner


class PairStats(NamedTuple):
    """What the gradients need of each pair of rows besides the logits."""

    states: States
    shift: Shift
    sums: Sums
    centres: tuple[Centre | None, ...]  # of the teacher's and of the student's log-ratios


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def divergences(
    shards: Shards, divergence: Divergence, options: LossOptions, logits: Array, teacher_logits: Array
) -> Array:
    """Divergences [*batch] of logits [*batch, local_vocab], differentiable in reverse mode."""
    return divergences_of(divergence, pair_stats(shards, divergence, options, logits, teacher_logits))


def _fwd(shards, divergence, options, logits, teacher_logits):
    stats = pair_stats(shards, divergence, options, logits, teacher_logits)
    # The arguments; up to thirteen numbers a row.
    return divergences_of(divergence, stats), (options, logits, teacher_logits, stats)


def _bwd(shards, divergence, residuals, bar):
    options, logits, teacher_logits, stats = residuals
    by_student, by_teacher = weighted_gradients(divergence, options, logits, teacher_logits, stats, bar)
    return None, by_student.astype(logits.dtype), by_teacher.astype(teacher_logits.dtype)


divergences.defvjp(_fwd, _bwd)


@partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def forward_divergences(
    shards: Shards, divergence: Divergence, options: LossOptions, logits: Array, teacher_logits: Array
) -> Array:
    """`divergences` differentiable in both modes."""
    return divergences_of(divergence, pair_stats(shards, divergence, options, logits, teacher_logits))


@partial(forward_divergences.defjvp, symbolic_zeros=True)
def _forward_divergences_jvp(shards, divergence, primals, tangents):
    options, logits, teacher_logits = primals
    stats = pair_stats(shards, divergence, options, logits, teacher_logits)
    by_student, by_teacher = divergence_gradients(divergence, options, logits, teacher_logits, stats)
    dot = inner(by_student, tangents[1], -1) + inner(by_teacher, tangents[2], -1)
    if all(isinstance(tangent, SymbolicZero) for tangent in tangents[1:]):
        dot = jnp.zeros_like(stats.sums.teacher)
    return divergences_of(divergence, stats), shards.psum(dot[..., 0])


def pair_stats(
    shards: Shards, divergence: Divergence, options: LossOptions, logits: Array, teacher_logits: Array
) -> PairStats:
    """The statistics of whole rows, from logits of this shard's classes."""
    (z, u), temperature = wide_pair(logits, teacher_logits), options.temperature
    states = States(*(_state(shards, rows / temperature) for rows in (u, z)))
    # None of this is held constant, though `_log_ratio`'s rule has no use for its derivatives: in forward over reverse
    # mode a scan of JAX 0.10 loses that rule.
    approximate = equations.approximate_shift(states)
    terms = equations.shift_terms(temperature, u, z, approximate, states)
    total, others = _sums(shards, terms)
    shift = equations.shift(approximate, total, others, states)
    pair, ratios = _row_pair(divergence, temperature, u, z, shift, states)
    sums = Sums(*_sums(shards, divergence_terms(divergence, pair, ratios)))
    rows = zip((u, z), states, pair[:2], ratios, sums, strict=True)
    return PairStats(states, shift, sums, tuple(_centre(shards, temperature, *row) for row in rows))


def _sums(shards: Shards, terms: Iterable[Array]) -> list[Array]:
    return shards.psum([jnp.sum(rows, -1, keepdims=True) for rows in terms])


def _centre(
    shards: Shards, temperature: Number, logits: Array, state: LseState, s: Array, ratio: Array | None, kl: Array
) -> Centre | None:
    """The `Centre` of a row's log-ratios; without a dominant entry its mean is the divergence `kl`."""
    if ratio is None:
        return None
    dominant = is_dominant(logits / temperature, state)
    [entry] = _sums(shards, [jnp.where(dominant, ratio, 0)])
    [mean] = _sums(shards, [jnp.where(dominant, 0, product_or_zero(s, ratio - entry))])
    return Centre(entry, jnp.where(is_confident(state), mean, kl))


def divergences_of(divergence: Divergence, stats: PairStats) -> Array:
    """The divergences [*batch]; 0 between two rows of -inf alone, NaN where one is."""
    empty = [is_empty(state)[..., 0] for state in stats.states]
    values = divergence_value(divergence, stats.sums)[..., 0]
    return jnp.where(empty[0] & empty[1], 0, jnp.where(empty[0] | empty[1], jnp.nan, values))


def divergence_gradients(
    divergence: Divergence, options: LossOptions, logits: Array, teacher_logits: Array, stats: PairStats
) -> tuple[Array, Array]:
    """The gradients of each row's divergence in the student's and the teacher's logits (M29, M30, M32)."""
    (z, u), temperature = wide_pair(logits, teacher_logits), options.temperature
    pair, ratios = _row_pair(divergence, temperature, u, z, stats.shift, stats.states)
    rows = zip((u, z), stats.states, ratios, stats.centres, strict=True)
    teacher, student = (
        None if ratio is None or centre is None else deviation(ratio, is_dominant(logits / temperature, state), centre)
        for logits, state, ratio, centre in rows
    )
    by_student = student_gradient(divergence, pair, student) / temperature
    return by_student, teacher_gradient(divergence, pair, teacher) / temperature


def weighted_gradients(
    divergence: Divergence, options: LossOptions, logits: Array, teacher_logits: Array, stats: PairStats, bar: Array
) -> tuple[Array, Array]:
    """The gradients times `bar` [*batch]; 0 for an infinite divergence of weight 0."""
    left_out = ((bar == 0) & jnp.isinf(divergences_of(divergence, stats)))[..., None]
    by_student, by_teacher = divergence_gradients(divergence, options, logits, teacher_logits, stats)
    of_teacher, of_student = stats.centres

    def weighted(gradient: Array, centre: Centre | None) -> Array:
        finite = gradient if centre is None else jnp.where(left_out, 0, gradient)  # without a centre it is q - p
        return bar[..., None] * finite

    return weighted(by_student, of_student), weighted(by_teacher, of_teacher)


def wide_pair(logits: Array, teacher_logits: Array) -> tuple[Array, Array]:
    """The logits in the dtype in which they are compared."""
    dtype = accumulation_dtype(logits.dtype, teacher_logits.dtype)
    return logits.astype(dtype), teacher_logits.astype(dtype)


def _state(shards: Shards, rows: Array) -> LseState:
    state, _ = shards.merge_lse(lse_state(rows, (rows.ndim - 1,)))  # (M22)
    return state


def _row_pair(
    divergence: Divergence, temperature: Number, u: Array, z: Array, shift: Shift, states: States
) -> tuple[RowPair, LogRatios]:
    states = States(*map(schedules.for_recomputation, states))
    p, q = probabilities(u / temperature, states.teacher), probabilities(z / temperature, states.student)
    pair = RowPair(p, q, _log_ratio(temperature, u, z, shift, states))
    return pair, log_ratios(divergence, pair.delta)


@jax.custom_jvp
def _log_ratio(temperature: Number, u: Array, z: Array, shift: Shift, states: States) -> Array:
    return equations.log_ratio(temperature, u, z, shift, states)


@_log_ratio.defjvp
def _log_ratio_jvp(primals, tangents):
    """Tangent of delta_j: (du_j / T - dL_u) - (dz_j / T - dL_z), with dL from the states' tangents.

    That of `shift` isn't used: L_u - L_z is a function of the states.
    """
    temperature, u, z, _, states = primals
    _, u_dot, z_dot, _, states_dot = tangents
    teacher, student = (
        shifted_tangent(x / temperature, x_dot / temperature, state, state_dot)
        for x, x_dot, state, state_dot in zip((u, z), (u_dot, z_dot), states, states_dot, strict=True)
    )
    return _log_ratio(*primals), teacher - student
