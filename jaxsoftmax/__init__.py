"""jaxsoftmax: the loss head of a JAX model, with its gradients analytic, exact at the tails, and certified."""

from jaxsoftmax import _startup as _startup  # first: the others import JAX, which takes seconds
from jaxsoftmax import analytic as analytic
from jaxsoftmax import forward_mode as forward_mode
from jaxsoftmax._cross_entropy import cross_entropy as cross_entropy
from jaxsoftmax._drop_in_losses import softmax_cross_entropy as softmax_cross_entropy
from jaxsoftmax._drop_in_losses import (
    softmax_cross_entropy_with_integer_labels as softmax_cross_entropy_with_integer_labels,
)
from jaxsoftmax._head.linear_cross_entropy import linear_cross_entropy as linear_cross_entropy
from jaxsoftmax._head.sharded import sharded_linear_cross_entropy as sharded_linear_cross_entropy
from jaxsoftmax._logsumexp import logsumexp as logsumexp
from jaxsoftmax._softmax import log_softmax as log_softmax
from jaxsoftmax._softmax import softmax as softmax

__version__ = "0.1.0"
__all__ = [
    "analytic",
    "cross_entropy",
    "forward_mode",
    "linear_cross_entropy",
    "log_softmax",
    "logsumexp",
    "sharded_linear_cross_entropy",
    "softmax",
    "softmax_cross_entropy",
    "softmax_cross_entropy_with_integer_labels",
]
