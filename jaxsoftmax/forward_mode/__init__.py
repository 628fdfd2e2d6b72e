"""The losses, statistics and log-sum-exp for pure forward mode: the same names, signatures and values.

JAX refuses `jax.jvp`, `jax.jacfwd` and `jax.linearize` through a function whose gradient is attached with
`jax.custom_vjp`, as the functions of `jaxsoftmax` are. These attach the same closed forms with `jax.custom_jvp`:
the tangent is <gradient, v>, linear in v, and JAX transposes it for reverse mode. Both modes work to any order; the
price is that the gradient [*batch, vocab] is saved for a later transpose, where `jaxsoftmax` saves row statistics (of
the `linear_...` functions nothing is saved: each chunk's logits are formed again), and that the derivative in a float
label at a logit of -inf, which is infinite, makes even a tangent of 0 in that label a NaN.

Some libraries ask for forward mode though their user calls `jax.grad` at most: optimistix where it differentiates a
root, lineax in a `JacobianLinearOperator`, NumPyro's NUTS with `forward_mode_differentiation=True`, least-squares
solvers of optimistix and jaxopt. Their losses belong here.

>>> import jax, jax.numpy as jnp
>>> logits, v = jnp.array([0.0, -20.0]), jnp.array([1.0, 0.0])
>>> loss, slope = jax.jvp(lambda x: softmax_cross_entropy_with_integer_labels(x, 0), (logits,), (v,))
>>> print(loss, slope)
2.0611537e-09 -2.0611537e-09
"""

from jaxsoftmax._forward_logsumexp import logsumexp as logsumexp
from jaxsoftmax._softmax import log_softmax as log_softmax
from jaxsoftmax._softmax import softmax as softmax
from jaxsoftmax.forward_mode._heads import linear_cross_entropy as linear_cross_entropy
from jaxsoftmax.forward_mode._heads import linear_distillation as linear_distillation
from jaxsoftmax.forward_mode._heads import linear_token_stats as linear_token_stats
from jaxsoftmax.forward_mode._heads import sharded_linear_cross_entropy as sharded_linear_cross_entropy
from jaxsoftmax.forward_mode._losses import cross_entropy as cross_entropy
from jaxsoftmax.forward_mode._losses import distillation as distillation
from jaxsoftmax.forward_mode._losses import softmax_cross_entropy as softmax_cross_entropy
from jaxsoftmax.forward_mode._losses import (
    softmax_cross_entropy_with_integer_labels as softmax_cross_entropy_with_integer_labels,
)
from jaxsoftmax.forward_mode._losses import token_stats as token_stats

__all__ = [
    "cross_entropy",
    "distillation",
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
