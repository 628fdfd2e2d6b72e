"""Divergences between a student's and a teacher's rows, exactly, and their gradients: M29, M30.

A pair of rows is one array [2, vocab], the student's logits z before the teacher's u: one gradient has both.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax.numpy as jnp
import mpmath
import numpy as np

from jaxsoftmax.verify._oracle import ExactRow, Expected, exact
from jaxsoftmax.verify._textbook import naive_log_softmax


@dataclass(frozen=True)
class Divergence:
    """Which divergence; of Jensen-Shannon with a weight of the teacher that isn't 1/2, lest a swap go unnoticed."""

    name: str
    beta: float | None = None

    def keywords(self) -> dict[str, Any]:
        """What an implementation is passed."""
        named = {} if self.name == "forward_kl" else {"divergence": self.name}
        return named | ({} if self.beta is None else {"beta": self.beta})

    def call(self, f: Any, pair: Any, temperature: Any = None) -> Any:
        """The divergence of each pair of rows."""
        scaled = {} if temperature is None else {"temperature": temperature}
        return f(pair[..., 0, :], pair[..., 1, :], reduction="none", **self.keywords(), **scaled)


FORWARD, REVERSE = Divergence("forward_kl"), Divergence("reverse_kl")
JENSEN_SHANNON = Divergence("jensen_shannon", 0.25)


@dataclass(frozen=True)
class ExactPair:
    """Probabilities q of a student and p of a teacher, in mpmath."""

    q: ExactRow
    p: ExactRow

    @classmethod
    def of(cls, pair: np.ndarray, temperature: Any = 1) -> "ExactPair":
        """The pair of logits / T."""
        z, u = exact(pair) / mpmath.mpf(float(temperature))
        return cls(ExactRow(z), ExactRow(u))

    @cached_property
    def delta(self) -> np.ndarray:
        """log p - log q, as margins and as log1p(r), of which either difference may be small; 0 where both are 0."""
        logs = mpmath.log1p(self.q.remainder) - mpmath.log1p(self.p.remainder)
        both = zip(self.q.maximum - self.q.x, self.p.maximum - self.p.x, strict=True)
        return np.array([mpmath.mpf(0) if a == b == mpmath.inf else (a - b) + logs for a, b in both], object)

    @cached_property
    def excess(self) -> np.ndarray:
        """q - p, from delta where they are close."""
        rows = zip(self.p.probs, self.q.probs, self.delta, strict=True)
        return np.array([p * mpmath.expm1(-d) if abs(d) < 1 else q - p for p, q, d in rows], object)

    @property
    def swapped(self) -> "ExactPair":
        """The teacher in the student's place."""
        return ExactPair(self.p, self.q)

    def to_mixture(self, beta: Any) -> np.ndarray:
        """log (p / m) with m = beta p + (1 - beta) q."""
        return np.array([-mpmath.log1p((1 - mpmath.mpf(beta)) * mpmath.expm1(-d)) for d in self.delta], object)


def _product(s: np.ndarray, factors: np.ndarray) -> np.ndarray:
    """s times factors that may be infinite where s is 0; there 0."""
    return np.array([a * b if a else mpmath.mpf(0) for a, b in zip(s, factors, strict=True)], object)


def mean_under(s: np.ndarray, factors: np.ndarray) -> mpmath.mpf:
    """<s, factors>."""
    return sum(_product(s, factors), mpmath.mpf(0))


def divergence_of(divergence: Divergence, pair: ExactPair) -> mpmath.mpf:
    """The divergence (M29, M30)."""
    if divergence.beta is not None:
        beta = mpmath.mpf(divergence.beta)
        teacher = mean_under(pair.p.probs, pair.to_mixture(beta))
        return beta * teacher + (1 - beta) * mean_under(pair.q.probs, pair.swapped.to_mixture(1 - beta))
    forward = pair if divergence == FORWARD else pair.swapped
    return mean_under(forward.p.probs, forward.delta)


def _from_mean(s: np.ndarray, v: np.ndarray) -> Expected:
    """s_j (v_j - <s, v>), to the ulp of s_j sum_{i != j} s_i (|v_i| + |v_j|)."""
    value, size = exact(np.zeros(len(s))), exact(np.zeros(len(s)))
    held = [i for i in range(len(s)) if s[i]]
    for j in held:
        others = [i for i in held if i != j]
        value[j] = s[j] * sum((s[i] * (v[j] - v[i]) for i in others), mpmath.mpf(0))
        size[j] = s[j] * sum((s[i] * (abs(v[j]) + abs(v[i])) for i in others), mpmath.mpf(0))
    return Expected(value, size)


def _kl_gradient(pair: ExactPair) -> Expected:
    """q - p in z, to the ulp of |q - p| + p <p, |delta|>; p (delta - KL) in u (M29)."""
    moved = _product(pair.p.probs, np.full(len(pair.delta), mean_under(pair.p.probs, np.abs(pair.delta)), object))
    by_teacher = _from_mean(pair.p.probs, pair.delta)
    value = np.stack([pair.excess, by_teacher.value])
    return Expected(value, np.stack([np.abs(pair.excess) + moved, by_teacher.magnitude]))


def gradient_of(divergence: Divergence, pair: ExactPair) -> Expected:
    """The gradients in the student's and the teacher's logits (M29, M30)."""
    if divergence == FORWARD:
        return _kl_gradient(pair)
    if divergence == REVERSE:
        return _kl_gradient(pair.swapped)[::-1]
    beta = mpmath.mpf(divergence.beta)
    student = _from_mean(pair.q.probs, pair.swapped.to_mixture(1 - beta))
    teacher = _from_mean(pair.p.probs, pair.to_mixture(beta))
    return np.array([[1 - beta], [beta]], object) * Expected.stack([student, teacher])


def textbook(divergence: Divergence) -> Any:
    """The formulas as printed (M29, M30)."""

    def of_pair(pair, temperature=1):
        log_q, log_p = naive_log_softmax(pair[0] / temperature), naive_log_softmax(pair[1] / temperature)
        if divergence == FORWARD:
            return jnp.sum(jnp.exp(log_p) * (log_p - log_q))
        if divergence == REVERSE:
            return jnp.sum(jnp.exp(log_q) * (log_q - log_p))
        assert divergence.beta is not None
        mixture = jnp.log(divergence.beta * jnp.exp(log_p) + (1 - divergence.beta) * jnp.exp(log_q))
        teacher = jnp.sum(jnp.exp(log_p) * (log_p - mixture))
        return divergence.beta * teacher + (1 - divergence.beta) * jnp.sum(jnp.exp(log_q) * (log_q - mixture))

    return of_pair
