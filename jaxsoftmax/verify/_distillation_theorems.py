"""Divergences between a student and a teacher, over logits and in two fused heads: M29, M30."""

from typing import Any

import jax.numpy as jnp
import mpmath
import numpy as np

from jaxsoftmax.verify import _regimes
from jaxsoftmax.verify._exact_divergence import (
    FORWARD,
    JENSEN_SHANNON,
    REVERSE,
    Divergence,
    ExactPair,
    divergence_of,
    gradient_of,
    mean_under,
    textbook,
)
from jaxsoftmax.verify._oracle import Expected, exact, itself
from jaxsoftmax.verify._regimes import Regimes, rows
from jaxsoftmax.verify._theorem import FLOAT32, Claim, Inputs, Theorem, derivative, hessian, value
from jaxsoftmax.verify._two_heads import of_two_heads

DISTILLATION = "distillation"
NEAR = 2.0**-14  # by how much of themselves the logits of rows that nearly agree differ
TOKEN_WEIGHTS = np.array([1.0, 0.5, 0.0, 2.0])


def value_of(divergence: Divergence) -> Any:
    """The divergence of logits / T, not multiplied by T^2, to its own ulp: no term is negative (M29, M30, M32)."""
    return lambda pair, t=1: itself(divergence_of(divergence, ExactPair.of(pair, t)))


def gradient(divergence: Divergence) -> Any:
    """The divergence's gradient in both rows: 1 / T times that at logits / T (M29, M30, M32)."""
    return lambda pair, t=1: gradient_of(divergence, ExactPair.of(pair, t)) / mpmath.mpf(float(t))


def kl_hessian(pair: np.ndarray) -> Expected:
    """The Hessian of KL(p||q) in (z, u): J_q in zz, -J_p in zu, and the derivative of M29 in uu."""
    rows = ExactPair.of(pair)
    p, delta, size = rows.p.probs, rows.delta, len(rows.delta)
    kl = mean_under(p, delta)
    centred, far = delta - kl, np.abs(delta) + mean_under(p, np.abs(delta))
    outer = np.outer(p, p)
    twice = np.diag(p * (centred + 1)) - outer * (centred[:, None] + centred[None, :] + 1)
    twice_size = np.diag(p * (far + 1)) + outer * (far[:, None] + far[None, :] + 1)
    blocks = [[rows.q.jacobian, -rows.p.jacobian], [-rows.p.jacobian, twice]]
    both = p + rows.q.probs
    terms = np.diag(both) + np.outer(both, both)  # of q and of p, which cancel in each block
    sizes = [[terms, terms], [terms, terms + twice_size]]
    return Expected(np.block(blocks).reshape(2, size, 2, size), np.block(sizes).reshape(2, size, 2, size))


def weighted_mean(f: Any, theta: Any) -> Any:
    """The mean over weighted tokens; theta holds their pairs and, in the first entry of a third row, their weights."""
    return f(theta[:, 0], theta[:, 1], token_weights=theta[:, 2, 0], divergence="forward_kl")


def mean_gradient(theta: np.ndarray) -> Expected:
    """w_t / sum w times each token's gradient; (D_t - mean) / sum w in w_t (M27, M29)."""
    pairs = [ExactPair.of(rows[:2]) for rows in theta]
    losses = itself([divergence_of(FORWARD, pair) for pair in pairs])
    total = sum(exact(theta[:, 2, 0]))
    share = exact(theta[:, 2, 0]) / total
    value, size = (exact(np.zeros(theta.shape)) for _ in range(2))
    by_rows = share[:, None, None] * Expected.stack([gradient_of(FORWARD, pair) for pair in pairs])
    by_weights = (losses - share @ losses) / total
    value[:, :2], size[:, :2] = by_rows.value, by_rows.magnitude
    value[:, 2, 0], size[:, 2, 0] = by_weights.value, by_weights.magnitude
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


def impossible_for_teacher(dtype: str) -> dict[str, np.ndarray]:
    """Classes at -inf for the teacher alone."""
    return {"-inf for the teacher alone": paired(_regimes.ordinary(dtype), _regimes.masked(dtype))}


def impossible_for_student(dtype: str) -> dict[str, np.ndarray]:
    """Classes at -inf for the student alone."""
    return {"-inf for the student alone": paired(_regimes.masked(dtype), _regimes.ordinary(dtype))}


def weighted_tokens(dtype: str) -> list[Inputs]:
    """Four tokens, of which one has no weight."""
    theta = np.zeros((4, 3, _regimes.VOCAB))
    theta[:, :2], theta[:, 2, 0] = moderate(dtype)["ordinary"], TOKEN_WEIGHTS
    return [Inputs("weighted", (theta[None],))]


def _of_pairs(divergence: Divergence, values: list[Regimes], gradients: list[Regimes]) -> tuple[Claim, ...]:
    """Value and gradient of a divergence, on these regimes."""
    name, oracle = divergence.name, gradient(divergence)
    call, naive = divergence.call, textbook(divergence)
    low = rows(moderate, confident)
    return (
        value(DISTILLATION, name, value_of(divergence), rows(*values), 8, call=call),
        derivative(DISTILLATION, f"gradients of {name}", oracle, rows(*gradients), 6, textbook=naive, call=call),
        derivative(
            DISTILLATION,
            f"gradients of {name} in low precision",
            oracle,
            low,
            1,
            dtypes=_regimes.LOW_PRECISION,
            call=call,
        ),
    )


EVERYTHING = [every_pair, impossible_for_teacher, impossible_for_student]

DISTILLATION_THEOREMS = (
    Theorem(
        "M29",
        "Kullback-Leibler divergence",
        "KL(p||q) = sum_j p_j (delta_j + expm1(-delta_j)) with delta = log p - log q; its gradient is q - p in z, and "
        "p_j (delta_j - KL) in u",
        "p, q to 3 ulps each, delta to 2 ulps of itself and of <p, |delta|>, sums to 2; half an ulp in low precision",
        "sum p (log p - log q), of which nothing is left where p and q nearly agree; a log-sum-exp's own rounding in "
        "log p; roles swapped; no gradient for the teacher; 0 inf where both are -inf",
        (
            *_of_pairs(FORWARD, EVERYTHING, [every_pair, impossible_for_teacher]),
            *_of_pairs(REVERSE, [every_pair, impossible_for_student], [every_pair, impossible_for_student]),
            hessian(DISTILLATION, "Hessian of forward_kl", kl_hessian, rows(moderate), 8, call=FORWARD.call,
                    dtypes=FLOAT32),
            derivative(DISTILLATION, "gradients of the mean, and in the token weights", mean_gradient, weighted_tokens,
                       6, call=weighted_mean, rowwise=False, textbook=textbook_mean),
            of_two_heads(FORWARD),
            of_two_heads(REVERSE),
        ),
    ),
    Theorem(
        "M30",
        "Jensen-Shannon divergence",
        "JS = beta KL(p||m) + (1 - beta) KL(q||m) with m = beta p + (1 - beta) q; its gradient is (1 - beta) q_j "
        "(log (q_j / m_j) - KL(q||m)) in z, and in u the same of beta and p",
        "as M29",
        "beta and 1 - beta swapped; log m of a sum, which cancels against log p; ln 2 for every row",
        (*_of_pairs(JENSEN_SHANNON, EVERYTHING, EVERYTHING), of_two_heads(JENSEN_SHANNON)),
    ),
)  # fmt: skip
