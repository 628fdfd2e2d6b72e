"""jaxsoftmax: the loss head of a JAX model, with its gradients analytic, exact at the tails, and certified."""

from jaxsoftmax import _startup as _startup  # first: the others import JAX, which takes seconds
from jaxsoftmax import analytic, forward_mode
from jaxsoftmax._cross_entropy import cross_entropy
from jaxsoftmax._distillation import distillation
from jaxsoftmax._drop_in_losses import softmax_cross_entropy, softmax_cross_entropy_with_integer_labels
from jaxsoftmax._head.linear_cross_entropy import linear_cross_entropy
from jaxsoftmax._head.linear_distillation import linear_distillation
from jaxsoftmax._head.linear_token_stats import linear_token_stats
from jaxsoftmax._head.sharded import sharded_linear_cross_entropy
from jaxsoftmax._logsumexp import logsumexp
from jaxsoftmax._loss_parts import LossParts
from jaxsoftmax._row_stats import TokenStats
from jaxsoftmax._softmax import log_softmax, softmax
from jaxsoftmax._sparse_labels import SparseLabels
from jaxsoftmax._token_stats import token_stats

__version__ = "0.2.0"
__all__ = [
    "LossParts",
    "SparseLabels",
    "TokenStats",
    "analytic",
    "cross_entropy",
    "distillation",
    "forward_mode",
    "linear_cross_entropy",
    "linear_distillation",
    "linear_token_stats",
    "log_softmax",
    "logsumexp",
    "sharded_linear_cross_entropy",
    "softmax",
    "softmax_cross_entropy",
    "softmax_cross_entropy_with_integer_labels",
    "token_stats",
]
