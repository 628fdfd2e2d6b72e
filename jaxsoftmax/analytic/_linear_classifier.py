"""Gradients of a linear softmax classifier: logits Z = H W + b, mean cross-entropy, a penalty on W."""

import math
from typing import Literal, NamedTuple

import jax.numpy as jnp
from jax import Array
from jax.lax import Precision
from jaxtyping import Float

from jaxsoftmax import _checks
from jaxsoftmax._math.precision import accumulation_dtype
from jaxsoftmax.analytic._arguments import as_linear_inputs, as_targets
from jaxsoftmax.analytic._cross_entropy import Labels
from jaxsoftmax.analytic._row import row_of, target_residual


class LinearCrossEntropyGradients(NamedTuple):
    """Gradients of the mean cross-entropy of a linear classifier, each shaped and typed as its argument."""

    hidden: Float[Array, "*batch embed"]  # dH = G Wᵀ / N
    kernel: Float[Array, "embed vocab"]  # dW = Hᵀ G / N, and the penalty's
    bias: Float[Array, " vocab"] | None  # db = Σ_i G_i / N


def linear_cross_entropy_gradients(
    hidden: Float[Array, "*batch embed"],
    kernel: Float[Array, "embed vocab"],
    labels: Labels,
    bias: Float[Array, " vocab"] | None = None,
    l2: float = 0.0,
    l2_convention: Literal["sum", "half"] = "sum",
) -> LinearCrossEntropyGradients:
    """Gradients of mean cross-entropy over logits Z = H W + b, plus a penalty on W.

    With H the N rows of `hidden` and G = S Σt - T the rows of `cross_entropy_gradient` (S - Y for integer labels):
    dW = Hᵀ G / N + the penalty's gradient, db = Σ_i G_i / N, dH = G Wᵀ / N.

    Two penalties are in use, and they differ by a factor of two: "sum" is l2 · ΣW², with gradient 2 · l2 · W; "half"
    is ½ · l2 · ΣW², with gradient l2 · W. The bias is not penalised.

    Args:
      hidden: inputs `[*batch, embed]`, floating.
      kernel: weights W `[embed, vocab]`, floating.
      labels: integer classes `[*batch]`, or float targets `[*batch, vocab]` of any sign and any sum.
      bias: `[vocab]`, floating, or `None` for a classifier without one.
      l2: strength λ of the penalty, a finite number, known when tracing.
      l2_convention: "sum" for λΣW², "half" for ½λΣW².

    Returns:
      `LinearCrossEntropyGradients(hidden, kernel, bias)`, each with the shape and dtype of its argument and formed in
      at least float32; `bias` is `None` where the argument is. With no rows the cross-entropy's part is zero.

    Raises:
      TypeError: an argument other than `labels` is not floating, or `labels` neither integer nor floating.
      ValueError: shapes that do not fit each other, or an unknown `l2_convention`, or `l2` not finite.

    An integer label outside [0, vocab) gives nan in its row of `hidden`, and throughout `kernel` and `bias`, which sum
    over rows. A class with bias -inf has s = 0.

    Differentiation: plain jnp code, every mode; holds the logits, O(N vocab).

    Source: (M16), (M17); G by (M11) and (M20).

    >>> import jax.numpy as jnp
    >>> hidden, kernel = jnp.array([[1.0, 2.0]]), jnp.zeros((2, 2))
    >>> print(jnp.round(linear_cross_entropy_gradients(hidden, kernel, jnp.array([0])).kernel, 4))
    [[-0.5  0.5]
     [-1.   1. ]]
    """
    hidden, kernel, bias = as_linear_inputs(hidden, kernel, bias)
    l2 = _checks.as_number("l2", l2, "a real number")
    if l2_convention not in ("sum", "half"):
        raise ValueError(f"l2_convention: expected 'sum' or 'half', got {l2_convention!r}")
    dtype = accumulation_dtype(*(leaf.dtype for leaf in (hidden, kernel, bias) if leaf is not None))
    rows, weights, batch = hidden.astype(dtype), kernel.astype(dtype), tuple(range(hidden.ndim - 1))
    logits = jnp.matmul(rows, weights, precision=Precision.HIGHEST)
    if bias is not None:
        logits += jnp.expand_dims(bias.astype(dtype), batch)
    targets = as_targets("labels", labels, logits)
    count = max(math.prod(hidden.shape[:-1]), 1)
    residual = target_residual(row_of(logits), targets) / count  # (M11), (M14)
    kernel_bar = jnp.tensordot(rows, residual, (batch, batch), precision=Precision.HIGHEST)  # (M16)
    penalty_bar = {"sum": 2 * l2, "half": l2}[l2_convention] * weights  # (M17)
    return LinearCrossEntropyGradients(
        hidden=jnp.matmul(residual, weights.T, precision=Precision.HIGHEST).astype(hidden.dtype),  # (M16)
        kernel=(kernel_bar + penalty_bar).astype(kernel.dtype),
        bias=None if bias is None else jnp.sum(residual, batch).astype(bias.dtype),  # (M16)
    )
