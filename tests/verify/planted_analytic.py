"""Wrong closed forms, and the linear classifier's."""

import jax.numpy as jnp

import jaxsoftmax
from tests.verify.planted import Planted, by_call


def _diagonal(matrix):
    return matrix * jnp.eye(matrix.shape[-1], dtype=matrix.dtype)


def _halved_penalty(right, *args, l2=0.0, l2_convention="sum", **keywords):
    """Each convention's gradient for the other's loss."""
    return right(*args, l2=l2, l2_convention="half" if l2_convention == "sum" else "sum", **keywords)


def _sum_over_samples(right, hidden, kernel, labels, **keywords):
    gradients = right(hidden, kernel, labels, **keywords)
    return gradients._replace(kernel=gradients.kernel * labels.size)


def _no_bias(right, *args, **keywords):
    gradients = right(*args, **keywords)
    return gradients._replace(bias=0 * gradients.bias)


def _cancelling_jacobian(right, x):
    s = jaxsoftmax.softmax(x)
    return s[..., None] * (jnp.eye(x.shape[-1], dtype=x.dtype) - s[..., None, :])


ANALYTIC = (
    Planted("Jacobian without its off-diagonal", "analytic.softmax_jacobian",
            by_call(lambda right, x: _diagonal(right(x))), ("M5",)),
    Planted("s_i (1 - s_i) cancels", "analytic.softmax_jacobian", by_call(_cancelling_jacobian), ("M21",), ("M5",)),
    Planted("Jacobian transposed", "analytic.log_softmax_jacobian",
            by_call(lambda right, x: jnp.swapaxes(right(x), -1, -2)), ("M10",)),
    Planted("VJP taken for the JVP", "analytic.log_softmax_jvp",
            by_call(lambda right, x, v: jaxsoftmax.analytic.log_softmax_vjp(x, v)), ("M10",)),
    Planted("log-softmax for softmax", "analytic.logsumexp_gradient",
            by_call(lambda right, x: jaxsoftmax.log_softmax(x)), ("M8",)),
    Planted("Hessian of the wrong sign", "analytic.logsumexp_hessian", by_call(lambda right, x: -right(x)), ("M9",)),
    Planted("product with the vector dropped", "analytic.cross_entropy_hvp",
            by_call(lambda right, x, y, v: right(x, y, jnp.ones_like(v))), ("M15",)),
    Planted("log s for -log s", "analytic.cross_entropy_label_gradient",
            by_call(lambda right, x: -right(x)), ("M12",)),
    Planted("sum over samples in place of the mean", "analytic.linear_cross_entropy_gradients",
            by_call(_sum_over_samples), ("M16", "M17")),
    Planted("no gradient in the bias", "analytic.linear_cross_entropy_gradients", by_call(_no_bias), ("M16",),
            ("M17",)),
    Planted("one penalty's gradient for the other", "analytic.linear_cross_entropy_gradients",
            by_call(_halved_penalty), ("M17",), ("M16",)),
)  # fmt: skip
