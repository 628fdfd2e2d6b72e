"""Derivatives of logsumexp: its gradient is softmax, so its Hessian is the Jacobian of softmax."""

from jax import Array
from jaxtyping import Float

from jaxsoftmax.analytic._arguments import as_logits
from jaxsoftmax.analytic._row import row_of
from jaxsoftmax.analytic._softmax import softmax_jacobian, softmax_jvp


def logsumexp_gradient(x: Float[Array, "*batch vocab"]) -> Float[Array, "*batch vocab"]:
    """Gradient of logsumexp over the last axis: ∇LSE = s.

    Args:
      x: logits `[*batch, vocab]`, floating, in nats.

    Returns:
      `[*batch, vocab]` in the dtype of `x`, formed in at least float32.

    Raises:
      TypeError: `x` is not floating.
      ValueError: `x` has no axis.

    A logit of -inf has gradient zero; a row that is -inf throughout, whose LSE is -inf, has gradient zero. Tied maxima
    share it equally. +inf or nan in a row gives nan.

    Differentiation: plain jnp code, every mode.

    Source: (M8).

    >>> import jax.numpy as jnp
    >>> print(logsumexp_gradient(jnp.array([0.0, 0.0, -jnp.inf])))
    [0.5 0.5 0. ]
    """
    x = as_logits("x", x)
    return row_of(x).probs.astype(x.dtype)  # (M8)


def logsumexp_hessian(x: Float[Array, "*batch vocab"]) -> Float[Array, "*batch vocab vocab"]:
    """Hessian of logsumexp over the last axis: diag(s) - s sᵀ, positive semidefinite with 1 in its kernel.

    Args:
      x: logits `[*batch, vocab]`, floating, in nats.

    Returns:
      `[*batch, vocab, vocab]` in the dtype of `x`, formed in at least float32.

    Raises:
      TypeError: `x` is not floating.
      ValueError: `x` has no axis.

    A logit of -inf has a zero row and column; +inf or nan in a row gives nan.

    Differentiation: plain jnp code, every mode; holds O(vocab²) a row.

    Source: (M9).

    >>> import jax.numpy as jnp
    >>> print(jnp.round(logsumexp_hessian(jnp.array([jnp.log(3.0), 0.0])), 4))
    [[ 0.1875 -0.1875]
     [-0.1875  0.1875]]
    """
    return softmax_jacobian(x)  # (M9)


def logsumexp_hvp(x: Float[Array, "*batch vocab"], x_dot: Float[Array, "*batch vocab"]) -> Float[Array, "*batch vocab"]:
    """Hessian of logsumexp times a vector: s ∘ (v - ⟨s,v⟩), without the matrix.

    Args:
      x: logits `[*batch, vocab]`, floating, in nats.
      x_dot: direction `[*batch, vocab]`, floating, finite.

    Returns:
      `[*batch, vocab]` in the dtype of `x`, formed in at least float32.

    Raises:
      TypeError: an argument is not floating.
      ValueError: `x` has no axis, or `x_dot` another shape.

    A logit of -inf has entry zero, and so has a row that is -inf throughout.

    Differentiation: plain jnp code, every mode; linear in `x_dot`; O(vocab) a row.

    Source: (M9) with (M6) and (M21).

    >>> import jax.numpy as jnp
    >>> print(jnp.round(1e18 * logsumexp_hvp(jnp.array([40.0, 0.0]), jnp.array([1.0, 0.0])), 2))
    [ 4.25 -4.25]
    """
    return softmax_jvp(x, x_dot)  # (M9)
