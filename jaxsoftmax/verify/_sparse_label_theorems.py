"""Labels of a few weighted classes, in the loss over logits and in the fused head: M31."""

from functools import partial
from typing import Any

import jax.numpy as jnp
import mpmath
import numpy as np

from jaxsoftmax import SparseLabels
from jaxsoftmax.verify import _regimes
from jaxsoftmax.verify._cross_entropy_theorems import LOSS
from jaxsoftmax.verify._exact_head import HEAD, Setting, through_product
from jaxsoftmax.verify._head_inputs import drawn, packed
from jaxsoftmax.verify._oracle import ExactRow, Expected, end_to_end, exact, itself
from jaxsoftmax.verify._textbook import naive_lse
from jaxsoftmax.verify._theorem import FLOAT32, Claim, Inputs, Theorem
from jaxsoftmax.verify._token_loss import TOGETHER, token_gradient, token_loss

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


def loss(x, indices, weights):
    """sum_i w_i ((m - z_{c_i}) + log1p(r)), where a weight 0 adds nothing (M31)."""
    held = weights != 0
    return exact(weights[held]) @ itself(ExactRow(exact(x)).nll[indices[held]])


def gradient(x, indices, weights):
    """sum_i w_i (s - e_{c_i}), to the ulp of each term, which keeps the tails (M20, M31)."""
    row = ExactRow(exact(x))
    return exact(weights) @ itself(np.stack([row.label_gradient(int(c)) for c in indices]))


def weights_gradient(weights, x, indices):
    """(m - z_{c_i}) + log1p(r), of every class that is named (M12, M31)."""
    return itself(ExactRow(exact(x)).nll[indices])


def hessian(x, indices, weights):
    """sum_i w_i (diag(s) - s s^T) (M15, M31)."""
    return itself(exact(weights)).sum() * ExactRow(exact(x)).jacobian


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


def with_every_keyword(f, x, indices, weights):
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
    return exact(u) @ losses / sum(exact(u))


def in_head(f, theta, indices, weights):
    """The weighted sum of the fused head's losses."""
    return TOKENS.loss(f, theta, SparseLabels(indices, weights))


def in_head_by_weights(f, weights, theta, indices):
    """The weighted sum of the fused head's losses, as a function of its labels' weights."""
    return in_head(f, theta, indices, weights)


def _of_tokens(theta: np.ndarray, *labels: np.ndarray) -> Any:
    return zip(TOKENS.parts(theta).logits, *labels, strict=True)


def head_gradient(theta, indices, weights):
    """Gradients of the fused head's loss; in a token's weight it is that token's loss (M16, M31)."""
    hidden, kernel, _, u = TOKENS.parts(theta)
    losses = Expected.stack([loss(*row) for row in _of_tokens(theta, indices, weights)])
    g = Expected.stack([gradient(*row) for row in _of_tokens(theta, indices, weights)])
    gradients = through_product(hidden, kernel, exact(u)[:, None] * g)
    return end_to_end(gradients | {"gradient in token_weights": losses})


def head_weights_gradient(weights, theta, indices):
    """u_t times the NLL of each named class (M12, M31)."""
    u = exact(TOKENS.parts(theta).token_weights)[:, None]
    return itself(u * np.stack([ExactRow(exact(z)).nll[c] for z, c in _of_tokens(theta, indices)]))


def head_naive(theta, indices, weights):
    """The formula as printed, of all logits at once (M31)."""
    z, u = TOKENS.parts(theta).logits, TOKENS.parts(theta).token_weights
    lse = jnp.log(jnp.sum(jnp.exp(z), -1, keepdims=True))
    return jnp.dot(u, jnp.sum(weights * (lse - jnp.take_along_axis(z, indices, -1)), -1))


def labelled(dtype: str) -> list[Inputs]:
    """Classes named twice; weights of both signs; a class at -inf, of weight 0; rows sure of a class named twice."""
    x, masked = _regimes.ordinary(dtype), _regimes.masked(dtype)
    at_mask = np.zeros_like(INDICES)
    at_mask[:, 1] = [2, 1, 5, 1]
    return [
        *moderate(dtype),
        Inputs("signed weights", (x, INDICES, WEIGHTS * np.array([1, -1, 1]))),
        Inputs("weight 0 at -inf", (masked, at_mask, WEIGHTS * np.array([1, 0, 1]))),
        *confident(dtype),
    ]


def confident(dtype: str) -> list[Inputs]:
    """The class ahead, named once and twice, beside others."""
    ((name, x),) = _regimes.tails(dtype).items()
    top = _regimes.top_labels(x)
    twice = np.stack([top, top, top], 1)
    beside = np.stack([top, (top + 1) % _regimes.VOCAB, top], 1)
    weights = np.tile([0.5, 0.25, 0.125], (len(x), 1))
    return [Inputs(f"{name}, named twice", (x, twice, weights)), Inputs(f"{name}, beside others", (x, beside, weights))]


moderate = _regimes.rows(_regimes.moderate, beside=[lambda x: INDICES, lambda x: WEIGHTS])


def low(dtype: str) -> list[Inputs]:
    return moderate(dtype) + confident(dtype)


def out_of_range(dtype: str) -> list[Inputs]:
    indices = np.array([[0, -1, 2], [1, 2, _regimes.VOCAB], [3, 3, 1], [-_regimes.VOCAB, 0, 0]], np.int32)
    weights = np.array([[1.0, 0.5, 0.25], [1.0, 0.5, 0.0], [1.0, 0.5, 0.25], [0.0, 1.0, 0.5]])
    return [Inputs("labels -1, V and -V", (_regimes.ordinary(dtype), indices, weights))]


def weighted_tokens(dtype: str) -> list[Inputs]:
    arrays = (_regimes.ordinary(dtype), INDICES, WEIGHTS, TOKEN_WEIGHTS)
    return [Inputs("weighted", tuple(array[None] for array in arrays))]


def head_tokens(dtype: str) -> list[Inputs]:
    theta = packed(*drawn(TOKENS, 61), np.array([1.0, 0.5, 0.0, 2.0, 0.25]))
    rows = [0, 1, 2, 3, 0]
    return [Inputs("5 tokens in chunks of 2", (theta[None], INDICES[rows][None], WEIGHTS[rows][None]))]


_weights_first, _head_weights_first = (_regimes.reordered(inputs, 2, 0, 1) for inputs in (low, head_tokens))
_Claim = partial(Claim, requires="SparseLabels")
_in_float32 = partial(_Claim, dtypes=FLOAT32)

SPARSE_LABELS = Theorem(
    "M31",
    "sparse labels",
    "with labels t = sum_i w_i e_{c_i} the loss is sum_i w_i ((m - z_{c_i}) + log1p(r)), its gradient s sum_i w_i - t, "
    "and in w_i that term; a class named twice counts twice, and one out of range makes its token NaN",
    "s and each likelihood to 4 ulps, sums of few terms; in low precision half an ulp for the gradient",
    "a class named twice counted once; weights taken to sum to 1; s sum w - t, which cancels at a class that is ahead; "
    "0 inf of a weight 0 at -inf; -1 wrapped to the last class",
    (
        _Claim(LOSS, "value", 0, per_token, loss, labelled, 4),
        _Claim(LOSS, "gradient", 1, per_token, gradient, labelled, 6, textbook=naive),
        _Claim(LOSS, "gradient in the weights", 1, by_weights, weights_gradient, _weights_first, 4,
               textbook=lambda w, x, c: naive(x, c, w)),
        _in_float32(LOSS, "Hessian", 2, per_token, hessian, moderate, 8),
        _Claim(LOSS, "gradient in low precision", 1, per_token, gradient, low, 1, dtypes=_regimes.LOW_PRECISION),
        _in_float32(LOSS, "value, labels out of range", 0, per_token, or_nan(loss), out_of_range, 4),
        _in_float32(LOSS, "gradient, labels out of range", 1, per_token, or_nan(gradient), out_of_range, 6),
        _in_float32(LOSS, "value, everything on", 0, with_every_keyword, FLOAT_LOSS, moderate, 6),
        _in_float32(LOSS, "gradient, everything on", 1, with_every_keyword, FLOAT_GRADIENT, moderate, 6),
        _in_float32(LOSS, "mean", 0, mean, exact_mean, weighted_tokens, 6, rowwise=False),
        _Claim(HEAD, "gradients, and losses as those in the token weights", 1, in_head, head_gradient, head_tokens, 6,
               rowwise=False, textbook=head_naive),
        _in_float32(HEAD, "gradient in the labels' weights", 1, in_head_by_weights, head_weights_gradient,
                    _head_weights_first, 4, rowwise=False),
    ),
)  # fmt: skip
