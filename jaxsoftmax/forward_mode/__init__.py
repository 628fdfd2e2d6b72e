"""The functions of `jaxsoftmax` for pure forward mode: the same names, signatures and values.

JAX refuses `jax.jvp`, `jax.jacfwd` and `jax.linearize` through `jax.custom_vjp`, which the losses of `jaxsoftmax` use.
Here the same closed forms are attached with `jax.custom_jvp`, as `softmax` and `log_softmax` have them in both: the
tangent is <gradient, v>, linear in v, and JAX transposes it for reverse mode. Both modes work to any order.

The price: the gradient [*batch, vocab] is saved for a later transpose, where `jaxsoftmax` saves row statistics. The
`linear_...` functions save nothing: they compute each chunk's logits again. In a float label at a logit of -inf the
derivative is infinite, and even a tangent of 0 in that label gives a NaN. In reverse mode a label that is no class has
a NaN gradient even where its loss is masked.

Some libraries ask for forward mode though you only call `jax.grad`: optimistix where it differentiates a root, lineax
in a `JacobianLinearOperator`, NumPyro's NUTS with `forward_mode_differentiation=True`, least-squares solvers of
optimistix and jaxopt. If your loss goes to one of these, take it from this module.

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
