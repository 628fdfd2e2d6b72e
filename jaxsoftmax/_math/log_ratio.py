"""log p_j - log q_j of two rows of logits, in which neither log-sum-exp's rounding enters (M29)."""

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array

from jaxsoftmax._math.divergence import excess, minus_log1p
from jaxsoftmax._math.loss_options import Number
from jaxsoftmax._math.lse_state import LseState, denominator, is_dominant, log_denominator
from jaxsoftmax._math.softmax import probabilities


class States(NamedTuple):
    """The states of a teacher's and a student's row, both divided by the temperature."""

    teacher: LseState
    student: LseState


class Shift(NamedTuple):
    """The parts of L_u - L_z = (m_u - m_z) + approximate + rest, [*batch, 1] each; delta_j = d_j - (L_u - L_z)."""

    approximate: Array  # log1p(r_u) - log1p(r_z), plus the rounding error of m_u - m_z
    rest: Array  # D = -log1p(Σ_j p_j expm1(-(d_j - (m_u - m_z) - approximate)))
    tail: Array  # delta_k of an entry k that dominates both rows


def approximate_shift(states: States) -> Array:
    """log1p(r_u) - log1p(r_z), plus the rounding error of m_u - m_z; 0 where that isn't finite."""
    (m_u, _), (m_z, _) = states
    shift = (log_denominator(states.teacher) - log_denominator(states.student)) + _rounding(m_u, m_z)
    return jnp.where(jnp.isfinite(shift), shift, 0)


def _rounding(a: Array, b: Array) -> Array:
    """The rounding error of a - b."""
    difference = a - b
    taken = difference - a
    return (a - (difference - taken)) - (b + taken)


def shifted_difference(temperature: Number, u: Array, z: Array, approximate: Array, states: States) -> Array:
    """(u_j - z_j) / T - (m_u - m_z) - approximate, with one rounding where it is small; 0 where both are -inf."""
    difference, of_maxima = u - z, states.teacher.maximum - states.student.maximum
    finite = jnp.isfinite(difference)
    error = jnp.where(finite, _rounding(u, z), 0)
    exact = ((difference - of_maxima * temperature) + error) / temperature - approximate
    return jnp.where(finite, exact, jnp.where(jnp.isneginf(u) & jnp.isneginf(z), 0, difference))


def shift_terms(temperature: Number, u: Array, z: Array, approximate: Array, states: States) -> tuple[Array, Array]:
    """p_j expm1(-d'_j), d' the `shifted_difference`; and the same, 0 at an entry that dominates both rows."""
    p, q = probabilities(u / temperature, states.teacher), probabilities(z / temperature, states.student)
    terms = excess(p, q, shifted_difference(temperature, u, z, approximate, states))
    return terms, jnp.where(_dominates_both(temperature, u, z, states), 0, terms)


def shift(approximate: Array, total: Array, others: Array, states: States) -> Shift:
    """The shift from the sums of `shift_terms`.

    Where k dominates both rows, q_k - p_k = -Σ_{j != k} p_j expm1(-delta_j), with delta_j = d_j - ... - D and
    Σ_{j != k} p_j = r_u / (1 + r_u); that is delta_k's tail.
    """
    rest = -jnp.log1p(total)
    below = denominator(states.teacher)
    excess_of_others = others + jnp.expm1(rest) * (others + states.teacher.remainder / below)
    return Shift(approximate, rest, minus_log1p(-excess_of_others * below))


def log_ratio(temperature: Number, u: Array, z: Array, shift: Shift, states: States) -> Array:
    """delta_j = d_j - (L_u - L_z) with d_j = (u_j - z_j) / T; at an entry that dominates both rows its tail."""
    delta = shifted_difference(temperature, u, z, shift.approximate, states) - shift.rest
    return jnp.where(_dominates_both(temperature, u, z, states), shift.tail, delta)


def _dominates_both(temperature: Number, u: Array, z: Array, states: States) -> Array:
    return is_dominant(u / temperature, states.teacher) & is_dominant(z / temperature, states.student)
