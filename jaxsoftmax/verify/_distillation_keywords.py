"""Each keyword of distillation by itself, then several together, over logits and between two heads: M29, M30, M32."""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import mpmath
import numpy as np

from jaxsoftmax.verify import _regimes, _transformations
from jaxsoftmax.verify._distillation_theorems import DISTILLATION
from jaxsoftmax.verify._exact_divergence import Divergence, ExactPair, divergence_of, gradient_of
from jaxsoftmax.verify._exact_head import Setting, through_product
from jaxsoftmax.verify._head_inputs import drawn
from jaxsoftmax.verify._keyword_cases import OF_SCHEDULE
from jaxsoftmax.verify._keywords import COTANGENTS, of_each
from jaxsoftmax.verify._oracle import Expected, end_to_end, exact, itself
from jaxsoftmax.verify._theorem import Inputs, Theorem
from jaxsoftmax.verify._token_loss import TOKEN_WEIGHTS
from jaxsoftmax.verify._token_stats_keywords import TOKEN_STATS_KEYWORDS
from jaxsoftmax.verify._two_heads import LINEAR_DISTILLATION

VALUES = {"temperature": 2.0, "beta": 0.25, **OF_SCHEDULE}
DIVERGENCES = ("divergence=reverse_kl", "divergence=jensen_shannon")
STUDENT, TEACHER = Setting(6, 3, _regimes.VOCAB), Setting(6, 2, _regimes.VOCAB)
WITHOUT_EFFECT_ON_DIVERGENCE = tuple(OF_SCHEDULE)

Given = frozenset[str]  # the keywords of a call; of some with their value
REVERSE, JENSEN_SHANNON = (frozenset({name}) for name in DIVERGENCES)
WITH_BETA = JENSEN_SHANNON | {"beta"}
TOGETHER = WITH_BETA | {"temperature", "token_weights"}
GIVEN = {
    "no keyword": frozenset[str](),
    **{name: frozenset({name}) for name in (*DIVERGENCES, "temperature", "token_weights")},
    "beta": WITH_BETA,
    "reduction=sum": frozenset({"reduction=sum"}),
    "reduction=none": frozenset({"reduction=none"}),
    "several keywords": TOGETHER,
    "several keywords, reduction=sum": TOGETHER | {"reduction=sum"},
    "several keywords, reduction=none": TOGETHER | {"reduction=none"},
}
OF_HEADS = GIVEN | {name: frozenset({name}) for name in ("bias", "teacher_bias", *OF_SCHEDULE)}
OF_HEADS |= {"several keywords": TOGETHER | {"bias", "teacher_bias", *OF_SCHEDULE}}


def keywords(given: Given) -> dict[str, Any]:
    """What is passed, but for arrays."""
    named = dict(name.split("=") for name in given if "=" in name)
    return named | {name: value for name, value in VALUES.items() if name in given}


def divergence_of_call(given: Given) -> Divergence:
    """The divergence of a call."""
    name = keywords(given).get("divergence", "forward_kl")
    return Divergence(name, (VALUES["beta"] if "beta" in given else 0.5) if name == "jensen_shannon" else None)


def with_gradients(given: Given, f: Any, named: dict[str, Any]) -> jax.Array:
    """The divergence, and its gradients in what is named, end to end."""

    def pulled_back(*values):
        value = f(**dict(zip(named, values, strict=True)))
        return jnp.sum((jnp.asarray(COTANGENTS, value.dtype) if "reduction=none" in given else 1) * value), (value,)

    return _transformations.with_gradients(pulled_back, *named.values())


def of_logits(given: Given, f: Any, z: Any, u: Any, weights: Any) -> jax.Array:
    """The call over given logits."""
    arrays = {"z": z, "u": u} | ({"token_weights": weights} if "token_weights" in given else {})

    def call(z, u, **arrays):
        return f(z, u, **arrays, **keywords(given))

    return with_gradients(given, call, arrays)


def of_heads(given: Given, f: Any, x: Any, w: Any, b: Any, tx: Any, tw: Any, tb: Any, weights: Any) -> jax.Array:
    """The call between two heads."""
    optional = {"bias": b, "teacher_bias": tb, "token_weights": weights}
    arrays = {"x": x, "w": w, "tx": tx, "tw": tw} | {n: value for n, value in optional.items() if n in given}

    def call(x, w, tx, tw, **arrays):
        return f(x, w, tx, tw, **arrays, **keywords(given))

    return with_gradients(given, call, arrays)


def exact_parts(given: Given, z: np.ndarray, u: np.ndarray, weights: np.ndarray) -> tuple[Expected, Expected, Expected]:
    """The divergence as it is reduced, and its gradients in both rows of logits and in the token weights."""
    divergence, t = divergence_of_call(given), mpmath.mpf(VALUES["temperature"] if "temperature" in given else 1)
    pairs = [ExactPair.of(np.stack(rows), t) for rows in zip(z, u, strict=True)]
    losses = itself([divergence_of(divergence, pair) for pair in pairs])
    gradients = Expected.stack([gradient_of(divergence, pair) for pair in pairs])
    weights = exact(weights if "token_weights" in given else np.ones(len(z)))
    reduction = keywords(given).get("reduction", "mean")
    divisor = sum(weights) if reduction == "mean" else mpmath.mpf(1)
    cotangents = exact(COTANGENTS if reduction == "none" else np.ones(len(z)))
    value = weights * losses if reduction == "none" else weights @ losses / divisor
    mean = value.value if reduction == "mean" else mpmath.mpf(0)
    by_pairs = (cotangents * weights / divisor)[:, None, None] * gradients / t
    return value, by_pairs, cotangents * (losses - mean) / divisor


def of_logits_exactly(given: Given, z: np.ndarray, u: np.ndarray, weights: np.ndarray) -> Expected:
    """The divergence of given logits, and its gradients."""
    value, by_pairs, by_weights = exact_parts(given, z, u, weights)
    by_rows = {"gradient in student logits": by_pairs[:, 0], "gradient in teacher logits": by_pairs[:, 1]}
    optional = {"gradient in token_weights": by_weights} if "token_weights" in given else {}
    return end_to_end({"divergence": value} | by_rows | optional)


def of_heads_exactly(given: Given, x: Any, w: Any, b: Any, tx: Any, tw: Any, tb: Any, weights: Any) -> Expected:
    """The divergence between two heads, and its gradients (M16)."""
    z, u = _logits(given, x, w, b, tx, tw, tb)
    value, by_pairs, by_weights = exact_parts(given, z, u, weights)
    gradients = through_product(x, w, by_pairs[:, 0]) | through_product(tx, tw, by_pairs[:, 1], "teacher_")
    optional = {name: gradients.pop(f"gradient in {name}") for name in ("bias", "teacher_bias")}
    optional["token_weights"] = by_weights
    chosen = {f"gradient in {name}": part for name, part in optional.items() if name in given}
    return end_to_end({"divergence": value} | gradients | chosen)


def _logits(given: Given, x: Any, w: Any, b: Any, tx: Any, tw: Any, tb: Any) -> tuple[np.ndarray, np.ndarray]:
    return x @ w + (b if "bias" in given else 0), tx @ tw + (tb if "teacher_bias" in given else 0)


def mistakes(given: Given, z: np.ndarray, u: np.ndarray, weights: np.ndarray) -> Iterator[tuple[str, Expected]]:
    """What the divergence is if a keyword changes nothing."""
    for keyword in sorted(given.difference(WITHOUT_EFFECT_ON_DIVERGENCE)):
        value = exact_parts(given - {keyword}, z, u, weights)[0]
        yield f"{keyword} changes nothing: the divergence without it came", value


def mistakes_of_heads(given: Given, x: Any, w: Any, b: Any, tx: Any, tw: Any, tb: Any, weights: Any) -> Iterator[Any]:
    """What the divergence between two heads is if a keyword changes nothing."""
    biases = given & {"bias", "teacher_bias"}
    for name in sorted(biases):
        value = exact_parts(given, *_logits(given - {name}, x, w, b, tx, tw, tb), weights)[0]
        yield f"{name} changes nothing: the divergence without it came", value
    yield from mistakes(given - biases, *_logits(given, x, w, b, tx, tw, tb), weights)


def pairs(dtype: str) -> list[Inputs]:
    """Six tokens of two models."""
    z, u = (_regimes.ordinary(dtype, rows=6, seed=seed) for seed in (38, 39))
    return [Inputs("six tokens", (z[None], u[None], TOKEN_WEIGHTS[None]))]


def heads(dtype: str) -> list[Inputs]:
    """Six tokens of two heads."""
    arrays = [array[None] for array in (*drawn(STUDENT, 53), *drawn(TEACHER, 54), TOKEN_WEIGHTS)]
    return [Inputs("six tokens", tuple(arrays))]


TOKEN_KEYWORDS = Theorem(
    "M32-keywords",
    "each keyword of statistics and divergences",
    "each keyword of the statistics of tokens and of divergences by itself, and several together: values and gradients "
    "are those of M28-M30 and M32",
    "as M28 and M29",
    "a keyword that is taken and does nothing; a beta that counts for the student; ignored tokens' entropies kept",
    (
        *TOKEN_STATS_KEYWORDS,
        *of_each(DISTILLATION, "divergence", GIVEN, of_logits, of_logits_exactly, pairs, mistakes),
        *of_each(LINEAR_DISTILLATION, "divergence", OF_HEADS, of_heads, of_heads_exactly, heads, mistakes_of_heads),
    ),
)
