"""What a loss is made of, and what a row predicts: M33."""

from functools import partial
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxsoftmax.verify import _regimes, _token_stats_theorems
from jaxsoftmax.verify._cross_entropy_theorems import LOSS, nothing
from jaxsoftmax.verify._exact_head import HEAD, Setting
from jaxsoftmax.verify._head_inputs import drawn, packed
from jaxsoftmax.verify._keyword_cases import SENTINEL, Case
from jaxsoftmax.verify._keywords import ExactLoss, exact_loss
from jaxsoftmax.verify._oracle import Expected, exact, itself
from jaxsoftmax.verify._regimes import top_labelled
from jaxsoftmax.verify._theorem import FLOAT32, Claim, Inputs, Theorem
from jaxsoftmax.verify._token_stats_theorems import LINEAR_STATS, STATS, of_head, statistic

IGNORED = 0  # a class, which some tokens predict
GIVEN = frozenset({"label_smoothing", "z_loss", "class_weights", "token_weights", "has_aux", SENTINEL(IGNORED)})
OPTIONS = Case(given=GIVEN).options
TOKENS = Setting(6, 3, _regimes.VOCAB, chunk=4)
LABELS = np.array([[0, 1, 2, 6, 2, 6], [0, 0, 0, 0, 0, 0], [2, 1, 4, 6, 0, 0]], np.int32)
TOKEN_WEIGHTS = np.array([1.0, 0.5, 2.0, 0.25, 1.0, 0.0])


def of_loss(f: Any, x: Any, y: Any, u: Any, reduction: str) -> Any:
    """A loss and its parts."""
    return OPTIONS.call(f, x, y, token_weights=u, ignore_index=IGNORED, reduction=reduction, has_aux=True)


def parts(reduction: str) -> Any:
    """NLL, z-loss, weight and right predictions, stacked on the last axis."""
    return lambda f, x, y, u: jnp.stack(list(of_loss(f, x, y, u, reduction)[1]), -1)


def head_parts(f, theta, y, u):
    """The parts of the fused head's mean."""
    given = TOKENS.parts(theta)

    def of_hidden(x, y, **keywords):
        return f(x, given.kernel, y, bias=given.bias, chunk_size=TOKENS.chunk, **keywords)

    return parts("mean")(of_hidden, given.hidden, y, u)


def exactly(reduction: str, x: np.ndarray, y: np.ndarray, u: np.ndarray) -> ExactLoss:
    """The loss, its parts and its gradient, which the parts don't change, in mpmath (M24, M25, M27, M33)."""
    return exact_loss(Case(reduction=reduction, given=GIVEN), x, y, u)


def head_parts_exactly(theta, y, u):
    """The parts for logits hidden @ kernel + bias."""
    return exactly("mean", TOKENS.parts(theta).logits, y, u).parts


def prediction(x, *_):
    """The first class of the maximum (M33)."""
    return itself(exact(float(np.argmax(x))))


def head_predictions(f, theta, y):
    """The predictions of a head's tokens, as floating numbers."""
    return jnp.asarray(of_head(_token_stats_theorems.TOKENS, f, theta, y).prediction, theta.dtype)


def head_predictions_exactly(theta, y):
    """The first class of the maximum of hidden @ kernel + bias (M33)."""
    return Expected.stack([prediction(z) for z in _token_stats_theorems.TOKENS.parts(theta).logits])


def tokens(dtype: str) -> list[Inputs]:
    """Tokens with two classes ahead, of which the label is the first or the second, and a data set all ignored."""
    x = _regimes.ordinary(dtype, rows=18, seed=17).reshape(3, 6, _regimes.VOCAB)
    x[:, 0, [0, 3]] = 3.5  # predicts the ignored class
    x[:, 2, [2, 5]] = 3.5
    x[:, 3, [4, 6]] = 3.5
    x[2, 4, [0, 1]] = 3.5
    weights = np.broadcast_to(TOKEN_WEIGHTS, (3, 6))
    return [Inputs("ties, weights, some or all ignored", (x, LABELS, weights))]


def head_tokens(dtype: str) -> list[Inputs]:
    """Two equal columns ahead of the others for some tokens, and the ignored class for others."""
    hidden, kernel, bias = drawn(TOKENS, 71)
    kernel[:, 5], bias[[0, 2, 5]] = kernel[:, 2], [2.0, 1.5, 1.5]
    theta = np.tile(packed(hidden, kernel, bias), (3, 1))
    labels = np.array([[0, 5, 2, 3, 0, 5], [0] * 6, [5, 2, 5, 0, 3, 2]], np.int32)
    return [Inputs("ties, weights, some or all ignored", (theta, labels, np.broadcast_to(TOKEN_WEIGHTS, (3, 6))))]


_with_long_rows = top_labelled(_regimes.well_conditioned, _regimes.empty, _regimes.long_rows)
_of_rows = partial(Claim, dtypes=FLOAT32)
_of_tokens = partial(_of_rows, rowwise=False)

LOSS_PARTS = Theorem(
    "M33",
    "parts of a loss",
    "sum u w_y nll_y, sum u zeta w_y L^2, sum u w_y and sum u [prediction = y] over the tokens not ignored, of which a "
    "mean divides the first two by the third; the prediction is the first class of the maximum",
    "sums of N terms; predictions exactly",
    "the likelihood with its smoothing; a mean over tokens; ignored tokens counted; the last class of the maximum",
    (
        _of_tokens(LOSS, "parts of the mean", 0, parts("mean"), lambda *row: exactly("mean", *row).parts, tokens, 6),
        _of_tokens(LOSS, "parts of each token", 0, parts("none"), lambda *row: exactly("none", *row).parts.T, tokens,
                   6),
        _of_tokens(LOSS, "gradient of the loss beside its parts", 1, lambda f, x, y, u: of_loss(f, x, y, u, "sum")[0],
                   lambda *row: exactly("sum", *row).by_logits, tokens, 6),
        _of_tokens(LOSS, "gradient of the parts", 1, lambda f, x, y, u: jnp.sum(parts("sum")(f, x, y, u)), nothing,
                   tokens, 0),
        _of_tokens(HEAD, "parts of the mean", 0, head_parts, head_parts_exactly, head_tokens, 6),
        _of_rows(STATS, "prediction", 0, statistic("prediction"), prediction, _with_long_rows, 0),
        _of_tokens(LINEAR_STATS, "prediction", 0, head_predictions, head_predictions_exactly,
                   _token_stats_theorems.head_tokens, 0),
    ),
)  # fmt: skip
