"""Derivatives of the cross-entropy C(x, t) = -Σ_i t_i log s_i of one row, in its logits and in its targets."""

import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Int

from jaxsoftmax._softmax import log_softmax
from jaxsoftmax.analytic._arguments import as_logits, as_targets, as_vector
from jaxsoftmax.analytic._row import row_of, target_residual
from jaxsoftmax.analytic._softmax import softmax_jacobian, softmax_jvp

Labels = Int[Array, "*batch"] | Float[Array, "*batch vocab"]


def cross_entropy_gradient(logits: Float[Array, "*batch vocab"], labels: Labels) -> Float[Array, "*batch vocab"]:
    """Gradient of each row's cross-entropy in its logits: s Σt - t, which is s - e_y for an integer label y.

    Entry j is (s_j - 1) t_j + s_j Σ_{i≠j} t_i with s_j - 1 = expm1(log s_j): the label's entry is expm1(-nll) and does
    not cancel on a confident row. A one-hot row of targets gives the bits that its integer label gives.

    Args:
      logits: `[*batch, vocab]`, floating, in nats.
      labels: integer classes `[*batch]`, or float targets `[*batch, vocab]` of any sign and any sum.

    Returns:
      `[*batch, vocab]` in the dtype of `logits`, formed in at least float32; one gradient a row, no mean.

    Raises:
      TypeError: `logits` is not floating, or `labels` neither integer nor floating.
      ValueError: `labels` is neither `[*batch]` integers nor `[*batch, vocab]` floats.

    An integer label outside [0, vocab) gives a row of nan. A logit of -inf has s = 0, hence gradient -t_j; a row that
    is -inf throughout has gradient -t. +inf or nan in a row gives nan.

    Differentiation: plain jnp code, every mode.

    Source: (M11), label entry by (M20); a mean over rows divides by their number (M14).

    >>> import jax.numpy as jnp
    >>> print(jnp.round(1e18 * cross_entropy_gradient(jnp.array([40.0, 0.0]), jnp.array(0)), 2))
    [-4.25  4.25]
    """
    logits = as_logits("logits", logits)
    targets = as_targets("labels", labels, logits)
    return target_residual(row_of(logits), targets).astype(logits.dtype)  # (M11)


def cross_entropy_label_gradient(logits: Float[Array, "*batch vocab"]) -> Float[Array, "*batch vocab"]:
    """Gradient of each row's cross-entropy in its float targets: -log_softmax(x), the same for every t.

    Args:
      logits: `[*batch, vocab]`, floating, in nats.

    Returns:
      `[*batch, vocab]` in the dtype of `logits`, formed in at least float32, in nats; never negative.

    Raises:
      TypeError: `logits` is not floating.
      ValueError: `logits` has no axis.

    A logit of -inf has gradient +inf: a class that cannot occur costs infinitely much; in a row that is -inf
    throughout every class does. +inf or nan in a row gives nan.

    Differentiation: plain jnp code, every mode.

    Source: (M12).

    >>> import jax.numpy as jnp
    >>> print(jnp.round(cross_entropy_label_gradient(jnp.zeros(4)), 4))
    [1.3863 1.3863 1.3863 1.3863]
    """
    logits = as_logits("logits", logits)
    return -log_softmax(logits)  # (M12)


def cross_entropy_hessian(logits: Float[Array, "*batch vocab"], labels: Labels) -> Float[Array, "*batch vocab vocab"]:
    """Hessian of each row's cross-entropy in its logits: (diag(s) - s sᵀ) Σt, free of the label when Σt = 1.

    Args:
      logits: `[*batch, vocab]`, floating, in nats.
      labels: integer classes `[*batch]`, or float targets `[*batch, vocab]` of any sign and any sum.

    Returns:
      `[*batch, vocab, vocab]` in the dtype of `logits`, formed in at least float32.

    Raises:
      TypeError: `logits` is not floating, or `labels` neither integer nor floating.
      ValueError: `labels` is neither `[*batch]` integers nor `[*batch, vocab]` floats.

    An integer label outside [0, vocab) gives a matrix of nan. A logit of -inf has a zero row and column.

    Differentiation: plain jnp code, every mode; holds O(vocab²) a row.

    Source: (M15), diagonal by (M20).

    >>> import jax.numpy as jnp
    >>> print(jnp.round(cross_entropy_hessian(jnp.zeros(2), jnp.array([3.0, 1.0])), 4))
    [[ 1. -1.]
     [-1.  1.]]
    """
    logits = as_logits("logits", logits)
    total = jnp.sum(as_targets("labels", labels, logits), axis=-1)
    wide = logits.astype(total.dtype)
    return (softmax_jacobian(wide) * total[..., None, None]).astype(logits.dtype)  # (M15)


def cross_entropy_hvp(
    logits: Float[Array, "*batch vocab"], labels: Labels, logits_dot: Float[Array, "*batch vocab"]
) -> Float[Array, "*batch vocab"]:
    """Hessian of each row's cross-entropy times a vector: (s ∘ (v - ⟨s,v⟩)) Σt, without the matrix.

    Args:
      logits: `[*batch, vocab]`, floating, in nats.
      labels: integer classes `[*batch]`, or float targets `[*batch, vocab]` of any sign and any sum.
      logits_dot: direction `[*batch, vocab]`, floating, finite.

    Returns:
      `[*batch, vocab]` in the dtype of `logits`, formed in at least float32.

    Raises:
      TypeError: `logits` or `logits_dot` is not floating, or `labels` neither integer nor floating.
      ValueError: `logits_dot` is not shaped like `logits`, or `labels` neither `[*batch]` integers nor
          `[*batch, vocab]` floats.

    An integer label outside [0, vocab) gives a row of nan. A logit of -inf has entry zero.

    Differentiation: plain jnp code, every mode; linear in `logits_dot`; O(vocab) a row.

    Source: (M15) with (M6) and (M21).

    >>> import jax.numpy as jnp
    >>> print(jnp.round(1e18 * cross_entropy_hvp(jnp.array([40.0, 0.0]), jnp.array(1), jnp.array([1.0, 0.0])), 2))
    [ 4.25 -4.25]
    """
    logits = as_logits("logits", logits)
    logits_dot = as_vector("logits_dot", logits_dot, logits)
    total = jnp.sum(as_targets("labels", labels, logits), axis=-1, keepdims=True)
    wide = logits.astype(total.dtype)
    return (softmax_jvp(wide, logits_dot) * total).astype(logits.dtype)  # (M15)
