"""Divergences between two rows of probabilities, and their gradients, that keep their digits near 0 (M29, M30).

With p and q of a teacher's logits u and a student's z, delta_j = log p_j - log q_j. No term of the sums below is
negative, so that nothing cancels where p and q nearly agree.
"""

from dataclasses import dataclass
from typing import NamedTuple

import jax.numpy as jnp
from jax import Array

DIVERGENCES = ("forward_kl", "reverse_kl", "jensen_shannon")
_SMALL, _TERMS = 0.5, 15  # below 0.5, so many terms of a series are enough for float64


@dataclass(frozen=True)
class Divergence:
    """Which divergence: one of `DIVERGENCES`, and for Jensen-Shannon the weight beta of the teacher."""

    kind: str = "forward_kl"
    beta: float = 0.5


class RowPair(NamedTuple):
    """Two rows of probabilities, [*batch, vocab] each."""

    p: Array  # of the teacher
    q: Array  # of the student
    delta: Array  # log p - log q; 0 where both are 0


class LogRatios(NamedTuple):
    """Log-ratios of each row's probabilities to those it is compared with; None for a row that isn't compared."""

    teacher: Array | None  # log p - log q, or log p - log m of Jensen-Shannon
    student: Array | None  # log q - log p, or log q - log m


class Sums(NamedTuple):
    """The Kullback-Leibler divergence of each row, [*batch, 1]; 0 for a row that isn't compared."""

    teacher: Array  # as KL(p||q), or KL(p||m) of Jensen-Shannon
    student: Array  # as KL(q||p), or KL(q||m)


def phi(x: Array) -> Array:
    """x + expm1(-x) >= 0, which near 0 is x^2/2 (1 - x/3 (1 - x/4 (...)))."""
    small = jnp.abs(x) < _SMALL
    near = jnp.where(small, x, 0)
    series = jnp.ones_like(near)
    for n in range(_TERMS, 2, -1):
        series = 1 - near / n * series
    return jnp.where(small, near * near / 2 * series, x + jnp.expm1(-x))


def minus_log1p(x: Array) -> Array:
    """-log(1 + x), below 0 as log1p of a positive number: from -0.42 to -0.35 XLA's CPU compiler loses 7 bits."""
    negative = x < 0
    return jnp.where(negative, jnp.log1p(jnp.where(negative, -x / (1 + x), 0)), -jnp.log1p(x))


def kl_terms(p: Array, q: Array, delta: Array) -> Array:
    """p_j (delta_j + expm1(-delta_j)) = p_j delta_j + q_j - p_j, which add up to KL(p||q) (M29)."""
    close = jnp.abs(delta) < 1
    far = product_or_zero(p, jnp.where(close, 0, delta)) + (q - p)
    return jnp.where(close, p * phi(jnp.where(close, delta, 0)), far)  # (M29)


def excess(p: Array, q: Array, delta: Array) -> Array:
    """q_j - p_j, as p_j expm1(-delta_j) where they are close."""
    close = jnp.abs(delta) < 1
    return jnp.where(close, p * jnp.expm1(-jnp.where(close, delta, 0)), q - p)


def log_ratios(divergence: Divergence, delta: Array) -> LogRatios:
    """log(p / q), log(q / p), or for Jensen-Shannon log(p / m) and log(q / m), which differ by delta."""
    if divergence.kind == "forward_kl":
        return LogRatios(delta, None)
    if divergence.kind == "reverse_kl":
        return LogRatios(None, -delta)
    beta, close = divergence.beta, jnp.abs(delta) < 1
    near = jnp.where(close, delta, 0)
    if_more = minus_log1p((1 - beta) * jnp.expm1(-jnp.maximum(delta, 0)))
    if_less = minus_log1p(beta * jnp.expm1(jnp.minimum(delta, 0)))
    teacher, student = jnp.where(delta > 0, if_more, if_less + delta), jnp.where(delta > 0, if_more - delta, if_less)
    return LogRatios(
        jnp.where(close, minus_log1p((1 - beta) * jnp.expm1(-near)), teacher),
        jnp.where(close, minus_log1p(beta * jnp.expm1(near)), student),
    )


def divergence_terms(divergence: Divergence, pair: RowPair, ratios: LogRatios) -> Sums:
    """What is added up over the classes (M29, M30)."""
    p, q, _ = pair
    against_teacher, against_student = q, p
    if divergence.kind == "jensen_shannon":
        against_teacher = against_student = divergence.beta * p + (1 - divergence.beta) * q
    teacher = jnp.zeros_like(p) if ratios.teacher is None else kl_terms(p, against_teacher, ratios.teacher)
    student = jnp.zeros_like(q) if ratios.student is None else kl_terms(q, against_student, ratios.student)
    return Sums(teacher, student)


def divergence_value(divergence: Divergence, sums: Sums) -> Array:
    """The divergence from its sums; beta KL(p||m) + (1 - beta) KL(q||m) of Jensen-Shannon (M30)."""
    if divergence.kind == "jensen_shannon":
        return divergence.beta * sums.teacher + (1 - divergence.beta) * sums.student  # (M30)
    return sums.teacher + sums.student


class Centre(NamedTuple):
    """Centres log-ratios v, [*batch, 1] each: v_j - <s, v> keeps its digits at a dominant entry k (M21)."""

    entry: Array  # v_k; 0 without a dominant entry
    mean: Array  # Σ_j s_j (v_j - v_k)


def deviation(ratio: Array, dominant: Array, centre: Centre) -> Array:
    """v - <s, v>."""
    return jnp.where(dominant, 0, ratio - centre.entry) - centre.mean


def student_gradient(divergence: Divergence, pair: RowPair, deviation: Array | None) -> Array:
    """The divergence's gradient in z: q - p, q (-delta - KL), or (1 - beta) q (log (q / m) - KL) (M29, M30)."""
    if deviation is None:
        return excess(*pair)  # (M29)
    beta = divergence.beta if divergence.kind == "jensen_shannon" else 0
    return (1 - beta) * product_or_zero(pair.q, deviation)  # (M29, M30)


def teacher_gradient(divergence: Divergence, pair: RowPair, deviation: Array | None) -> Array:
    """The divergence's gradient in u: p (delta - KL), p - q, or beta p (log (p / m) - KL) (M29, M30)."""
    if deviation is None:
        return -excess(*pair)
    beta = divergence.beta if divergence.kind == "jensen_shannon" else 1
    return beta * product_or_zero(pair.p, deviation)  # (M29, M30)


def product_or_zero(s: Array, factor: Array) -> Array:
    """s times a factor that may be infinite where s is 0; there 0."""
    return jnp.where(s == 0, 0, s * jnp.where(s == 0, 0, factor))
