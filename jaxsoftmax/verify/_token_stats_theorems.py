"""Statistics of tokens, over logits and in the fused head: M28, and what M8, M18-M20, M32 and M33 say of them."""

import jax.numpy as jnp

from jaxsoftmax.verify import _regimes
from jaxsoftmax.verify._cross_entropy_oracles import tails, unshifted, with_labels
from jaxsoftmax.verify._log_sum_exp_theorems import lse
from jaxsoftmax.verify._softmax_oracles import naive_lse, probs
from jaxsoftmax.verify._theorem import Claim, Theorem, derivative, hessian, value
from jaxsoftmax.verify._token_stats_oracles import (
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
        value(STATS, "entropy", entropy, every_row, 4, call=statistic("entropy")),
        derivative(
            STATS, "gradient", entropy_gradient, every_row, 6, call=statistic("entropy"), textbook=naive_entropy
        ),
        hessian(STATS, "Hessian", entropy_hessian, moderate, 8, call=statistic("entropy"), textbook=naive_entropy),
        value(
            STATS, "entropy of low precision", entropy, low, 4, call=unrounded("entropy"), dtypes=_regimes.LOW_PRECISION
        ),
        derivative(
            STATS,
            "gradient in low precision",
            entropy_gradient,
            low,
            1,
            call=unrounded("entropy"),
            dtypes=_regimes.LOW_PRECISION,
        ),
        value(
            STATS,
            "statistics where a label is ignored",
            ignoring_exactly,
            ignored_labels,
            6,
            call=ignoring,
            dtypes=("float32",),
        ),
        value(
            LINEAR_STATS,
            "statistics",
            head_statistics_exactly,
            head_tokens,
            6,
            call=head_statistics,
            dtypes=("float32",),
            rowwise=False,
        ),
        derivative(
            LINEAR_STATS,
            "gradients of a sum",
            weighted_sum_exactly(TOKENS, SHARES),
            head_tokens,
            6,
            call=weighted_sum(TOKENS, SHARES),
            rowwise=False,
            textbook=textbook_weighted_sum,
        ),
        derivative(
            LINEAR_STATS,
            "gradients of a sum of entropies",
            weighted_sum_exactly(CONFIDENT, (0.0, 1.0, 0.0)),
            confident_tokens,
            6,
            call=weighted_sum(CONFIDENT, (0.0, 1.0, 0.0)),
            dtypes=("float32",),
            rowwise=False,
        ),
    ),
)

TEMPERATURE_CLAIMS = (
    value(STATS, "statistics", values_at_temperature, at_temperatures, 6, call=at_temperature, rowwise=False),
    derivative(
        STATS,
        "gradients of the statistics",
        gradients_at_temperature,
        at_temperatures,
        6,
        call=at_temperature,
        rowwise=False,
        textbook=textbook_at_temperature,
    ),
)

PREDICTION_CLAIMS = (
    value(STATS, "prediction", prediction, with_long_rows, 0, call=statistic("prediction"), dtypes=("float32",)),
    value(
        LINEAR_STATS,
        "prediction",
        head_predictions_exactly,
        head_tokens,
        0,
        call=head_predictions,
        dtypes=("float32",),
        rowwise=False,
    ),
)


def _tails(dtype):
    return with_labels(tails(dtype), _regimes.top_labels)


# Statistics that are functions of other theorems.
STATS_CLAIMS: dict[str, tuple[Claim, ...]] = {
    "M8": (
        derivative(
            STATS,
            "gradient of the log-sum-exp",
            lambda x, y: probs(x),
            every_row,
            4,
            call=statistic("log_sum_exp"),
            textbook=lambda x, y: naive_lse(x),
        ),
    ),
    "M18": (value(STATS, "log-sum-exp", lambda x, y: lse(x), every_row, 4, call=statistic("log_sum_exp")),),
    "M19": (
        value(
            STATS,
            "log-probability",
            log_prob,
            lambda d: with_labels(unshifted(_regimes.well_conditioned(d))) + _tails(d),
            4,
            call=statistic("log_prob"),
        ),
    ),
    "M20": (
        derivative(
            STATS,
            "gradient of the log-probability",
            log_prob_gradient,
            _tails,
            4,
            call=statistic("log_prob"),
            textbook=lambda x, y: jnp.take(x, y) - naive_lse(x),
        ),
    ),
}
