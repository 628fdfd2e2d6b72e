"""What a training step asks of a head besides its loss, by this library, and as a JAX user writes it by hand.

By hand: with all logits in memory; or as a scan over chunks of tokens that keeps no chunk's logits.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

import jaxsoftmax
from jaxsoftmax.bench import _case

SUBJECT = "jaxsoftmax"
_SCAN_CHUNK = 512  # tokens
Terms = Callable[..., Array]  # terms(tokens, weights) [chunk] of arrays over tokens, and of others


def scanned(terms: Terms, tokens: tuple[Array, ...], weights: tuple[Array, ...]) -> Array:
    """Returns the mean of a token's terms, by a scan over chunks of tokens."""
    count = len(tokens[0])
    size = min(_SCAN_CHUNK, count)
    missing = -count % size
    padded = [jnp.pad(array, ((0, missing), *((0, 0) for _ in array.shape[1:]))) for array in tokens]
    valid = jnp.arange(count + missing) < count

    @jax.checkpoint
    def of_chunk(total: Array, chunk: tuple[tuple[Array, ...], Array]) -> tuple[Array, None]:
        of_tokens, real = chunk
        return total + jnp.sum(jnp.where(real, terms(of_tokens, weights), 0), dtype=jnp.float32), None

    chunks = tuple(array.reshape(-1, size, *array.shape[1:]) for array in padded), valid.reshape(-1, size)
    return lax.scan(of_chunk, jnp.float32(0), chunks)[0] / count


def nll_terms(tokens: tuple[Array, ...], weights: tuple[Array, ...]) -> Array:
    """Returns -log s_y of hidden states and labels."""
    (hidden, labels), (kernel,) = tokens, weights
    return -jnp.take_along_axis(jax.nn.log_softmax(hidden @ kernel), labels[:, None], axis=-1)[:, 0]


def _stats_terms(tokens: tuple[Array, ...], weights: tuple[Array, ...]) -> Array:
    (hidden, labels), (kernel,) = tokens, weights
    log_probs = jax.nn.log_softmax((hidden @ kernel).astype(jnp.float32))
    entropy = -jnp.sum(jnp.exp(log_probs) * log_probs, -1)
    return -jnp.take_along_axis(log_probs, labels[:, None], axis=-1)[:, 0] - _case.ENTROPY_WEIGHT * entropy


def _sparse_terms(tokens: tuple[Array, ...], weights: tuple[Array, ...]) -> Array:
    (hidden, indices, of_indices), (kernel,) = tokens, weights
    log_probs = jax.nn.log_softmax((hidden @ kernel).astype(jnp.float32))
    return -jnp.sum(of_indices * jnp.take_along_axis(log_probs, indices, axis=-1), -1)


def _divergence_terms(tokens: tuple[Array, ...], weights: tuple[Array, ...]) -> Array:
    products = (h @ k for h, k in zip(tokens, weights, strict=True))
    student, teacher = (jax.nn.log_softmax(logits.astype(jnp.float32)) for logits in products)
    return jnp.sum(jnp.exp(teacher) * (teacher - student), -1)


def _by_hand(terms: Terms) -> dict[str, Callable[..., Array]]:
    """The two programs of hidden, kernel and arrays over tokens."""
    return {
        _case.SCANNED: lambda hidden, kernel, *others: scanned(terms, (hidden, *others), (kernel,)),
        _case.MATERIALISED: lambda hidden, kernel, *others: terms((hidden, *others), (kernel,)).mean(),
    }


def _distillation_by_hand() -> dict[str, Callable[..., Array]]:
    return {
        _case.SCANNED: lambda h, k, teacher_h, teacher_k: scanned(_divergence_terms, (h, teacher_h), (k, teacher_k)),
        _case.MATERIALISED: lambda h, k, teacher_h, teacher_k: _divergence_terms((h, teacher_h), (k, teacher_k)).mean(),
    }


def _stats(hidden: Array, kernel: Array, labels: Array) -> Array:
    stats = jaxsoftmax.linear_token_stats(hidden, kernel, labels)
    return -(stats.log_prob + _case.ENTROPY_WEIGHT * stats.entropy).mean()


def _sparse(hidden: Array, kernel: Array, indices: Array, weights: Array) -> Array:
    return jaxsoftmax.linear_cross_entropy(hidden, kernel, jaxsoftmax.SparseLabels(indices, weights))


def _with_parts(hidden: Array, kernel: Array, labels: Array) -> Any:
    return jaxsoftmax.linear_cross_entropy(hidden, kernel, labels, has_aux=True)


def _without_parts(hidden: Array, kernel: Array, labels: Array) -> tuple[Array, None]:
    return jaxsoftmax.linear_cross_entropy(hidden, kernel, labels), None


HEAD_FUNCTIONS: dict[str, dict[str, Callable[..., object]]] = {
    _case.STATS: {SUBJECT: _stats, **_by_hand(_stats_terms)},
    _case.SPARSE: {SUBJECT: _sparse, **_by_hand(_sparse_terms)},
    _case.DISTILLATION: {SUBJECT: jaxsoftmax.linear_distillation, **_distillation_by_hand()},
    _case.PARTS: {SUBJECT: _with_parts, _case.WITHOUT_PARTS: _without_parts},
}
