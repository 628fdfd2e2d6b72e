"""Closed forms of the derivatives: the formulas on paper, as plain functions over the last axis.

Nothing here carries a custom derivative rule, and nothing differentiates: each function evaluates one theorem from the
public forward values. That makes them the reference against which the rules of the losses are judged.

Dense forms map `[*batch, vocab]` to `[*batch, vocab, vocab]`; products with a vector (`_jvp`, `_vjp`, `_hvp`) need
O(vocab) memory a row. Arithmetic is at least float32; a gradient in targets has the dtype of the logits, any other
derivative that of the argument in which it is taken.

`Source:` numbers such as (M5) are those of the theorems that `jaxsoftmax verify` states and judges.
"""

from jaxsoftmax.analytic._cross_entropy import (
    cross_entropy_gradient,
    cross_entropy_hessian,
    cross_entropy_hvp,
    cross_entropy_label_gradient,
)
from jaxsoftmax.analytic._linear_classifier import LinearCrossEntropyGradients, linear_cross_entropy_gradients
from jaxsoftmax.analytic._log_softmax import log_softmax_jacobian, log_softmax_jvp, log_softmax_vjp
from jaxsoftmax.analytic._logsumexp import logsumexp_gradient, logsumexp_hessian, logsumexp_hvp
from jaxsoftmax.analytic._softmax import softmax_jacobian, softmax_jvp, softmax_vjp

__all__ = [
    "LinearCrossEntropyGradients",
    "cross_entropy_gradient",
    "cross_entropy_hessian",
    "cross_entropy_hvp",
    "cross_entropy_label_gradient",
    "linear_cross_entropy_gradients",
    "log_softmax_jacobian",
    "log_softmax_jvp",
    "log_softmax_vjp",
    "logsumexp_gradient",
    "logsumexp_hessian",
    "logsumexp_hvp",
    "softmax_jacobian",
    "softmax_jvp",
    "softmax_vjp",
]
