"""Labels of a few weighted classes, in the loss over logits and in the fused head: M31."""

from functools import partial

from jaxsoftmax.verify import _regimes
from jaxsoftmax.verify._head_oracles import HEAD
from jaxsoftmax.verify._sparse_label_oracles import (
    FLOAT_GRADIENT,
    FLOAT_LOSS,
    by_weights,
    everything,
    exact_mean,
    gradient,
    head_gradient,
    head_naive,
    head_tokens,
    head_weights_first,
    head_weights_gradient,
    hessian,
    in_head,
    in_head_by_weights,
    labelled,
    loss,
    low,
    mean,
    moderate,
    naive,
    or_nan,
    out_of_range,
    per_token,
    weighted_tokens,
    weights_first,
    weights_gradient,
)
from jaxsoftmax.verify._theorem import Claim, Theorem
from jaxsoftmax.verify._training_loss_oracles import LOSS

_Claim = partial(Claim, requires="SparseLabels")
_in_float32 = partial(_Claim, dtypes=("float32",))

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
        _Claim(
            LOSS,
            "gradient in the weights",
            1,
            by_weights,
            weights_gradient,
            weights_first,
            4,
            textbook=lambda w, x, c: naive(x, c, w),
        ),
        _in_float32(LOSS, "Hessian", 2, per_token, hessian, moderate, 8),
        _Claim(LOSS, "gradient in low precision", 1, per_token, gradient, low, 1, dtypes=_regimes.LOW_PRECISION),
        _in_float32(LOSS, "value, labels out of range", 0, per_token, or_nan(loss), out_of_range, 4),
        _in_float32(LOSS, "gradient, labels out of range", 1, per_token, or_nan(gradient), out_of_range, 6),
        _in_float32(LOSS, "value, everything on", 0, everything, FLOAT_LOSS, moderate, 6),
        _in_float32(LOSS, "gradient, everything on", 1, everything, FLOAT_GRADIENT, moderate, 6),
        _in_float32(LOSS, "mean", 0, mean, exact_mean, weighted_tokens, 6, rowwise=False),
        _Claim(
            HEAD,
            "gradients, and losses as those in the token weights",
            1,
            in_head,
            head_gradient,
            head_tokens,
            6,
            rowwise=False,
            textbook=head_naive,
        ),
        _in_float32(
            HEAD,
            "gradient in the labels' weights",
            1,
            in_head_by_weights,
            head_weights_gradient,
            head_weights_first,
            4,
            rowwise=False,
        ),
    ),
)
