"""Statistics of tokens, over logits and in the fused head: M28, and what M8, M18-M20, M32 and M33 say of them."""

import jax.numpy as jnp

from jaxsoftmax.verify import _regimes
from jaxsoftmax.verify._cross_entropy_forms import tails, unshifted, with_labels
from jaxsoftmax.verify._log_sum_exp_theorems import lse
from jaxsoftmax.verify._softmax_forms import naive_lse, probs
from jaxsoftmax.verify._theorem import Claim, Theorem
from jaxsoftmax.verify._token_stats_forms import (
    CONFIDENT,
    LINEAR_STATS,
    SHARES,
    STATS,
    TOKENS,
    at_temperature,
    at_temperatures,
    confident_tokens,
    entropy,
    entropy_gradient,
    entropy_hessian,
    every_row,
    gradients_at_temperature,
    head_predictions,
    head_predictions_exactly,
    head_statistics,
    head_statistics_exactly,
    head_tokens,
    ignored_labels,
    ignoring,
    ignoring_exactly,
    log_prob,
    log_prob_gradient,
    low,
    moderate,
    naive_entropy,
    prediction,
    statistic,
    textbook_at_temperature,
    textbook_weighted_sum,
    unrounded,
    values_at_temperature,
    weighted_sum,
    weighted_sum_exactly,
    with_long_rows,
)

ENTROPY = Theorem(
    "M28",
    "entropy",
    "H = log1p(r) + sum_j s_j (m - z_j), of which no term is negative; dH/dz_j = -s_j (log s_j + H), and 0 where "
    "s_j = 0, even at z_j = -inf",
    "exp to 1 ulp, sums to 2, log1p to 2, quotients to 1/2; in low precision half an ulp for the gradient",
    "L - sum s z, which cancels where a row is confident or shifted; 0 log 0; log s + H, which cancels at s = 1",
    (
        Claim(STATS, "entropy", 0, statistic("entropy"), entropy, every_row, 4),
        Claim(STATS, "gradient", 1, statistic("entropy"), entropy_gradient, every_row, 6, textbook=naive_entropy),
        Claim(STATS, "Hessian", 2, statistic("entropy"), entropy_hessian, moderate, 8, textbook=naive_entropy),
        Claim(
            STATS, "entropy of low precision", 0, unrounded("entropy"), entropy, low, 4, dtypes=_regimes.LOW_PRECISION
        ),
        Claim(
            STATS,
            "gradient in low precision",
            1,
            unrounded("entropy"),
            entropy_gradient,
            low,
            1,
            dtypes=_regimes.LOW_PRECISION,
        ),
        Claim(
            STATS,
            "statistics where a label is ignored",
            0,
            ignoring,
            ignoring_exactly,
            ignored_labels,
            6,
            dtypes=("float32",),
        ),
        Claim(
            LINEAR_STATS,
            "statistics",
            0,
            head_statistics,
            head_statistics_exactly,
            head_tokens,
            6,
            dtypes=("float32",),
            rowwise=False,
        ),
        Claim(
            LINEAR_STATS,
            "gradients of a sum",
            1,
            weighted_sum(TOKENS, SHARES),
            weighted_sum_exactly(TOKENS, SHARES),
            head_tokens,
            6,
            rowwise=False,
            textbook=textbook_weighted_sum,
        ),
        Claim(
            LINEAR_STATS,
            "gradients of a sum of entropies",
            1,
            weighted_sum(CONFIDENT, (0.0, 1.0, 0.0)),
            weighted_sum_exactly(CONFIDENT, (0.0, 1.0, 0.0)),
            confident_tokens,
            6,
            dtypes=("float32",),
            rowwise=False,
        ),
    ),
)

TEMPERATURE_CLAIMS = (
    Claim(STATS, "statistics", 0, at_temperature, values_at_temperature, at_temperatures, 6, rowwise=False),
    Claim(
        STATS,
        "gradients of the statistics",
        1,
        at_temperature,
        gradients_at_temperature,
        at_temperatures,
        6,
        rowwise=False,
        textbook=textbook_at_temperature,
    ),
)

PREDICTION_CLAIMS = (
    Claim(STATS, "prediction", 0, statistic("prediction"), prediction, with_long_rows, 0, dtypes=("float32",)),
    Claim(
        LINEAR_STATS,
        "prediction",
        0,
        head_predictions,
        head_predictions_exactly,
        head_tokens,
        0,
        dtypes=("float32",),
        rowwise=False,
    ),
)


def _tails(dtype):
    return with_labels(tails(dtype), _regimes.top_labels)


# Statistics that are functions of other theorems.
STATS_CLAIMS: dict[str, tuple[Claim, ...]] = {
    "M8": (
        Claim(
            STATS,
            "gradient of the log-sum-exp",
            1,
            statistic("log_sum_exp"),
            lambda x, y: probs(x),
            every_row,
            4,
            textbook=lambda x, y: naive_lse(x),
        ),
    ),
    "M18": (Claim(STATS, "log-sum-exp", 0, statistic("log_sum_exp"), lambda x, y: lse(x), every_row, 4),),
    "M19": (
        Claim(
            STATS,
            "log-probability",
            0,
            statistic("log_prob"),
            log_prob,
            lambda d: with_labels(unshifted(_regimes.well_conditioned(d))) + _tails(d),
            4,
        ),
    ),
    "M20": (
        Claim(
            STATS,
            "gradient of the log-probability",
            1,
            statistic("log_prob"),
            log_prob_gradient,
            _tails,
            4,
            textbook=lambda x, y: jnp.take(x, y) - naive_lse(x),
        ),
    ),
}
