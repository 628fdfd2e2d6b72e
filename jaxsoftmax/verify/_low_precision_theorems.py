"""What is promised of bfloat16 and float16 inputs: arithmetic in float32, rounded once."""

from functools import partial

import jax.numpy as jnp
import numpy as np

from jaxsoftmax.verify import _regimes
from jaxsoftmax.verify._confident_label_theorems import label_gradient, one_hot_gradient, one_hot_nll, top_one_hot
from jaxsoftmax.verify._cross_entropy_theorems import FLOAT, INTEGER, LOSS, nll, per_row
from jaxsoftmax.verify._log_softmax_theorems import log_jacobian, log_probs
from jaxsoftmax.verify._log_sum_exp_theorems import lse, over_last
from jaxsoftmax.verify._regimes import rows, top_labelled
from jaxsoftmax.verify._softmax_theorems import jacobian, probs
from jaxsoftmax.verify._theorem import Theorem, derivative, value


def in_float32(f, x, *labels):
    """The losses, widened as they come."""
    return f(x, *labels).astype(jnp.float32)


def of_one_hot(f, x, t):
    """The losses of labels in the logits' dtype, widened as they come."""
    return in_float32(f, x, t.astype(x.dtype))


def of_each_row(f, x, y):
    """The training loss of each row, widened as it comes."""
    return in_float32(partial(per_row, f), x, y)


def zeros(dtype: str) -> dict[str, np.ndarray]:
    """A row whose exponentials add up to far more than low precision counts to."""
    return {"zeros, V = 65536": np.zeros((1, 65536))}


_value = partial(value, dtypes=_regimes.LOW_PRECISION)
_derivative = partial(derivative, dtypes=_regimes.LOW_PRECISION)
_rows = rows(_regimes.well_conditioned, _regimes.tails)
_top_rows = top_labelled(_regimes.well_conditioned, _regimes.tails)
_one_hot_rows = top_one_hot(_regimes.well_conditioned, _regimes.tails)
_unmasked_rows = top_labelled(_regimes.moderate, _regimes.tails)

LOW_PRECISION_THEOREMS = (
    Theorem(
        "M4-low",
        "softmax in low precision",
        "probabilities and log-probabilities of bfloat16 and float16 logits are formed in float32 and rounded once",
        "half an ulp of the result's own dtype, and what is left of the float32 errors",
        "exponentials or sums in 8 or 11 bits",
        (
            _value("softmax", "value", probs, _rows, 1),
            _derivative("softmax", "Jacobian", jacobian, _rows, 1),
            _value("log_softmax", "value", log_probs, _rows, 1),
            _derivative("log_softmax", "Jacobian", log_jacobian, _rows, 1),
        ),
    ),
    Theorem(
        "M8-low",
        "log-sum-exp in low precision",
        "the gradient of bfloat16 and float16 logits is formed in float32 and rounded once",
        "half an ulp of the result's own dtype, and what is left of the float32 errors",
        "exponentials or sums in 8 or 11 bits: a bfloat16 sum sticks at 256",
        (
            _value("logsumexp", "value", lse, rows(_regimes.well_conditioned, _regimes.tails, zeros), 1,
                   call=over_last),
            _derivative("logsumexp", "gradient", probs, _rows, 1, call=over_last),
        ),
    ),
    Theorem(
        "M19-low",
        "loss in low precision",
        "losses of bfloat16 and float16 logits are float32; their gradients are formed in float32 and rounded once",
        "values as M19 in float32 ulps; gradients half an ulp of their own dtype",
        "a loss in 8 or 11 bits; p formed there, and 1 subtracted after (Liger#1329)",
        (
            _value(INTEGER, "value", nll, _top_rows, 4, call=in_float32),
            _derivative(INTEGER, "gradient", label_gradient, _top_rows, 1),
            _value(FLOAT, "value", one_hot_nll, _one_hot_rows, 4, call=of_one_hot),
            _derivative(FLOAT, "gradient", one_hot_gradient, _one_hot_rows, 1),
            _value(LOSS, "value", nll, _unmasked_rows, 4, call=of_each_row),
            _derivative(LOSS, "gradient", label_gradient, _unmasked_rows, 1, call=per_row),
        ),
    ),
)  # fmt: skip
