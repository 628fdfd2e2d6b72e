"""Exact forms and calls for: divergences between a student's and a teacher's rows: M29, M30, M32.

A pair of rows is one array [2, vocab], the student's logits z before the teacher's u: one gradient has both.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax.numpy as jnp
import mpmath
import numpy as np

from jaxsoftmax.verify import _regimes
from jaxsoftmax.verify._oracle import ExactRow, Expected, exact, itself
from jaxsoftmax.verify._softmax_oracles import naive_log_softmax
from jaxsoftmax.verify._theorem import Inputs

DISTILLATION = "distillation"
NEAR = 2.0**-14  # by how much of themselves the logits of rows that nearly agree differ
TEMPERATURES = np.array([0.5, 2.0, 4.0, 1.0])  # by which no logit rounds
TOKEN_WEIGHTS = np.array([1.0, 0.5, 0.0, 2.0])


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


def _mean(s: np.ndarray, factors: np.ndarray) -> mpmath.mpf:
    return sum(_product(s, factors), mpmath.mpf(0))


def divergence_of(divergence: Divergence, pair: ExactPair) -> mpmath.mpf:
    """The divergence (M29, M30)."""
    if divergence.beta is not None:
        beta = mpmath.mpf(divergence.beta)
        teacher = _mean(pair.p.probs, pair.to_mixture(beta))
        return beta * teacher + (1 - beta) * _mean(pair.q.probs, pair.swapped.to_mixture(1 - beta))
    forward = pair if divergence == FORWARD else pair.swapped
    return _mean(forward.p.probs, forward.delta)


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
    moved = _product(pair.p.probs, np.full(len(pair.delta), _mean(pair.p.probs, np.abs(pair.delta)), object))
    by_teacher = _from_mean(pair.p.probs, pair.delta)
    value = np.stack([pair.excess, by_teacher.value])
    return Expected(value, np.stack([np.abs(pair.excess) + moved, by_teacher.magnitude]))


def gradient_of(divergence: Divergence, pair: ExactPair) -> Expected:
    """The gradients in the student's and the teacher's logits (M29, M30)."""
    if divergence == FORWARD:
        return _kl_gradient(pair)
    if divergence == REVERSE:
        by_roles = _kl_gradient(pair.swapped)
        return Expected(by_roles.value[::-1], by_roles.magnitude[::-1])
    beta = mpmath.mpf(divergence.beta)
    student = _from_mean(pair.q.probs, pair.swapped.to_mixture(1 - beta))
    teacher = _from_mean(pair.p.probs, pair.to_mixture(beta))
    shares = np.array([[1 - beta], [beta]], object)
    return Expected(
        shares * np.stack([student.value, teacher.value]), shares * np.stack([student.magnitude, teacher.magnitude])
    )


def value(divergence: Divergence) -> Any:
    """The divergence of a pair, to its own ulp: no term of it is negative."""
    return lambda pair: itself(np.asarray(divergence_of(divergence, ExactPair.of(pair))))


def gradient(divergence: Divergence) -> Any:
    """The oracle of the divergence's gradient in both rows."""
    return lambda pair: gradient_of(divergence, ExactPair.of(pair))


def value_at_temperature(divergence: Divergence) -> Any:
    """The divergence of logits / T, not multiplied by T^2 (M32)."""
    return lambda pair, t: itself(np.asarray(divergence_of(divergence, ExactPair.of(pair, t))))


def gradient_at_temperature(divergence: Divergence) -> Any:
    """1 / T times the gradient at logits / T (M32)."""

    def expected(pair, t):
        of_scaled, t = gradient_of(divergence, ExactPair.of(pair, t)), mpmath.mpf(float(t))
        return Expected(of_scaled.value / t, of_scaled.magnitude / t)

    return expected


def kl_hessian(pair: np.ndarray) -> Expected:
    """The Hessian of KL(p||q) in (z, u): J_q in zz, -J_p in zu, and the derivative of M29 in uu."""
    rows = ExactPair.of(pair)
    p, delta, size = rows.p.probs, rows.delta, len(rows.delta)
    kl = _mean(p, delta)
    centred, far = delta - kl, np.abs(delta) + _mean(p, np.abs(delta))
    outer = np.outer(p, p)
    twice = np.diag(p * (centred + 1)) - outer * (centred[:, None] + centred[None, :] + 1)
    twice_size = np.diag(p * (far + 1)) + outer * (far[:, None] + far[None, :] + 1)
    blocks = [[rows.q.jacobian, -rows.p.jacobian], [-rows.p.jacobian, twice]]
    both = p + rows.q.probs
    terms = np.diag(both) + np.outer(both, both)  # of q and of p, which cancel in each block
    sizes = [[terms, terms], [terms, terms + twice_size]]
    return Expected(np.block(blocks).reshape(2, size, 2, size), np.block(sizes).reshape(2, size, 2, size))


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


def mean_and_gradients(f: Any, theta: Any) -> Any:
    """The mean over weighted tokens; theta holds their pairs and, in the first entry of a third row, their weights."""
    return f(theta[:, 0], theta[:, 1], token_weights=theta[:, 2, 0], divergence="forward_kl")


def mean_gradient(theta: np.ndarray) -> Expected:
    """w_t / sum w times each token's gradient; (D_t - mean) / sum w in w_t (M27, M29)."""
    pairs = [ExactPair.of(rows[:2]) for rows in theta]
    losses = np.array([divergence_of(FORWARD, pair) for pair in pairs], object)
    weights = exact(theta[:, 2, 0])
    total = sum(weights)
    mean = np.dot(weights, losses) / total
    of_rows = Expected.stack([gradient_of(FORWARD, pair) for pair in pairs])
    scale = (weights / total)[:, None, None]
    value, size = (exact(np.zeros(theta.shape)) for _ in range(2))
    value[:, :2], size[:, :2] = scale * of_rows.value, scale * of_rows.magnitude
    value[:, 2, 0], size[:, 2, 0] = (losses - mean) / total, (losses + mean) / total
    return Expected(value, size)


def textbook_mean(theta):
    """The formulas as printed (M27, M29)."""
    losses = jnp.stack([textbook(FORWARD)(rows[:2]) for rows in theta])
    return jnp.dot(theta[:, 2, 0], losses) / jnp.sum(theta[:, 2, 0])


def paired(students: np.ndarray, teachers: np.ndarray) -> np.ndarray:
    """Pairs of rows."""
    return np.stack(np.broadcast_arrays(students, teachers), 1)


def moved(x: np.ndarray) -> np.ndarray:
    """Logits that differ from x by 2^-14 of themselves, or not at all."""
    return x * (1 + NEAR * np.random.default_rng(14).integers(-1, 2, x.shape))


def moderate(dtype: str) -> dict[str, np.ndarray]:
    """Pairs of rows of a few nats."""
    x, ties = _regimes.ordinary(dtype), _regimes.ties(dtype)
    return {"ordinary": paired(x, _regimes.ordinary(dtype, seed=12)), "ties": paired(ties, ties[::-1])}


def confident(dtype: str) -> dict[str, np.ndarray]:
    """Rows with tails, whose dominant classes are the same, and others."""
    ((gap, x),) = _regimes.tails(dtype).items()
    other = np.where(x == 0, 0, x + np.array([1.0, -1, 1, 0, -1, 2, -2]))
    return {f"{gap}, agreeing": paired(x, other), f"{gap}, disagreeing": paired(x[:4], x[1:5])}


def near(dtype: str) -> dict[str, np.ndarray]:
    """Rows whose logits differ by 1e-4, as late in distillation, and equal rows.

    Of the confident ones even products of two tails, times 1e-4, are normal numbers.
    """
    x, sure = _regimes.ordinary(dtype, seed=15), _regimes.confident(dtype)[:6]
    return {
        "differing by 1e-4": paired(x, moved(x)),
        "differing by 1e-4, confident": paired(sure, moved(sure)),
        "equal": paired(x, x),
    }


def every_pair(dtype: str) -> dict[str, np.ndarray]:
    """All regimes of which the divergence is finite."""
    x, masked = _regimes.ordinary(dtype), _regimes.masked(dtype)
    shifted = {"student shifted by 1e4": paired(x + 1e4, _regimes.ordinary(dtype, seed=12))}
    masks = {"-inf masks": paired(masked, np.where(np.isneginf(masked), masked, x))}
    return moderate(dtype) | shifted | masks | confident(dtype) | near(dtype)


def impossible(which: str) -> Any:
    """Classes at -inf for the "teacher" or the "student" alone."""

    def pairs(dtype: str) -> dict[str, np.ndarray]:
        x, masked = _regimes.ordinary(dtype), _regimes.masked(dtype)
        return {f"-inf for the {which} alone": paired(x, masked) if which == "teacher" else paired(masked, x)}

    return pairs


def pairs(*regimes: Any) -> Any:
    """The regimes as inputs."""
    return lambda dtype: [Inputs(name, (x,)) for regime in regimes for name, x in regime(dtype).items()]


def low(dtype: str) -> list[Inputs]:
    return pairs(moderate, confident)(dtype)


def at_temperatures(dtype: str) -> list[Inputs]:
    near_rows = near(dtype)["differing by 1e-4"]
    regimes = {"T of 1/2 to 4": moderate(dtype)["ordinary"], "T of 1/2 to 4, differing by 1e-4": near_rows}
    return [Inputs(name, (x, TEMPERATURES)) for name, x in regimes.items()]


def weighted_tokens(dtype: str) -> list[Inputs]:
    """Four tokens, of which one has no weight."""
    theta = np.zeros((4, 3, _regimes.VOCAB))
    theta[:, :2], theta[:, 2, 0] = moderate(dtype)["ordinary"], TOKEN_WEIGHTS
    return [Inputs("weighted", (theta[None],))]
