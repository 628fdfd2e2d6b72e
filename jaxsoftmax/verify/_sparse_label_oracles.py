"""Exact forms and calls for: labels of a few weighted classes: M31."""

from typing import Any

import jax.numpy as jnp
import mpmath
import numpy as np

from jaxsoftmax import SparseLabels
from jaxsoftmax.verify import _regimes
from jaxsoftmax.verify._head_inputs import drawn, packed
from jaxsoftmax.verify._head_oracles import Setting
from jaxsoftmax.verify._oracle import ExactRow, Expected, end_to_end, exact, itself
from jaxsoftmax.verify._softmax_oracles import naive_lse
from jaxsoftmax.verify._theorem import Inputs
from jaxsoftmax.verify._token_stats_oracles import through_product
from jaxsoftmax.verify._training_loss_oracles import TOGETHER, token_gradient, token_loss

TOKENS = Setting(5, 3, _regimes.VOCAB, chunk=2, reduction="sum", weighted=True)
INDICES = np.array([[0, 2, 0], [3, 1, 6], [4, 4, 4], [6, 0, 5]], np.int32)  # some twice, one three times
WEIGHTS = np.array([[0.5, 0.25, 0.25], [0.625, 0.25, 0.125], [0.25, 0.5, 0.125], [1.5, 0.0, 0.75]])
TOKEN_WEIGHTS = np.array([1.0, 0.5, 0.0, 2.0])


def per_token(f, x, indices, weights):
    """The loss of each row."""
    return f(x, SparseLabels(indices, weights), reduction="none")


def by_weights(f, weights, x, indices):
    """The loss of each row, as a function of its labels' weights."""
    return per_token(f, x, indices, weights)


def _terms(weights: np.ndarray, factors: Any) -> list[Any]:
    """Each weight's product, without those of weight 0."""
    return [w * factor for w, factor in zip(weights, factors, strict=True) if w]


def loss(x, indices, weights):
    """sum_i w_i ((m - z_{c_i}) + log1p(r)) (M31)."""
    row, w = ExactRow(exact(x)), exact(weights)
    value, size = (sum(_terms(part, row.nll[indices]), mpmath.mpf(0)) for part in (w, np.abs(w)))
    return Expected(np.asarray(value), np.asarray(size))


def gradient(x, indices, weights):
    """sum_i w_i (s - e_{c_i}), to the ulp of each term, which keeps the tails (M20, M31)."""
    row, w = ExactRow(exact(x)), exact(weights)
    of_labels = np.stack([row.label_gradient(int(c)) for c in indices])
    return Expected(w @ of_labels, np.abs(w) @ np.abs(of_labels))


def weights_gradient(weights, x, indices):
    """(m - z_{c_i}) + log1p(r), of every class that is named (M12, M31)."""
    del weights
    return itself(ExactRow(exact(x)).nll[indices])


def hessian(x, indices, weights):
    """sum_i w_i (diag(s) - s s^T) (M15, M31)."""
    del indices
    row, w = ExactRow(exact(x)), exact(weights)
    return Expected(sum(w) * row.jacobian, sum(np.abs(w)) * np.abs(row.jacobian))


def naive(x, indices, weights):
    """The formula as printed (M31)."""
    return jnp.sum(weights * (naive_lse(x) - x[indices]))


def or_nan(oracle: Any) -> Any:
    """The oracle's result, but NaN for a token of which any label is no class, whatever its weight."""

    def expected(x, indices, weights):
        of_classes = oracle(x, np.clip(indices, 0, len(x) - 1), weights)
        if np.all((indices >= 0) & (indices < len(x))):
            return of_classes
        return itself(np.full(np.shape(of_classes.value), mpmath.mpf("nan"), object))

    return expected


def everything(f, x, indices, weights):
    """With smoothing, z-loss, class weights and a soft cap."""
    return TOGETHER.per_token(f, x, SparseLabels(indices, weights))


def as_float_labels(oracle: Any) -> Any:
    """The oracle of float labels, whose entry at j is the sum of the weights that name j (M26, M31)."""

    def expected(x, indices, weights):
        labels = np.zeros(len(x))
        np.add.at(labels, indices, weights)
        return oracle(TOGETHER)(x, labels)

    return expected


FLOAT_LOSS, FLOAT_GRADIENT = as_float_labels(token_loss), as_float_labels(token_gradient)


def mean(f, x, indices, weights, u):
    """The mean over tokens with weights."""
    return f(x, SparseLabels(indices, weights), token_weights=u)


def exact_mean(x, indices, weights, u):
    """sum_t u_t l_t / sum_t u_t (M27)."""
    losses = Expected.stack([loss(*row) for row in zip(x, indices, weights, strict=True)])
    u = exact(u)
    return Expected(np.asarray(np.dot(u, losses.value) / sum(u)), np.asarray(np.dot(u, losses.magnitude) / sum(u)))


def in_head(f, theta, indices, weights):
    """The weighted sum of the fused head's losses."""
    return TOKENS.loss(f, theta, SparseLabels(indices, weights))


def in_head_by_weights(f, weights, theta, indices):
    """The weighted sum of the fused head's losses, as a function of its labels' weights."""
    return in_head(f, theta, indices, weights)


def _of_tokens(theta: np.ndarray, *labels: np.ndarray) -> Any:
    hidden, kernel, bias, _ = TOKENS.parts(theta)
    return zip(hidden @ kernel + bias, *labels, strict=True)


def head_gradient(theta, indices, weights):
    """Gradients of the fused head's loss; in a token's weight it is that token's loss (M16, M31)."""
    hidden, kernel, _, u = TOKENS.parts(theta)
    losses = Expected.stack([loss(*row) for row in _of_tokens(theta, indices, weights)])
    g = Expected.stack([gradient(*row) for row in _of_tokens(theta, indices, weights)])
    u = exact(u)[:, None]
    return end_to_end(*through_product(hidden, kernel, Expected(u * g.value, u * g.magnitude)), losses)


def head_weights_gradient(weights, theta, indices):
    """u_t times the NLL of each named class (M12, M31)."""
    u = exact(TOKENS.parts(theta).token_weights)[:, None]
    return itself(u * np.stack([ExactRow(exact(z)).nll[c] for z, c in _of_tokens(theta, indices)]))


def head_naive(theta, indices, weights):
    """The formula as printed, of all logits at once (M31)."""
    hidden, kernel, bias, u = TOKENS.parts(theta)
    z = hidden @ kernel + bias
    lse = jnp.log(jnp.sum(jnp.exp(z), -1, keepdims=True))
    return jnp.dot(u, jnp.sum(weights * (lse - jnp.take_along_axis(z, indices, -1)), -1))


def labelled(dtype: str) -> list[Inputs]:
    """Classes named twice; weights of both signs; a class at -inf, of weight 0; rows sure of a class named twice."""
    x, masked = _regimes.ordinary(dtype), _regimes.masked(dtype)
    moderate = {"ordinary": (x, INDICES, WEIGHTS), "ties": (_regimes.ties(dtype), INDICES, WEIGHTS)}
    signed = (x, INDICES, WEIGHTS * np.array([1, -1, 1]))
    at_mask = np.zeros_like(INDICES)
    at_mask[:, 1] = [2, 1, 5, 1]
    hidden = (masked, at_mask, WEIGHTS * np.array([1, 0, 1]))
    others = {"signed weights": signed, "weight 0 at -inf": hidden}
    return [Inputs(name, arrays) for name, arrays in (moderate | others | confident(dtype)).items()]


def confident(dtype: str) -> dict[str, tuple[np.ndarray, ...]]:
    """The class ahead, named once and twice, beside others."""
    ((name, x),) = _regimes.tails(dtype).items()
    top = _regimes.top_labels(x)
    twice = np.stack([top, top, top], 1)
    beside = np.stack([top, (top + 1) % _regimes.VOCAB, top], 1)
    weights = np.tile([0.5, 0.25, 0.125], (len(x), 1))
    return {f"{name}, named twice": (x, twice, weights), f"{name}, beside others": (x, beside, weights)}


def moderate(dtype: str) -> list[Inputs]:
    return labelled(dtype)[:2]


def low(dtype: str) -> list[Inputs]:
    return [*moderate(dtype), *(Inputs(name, arrays) for name, arrays in confident(dtype).items())]


def weights_first(dtype: str) -> list[Inputs]:
    return [Inputs(each.regime, (each.arrays[2], *each.arrays[:2])) for each in low(dtype)]


def out_of_range(dtype: str) -> list[Inputs]:
    indices = np.array([[0, -1, 2], [1, 2, _regimes.VOCAB], [3, 3, 1], [-_regimes.VOCAB, 0, 0]], np.int32)
    weights = np.array([[1.0, 0.5, 0.25], [1.0, 0.5, 0.0], [1.0, 0.5, 0.25], [0.0, 1.0, 0.5]])
    return [Inputs("labels -1, V and -V", (_regimes.ordinary(dtype), indices, weights))]


def weighted_tokens(dtype: str) -> list[Inputs]:
    arrays = (_regimes.ordinary(dtype), INDICES, WEIGHTS, TOKEN_WEIGHTS)
    return [Inputs("weighted", tuple(array[None] for array in arrays))]


def head_tokens(dtype: str) -> list[Inputs]:
    del dtype
    theta = packed(*drawn(TOKENS, 61), np.array([1.0, 0.5, 0.0, 2.0, 0.25]))
    rows = [0, 1, 2, 3, 0]
    return [Inputs("5 tokens in chunks of 2", (theta[None], INDICES[rows][None], WEIGHTS[rows][None]))]


def head_weights_first(dtype: str) -> list[Inputs]:
    return [Inputs(each.regime, (each.arrays[2], *each.arrays[:2])) for each in head_tokens(dtype)]
