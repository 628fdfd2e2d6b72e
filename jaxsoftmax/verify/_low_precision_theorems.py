"""What is promised of bfloat16 and float16 inputs: arithmetic in float32, rounded once."""

import jax.numpy as jnp
import numpy as np

from jaxsoftmax.verify import _regimes
from jaxsoftmax.verify._cross_entropy_oracles import (
    FLOAT,
    INTEGER,
    label_gradient,
    nll,
    one_hot_gradient,
    one_hot_nll,
    per_row,
    with_labels,
    with_one_hot,
)
from jaxsoftmax.verify._log_sum_exp_theorems import lse, over_last
from jaxsoftmax.verify._softmax_oracles import jacobian, log_jacobian, log_probs, plain, probs, small
from jaxsoftmax.verify._theorem import Inputs, Theorem, derivative, value
from jaxsoftmax.verify._training_loss_oracles import LOSS


def low_rows(dtype: str) -> list[Inputs]:
    regimes = {"ordinary": _regimes.ordinary(dtype), "ties": _regimes.ties(dtype)} | _regimes.tails(dtype)
    return with_labels(regimes, _regimes.top_labels)


LOW_PRECISION_THEOREMS = (
    Theorem(
        "M4-low",
        "softmax in low precision",
        "probabilities and log-probabilities of bfloat16 and float16 logits are formed in float32 and rounded once",
        "half an ulp of the result's own dtype, and what is left of the float32 errors",
        "exponentials or sums in 8 or 11 bits",
        (
            value("softmax", "value", probs, lambda d: plain(small(d)), 1, dtypes=_regimes.LOW_PRECISION),
            derivative("softmax", "Jacobian", jacobian, lambda d: plain(small(d)), 1, dtypes=_regimes.LOW_PRECISION),
            value("log_softmax", "value", log_probs, lambda d: plain(small(d)), 1, dtypes=_regimes.LOW_PRECISION),
            derivative(
                "log_softmax", "Jacobian", log_jacobian, lambda d: plain(small(d)), 1, dtypes=_regimes.LOW_PRECISION
            ),
        ),
    ),
    Theorem(
        "M8-low",
        "log-sum-exp in low precision",
        "the gradient of bfloat16 and float16 logits is formed in float32 and rounded once",
        "half an ulp of the result's own dtype, and what is left of the float32 errors",
        "exponentials or sums in 8 or 11 bits: a bfloat16 sum sticks at 256",
        (
            value(
                "logsumexp",
                "value",
                lse,
                lambda d: plain(small(d) | {"zeros, V = 65536": np.zeros((1, 65536))}),
                1,
                call=over_last,
                dtypes=_regimes.LOW_PRECISION,
            ),
            derivative(
                "logsumexp",
                "gradient",
                probs,
                lambda d: plain(small(d)),
                1,
                call=over_last,
                dtypes=_regimes.LOW_PRECISION,
            ),
        ),
    ),
    Theorem(
        "M19-low",
        "loss in low precision",
        "losses of bfloat16 and float16 logits are float32; their gradients are formed in float32 and rounded once",
        "values as M19 in float32 ulps; gradients half an ulp of their own dtype",
        "a loss in 8 or 11 bits; p formed there, and 1 subtracted after (Liger#1329)",
        (
            value(
                INTEGER,
                "value",
                nll,
                lambda d: with_labels(_regimes.well_conditioned(d) | _regimes.tails(d), _regimes.top_labels),
                4,
                call=lambda f, x, y: f(x, y).astype(jnp.float32),
                dtypes=_regimes.LOW_PRECISION,
            ),
            derivative(
                INTEGER,
                "gradient",
                label_gradient,
                lambda d: with_labels(_regimes.well_conditioned(d) | _regimes.tails(d), _regimes.top_labels),
                1,
                dtypes=_regimes.LOW_PRECISION,
            ),
            value(
                FLOAT,
                "value",
                one_hot_nll,
                lambda d: with_one_hot(_regimes.well_conditioned(d) | _regimes.tails(d), _regimes.top_labels),
                4,
                call=lambda f, x, t: f(x, t.astype(x.dtype)).astype(jnp.float32),
                dtypes=_regimes.LOW_PRECISION,
            ),
            derivative(
                FLOAT,
                "gradient",
                one_hot_gradient,
                lambda d: with_one_hot(_regimes.well_conditioned(d) | _regimes.tails(d), _regimes.top_labels),
                1,
                dtypes=_regimes.LOW_PRECISION,
            ),
            value(
                LOSS,
                "value",
                nll,
                low_rows,
                4,
                call=lambda f, x, y: per_row(f, x, y).astype(jnp.float32),
                dtypes=_regimes.LOW_PRECISION,
            ),
            derivative(LOSS, "gradient", label_gradient, low_rows, 1, call=per_row, dtypes=_regimes.LOW_PRECISION),
        ),
    ),
)
