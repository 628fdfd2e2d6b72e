"""Statistics of tokens, over logits and in the fused head: M28, and what M8 and M18-M20 say of them."""

from typing import Any

import jax
import jax.numpy as jnp
import mpmath
import numpy as np

from jaxsoftmax.verify import _regimes
from jaxsoftmax.verify._confident_label_theorems import label_gradient
from jaxsoftmax.verify._cross_entropy_theorems import nll
from jaxsoftmax.verify._exact_head import Setting, through_product
from jaxsoftmax.verify._exact_stats import (
    SHARES,
    row_entropy,
    row_entropy_gradient,
    row_entropy_hessian,
    three_gradients,
    three_values,
)
from jaxsoftmax.verify._head_inputs import confident, drawn, packed
from jaxsoftmax.verify._log_sum_exp_theorems import lse
from jaxsoftmax.verify._oracle import ExactRow, Expected, end_to_end, exact, itself
from jaxsoftmax.verify._regimes import labelled, top_labelled
from jaxsoftmax.verify._softmax_theorems import probs
from jaxsoftmax.verify._textbook import naive_entropy, naive_integer, naive_lse
from jaxsoftmax.verify._theorem import FLOAT32, Claim, Inputs, Theorem, derivative, hessian, value

STATS, LINEAR_STATS = "token_stats", "linear_token_stats"
IGNORED = 0  # a class: padding's, which a model may well predict
TOKENS = Setting(7, 3, _regimes.VOCAB, chunk=3, weighted=True)
CONFIDENT = Setting(2, 2, _regimes.VOCAB, chunk=1, weighted=True)


def statistic(name: str) -> Any:
    """One of the statistics of rows, a floating array."""
    return lambda f, x, y: jnp.asarray(getattr(f(x, y), name), x.dtype)


def unrounded(name: str) -> Any:
    """One of the statistics of rows, in the dtype that it comes in."""
    return lambda f, x, y: getattr(f(x, y), name)


def entropy(x, y):
    """The entropy, to its own ulp: no term of it is negative (M28)."""
    return itself(row_entropy(ExactRow(exact(x))))


def entropy_gradient(x, y):
    """dH/dz, to the ulp of its two terms, of which one is 0 at a dominant entry (M28)."""
    return row_entropy_gradient(ExactRow(exact(x)))


def entropy_hessian(x, y):
    """The Hessian of the entropy, to the ulp of its terms (M28)."""
    return row_entropy_hessian(ExactRow(exact(x)))


def log_prob(x, y):
    """log s_y (M19)."""
    return -nll(x, y)


def log_prob_gradient(x, y):
    """e_y - s, each entry to its own ulp (M20)."""
    return -label_gradient(x, y)


def all_three(f: Any, x: Any, y: Any, **keywords: Any) -> Any:
    """Log-probability, entropy and log-sum-exp."""
    stats = f(x, y, **keywords)
    return jnp.stack([stats.log_prob, stats.entropy, stats.log_sum_exp], -1)


def ignoring(f, x, y):
    """The statistics, where label 0 is ignored."""
    return all_three(f, x, y, ignore_index=IGNORED)


def ignoring_exactly(x, y):
    """An ignored token has log-probability and entropy 0; one whose label is no class has log-probability NaN."""
    row = ExactRow(exact(x))
    if y == IGNORED:
        return itself([mpmath.mpf(0), mpmath.mpf(0), row.lse])
    if 0 <= y < len(x):
        return three_values(row, int(y))
    return itself([mpmath.mpf("nan"), row_entropy(row), row.lse])


def of_head(setting: Setting, f: Any, theta: Any, y: Any) -> Any:
    """The head's statistics."""
    parts = setting.parts(theta)
    return f(parts.hidden, parts.kernel, y, bias=parts.bias, chunk_size=setting.chunk)


def head_statistics(f, theta, y):
    """Log-probabilities, entropies and log-sum-exps of a head's tokens."""
    stats = of_head(TOKENS, f, theta, y)
    return jnp.concatenate([stats.log_prob, stats.entropy, stats.log_sum_exp])


def head_statistics_exactly(theta, y):
    """The statistics of hidden @ kernel + bias (M28)."""
    rows = zip(TOKENS.parts(theta).logits, y, strict=True)
    return Expected.stack([three_values(ExactRow(exact(z)), int(label)) for z, label in rows]).T.ravel()


def weighted_sum(setting: Setting, shares: tuple[float, ...]) -> Any:
    """sum_t u_t <shares, statistics of t>, whose gradient in u_t is that token's part."""

    def call(f, theta, y):
        stats = of_head(setting, f, theta, y)
        of_tokens = sum(share * part for share, part in zip(shares, stats, strict=False) if share)
        return jnp.dot(setting.parts(theta).token_weights, of_tokens)

    return call


def weighted_sum_exactly(setting: Setting, shares: tuple[float, ...]) -> Any:
    """The oracle of the gradient of `weighted_sum` in hidden, kernel, bias and u (M16, M28)."""

    def gradient(theta, y):
        parts = setting.parts(theta)
        rows = [ExactRow(exact(z)) for z in parts.logits]
        values = Expected.stack([three_values(row, int(label)) for row, label in zip(rows, y, strict=True)])
        gradients = [exact(shares) @ three_gradients(row, int(label)) for row, label in zip(rows, y, strict=True)]
        g = exact(parts.token_weights)[:, None] * Expected.stack(gradients)
        by_parts = through_product(parts.hidden, parts.kernel, g)
        return end_to_end(by_parts | {"gradient in token_weights": values @ exact(shares)})

    return gradient


def textbook_weighted_sum(theta, y):
    """The formulas as printed, of all logits at once (M28)."""
    z, u = TOKENS.parts(theta).logits, TOKENS.parts(theta).token_weights
    lse = jax.vmap(naive_lse)(z)
    parts = jnp.stack([jnp.take_along_axis(z, y[:, None], -1)[:, 0] - lse, jax.vmap(naive_entropy)(z, y), lse])
    return jnp.dot(jnp.asarray(SHARES) @ parts, u)


def head_tokens(dtype: str) -> list[Inputs]:
    """Token weights; labels of most classes; two equal columns, ahead of the others for some tokens."""
    hidden, kernel, bias = drawn(TOKENS, 41)
    kernel[:, 5], bias[[2, 5]] = kernel[:, 2], 1.5
    theta = packed(hidden, kernel, bias, np.array([1.0, 0.5, 0.0, 2.0, 1.0, 3.0, 0.25]))
    return [Inputs("7 tokens in chunks of 3", (theta[None], np.array([[0, 6, 2, 5, 4, 3, 1]], np.int32)))]


def ignored_labels(dtype: str) -> list[Inputs]:
    x = _regimes.ordinary(dtype)
    return [Inputs("labels ignored, and labels -1 and V", (x, np.array([IGNORED, 1, -1, _regimes.VOCAB], np.int32)))]


def any_label(dtype: str) -> list[Inputs]:
    """Rows whose label isn't ahead, but for confident ones, of which it is."""
    return labelled(_regimes.unshifted)(dtype) + _tails(dtype)


_tails = top_labelled(_regimes.tails, _regimes.separators)
_every_row = top_labelled(_regimes.well_conditioned, _regimes.tails, _regimes.empty)
_moderate = top_labelled(_regimes.moderate)  # rows in which the entropy curves in every direction
_low_rows = top_labelled(_regimes.moderate, _regimes.tails)

ENTROPY = Theorem(
    "M28",
    "entropy",
    "H = log1p(r) + sum_j s_j (m - z_j), of which no term is negative; dH/dz_j = -s_j (log s_j + H), and 0 where "
    "s_j = 0, even at z_j = -inf",
    "exp to 1 ulp, sums to 2, log1p to 2, quotients to 1/2; in low precision half an ulp for the gradient",
    "L - sum s z, which cancels where a row is confident or shifted; 0 log 0; log s + H, which cancels at s = 1",
    (
        value(STATS, "entropy", entropy, _every_row, 4, call=statistic("entropy")),
        derivative(STATS, "gradient", entropy_gradient, _every_row, 6, call=statistic("entropy"),
                   textbook=naive_entropy),
        hessian(STATS, "Hessian", entropy_hessian, _moderate, 8, call=statistic("entropy"), textbook=naive_entropy),
        value(STATS, "entropy of low precision", entropy, _low_rows, 4, call=unrounded("entropy"),
              dtypes=_regimes.LOW_PRECISION),
        derivative(STATS, "gradient in low precision", entropy_gradient, _low_rows, 1, call=unrounded("entropy"),
                   dtypes=_regimes.LOW_PRECISION),
        value(STATS, "statistics where a label is ignored", ignoring_exactly, ignored_labels, 6, call=ignoring,
              dtypes=FLOAT32),
        value(LINEAR_STATS, "statistics", head_statistics_exactly, head_tokens, 6, call=head_statistics, dtypes=FLOAT32,
              rowwise=False),
        derivative(LINEAR_STATS, "gradients of a sum", weighted_sum_exactly(TOKENS, SHARES), head_tokens, 6,
                   call=weighted_sum(TOKENS, SHARES), rowwise=False, textbook=textbook_weighted_sum),
        derivative(LINEAR_STATS, "gradients of a sum of entropies", weighted_sum_exactly(CONFIDENT, (0.0, 1.0, 0.0)),
                   confident, 6, call=weighted_sum(CONFIDENT, (0.0, 1.0, 0.0)), dtypes=FLOAT32, rowwise=False),
    ),
)  # fmt: skip

# Statistics that are functions of other theorems.
STATS_CLAIMS: dict[str, tuple[Claim, ...]] = {
    "M8": (
        derivative(STATS, "gradient of the log-sum-exp", probs, _every_row, 4, call=statistic("log_sum_exp"),
                   textbook=lambda x, y: naive_lse(x)),
    ),
    "M18": (value(STATS, "log-sum-exp", lse, _every_row, 4, call=statistic("log_sum_exp")),),
    "M19": (value(STATS, "log-probability", log_prob, any_label, 4, call=statistic("log_prob")),),
    "M20": (
        derivative(STATS, "gradient of the log-probability", log_prob_gradient, _tails, 4, call=statistic("log_prob"),
                   textbook=lambda x, y: -naive_integer(x, y)),
    ),
}  # fmt: skip
