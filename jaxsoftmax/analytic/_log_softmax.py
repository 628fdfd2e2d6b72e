"""Derivatives of log_softmax."""

import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from jaxsoftmax.analytic._arguments import as_logits, as_vector
from jaxsoftmax.analytic._row import centred, row_of, target_residual


def log_softmax_jacobian(x: Float[Array, "*batch vocab"]) -> Float[Array, "*batch vocab vocab"]:
    """Jacobian of log_softmax: I - 1 sᵀ.

    Row i is e_iᵀ - sᵀ, so the matrix is not symmetric; its rows sum to zero. The diagonal 1 - s_i is formed as
    -expm1(log s_i).

    Args:
      x: logits `[*batch, vocab]`, floating, in nats.

    Returns:
      `[*batch, vocab, vocab]` in the dtype of `x`, formed in at least float32; axis -2 counts outputs, -1 inputs.

    Raises:
      TypeError: `x` is not floating.
      ValueError: `x` has no axis.

    A logit of -inf has s = 0: its column is zero off the diagonal and one on it, which is the limit x_j → -inf. A row
    of x that is -inf throughout has the identity. +inf or nan in a row gives nan.

    Differentiation: plain jnp code, every mode; holds O(vocab²) a row.

    Source: (M10), diagonal by (M20).

    >>> import jax.numpy as jnp
    >>> print(jnp.round(log_softmax_jacobian(jnp.array([jnp.log(3.0), 0.0])), 4))
    [[ 0.25 -0.25]
     [-0.75  0.75]]
    """
    x = as_logits("x", x)
    row = row_of(x)
    on_diagonal = jnp.eye(x.shape[-1], dtype=bool)
    return jnp.where(on_diagonal, row.complement[..., None, :], -row.probs[..., None, :]).astype(x.dtype)  # (M10)


def log_softmax_jvp(
    x: Float[Array, "*batch vocab"], x_dot: Float[Array, "*batch vocab"]
) -> Float[Array, "*batch vocab"]:
    """Tangent of log_softmax: v - ⟨s,v⟩ 1, centred at the dominant entry as in `softmax_jvp`.

    Args:
      x: logits `[*batch, vocab]`, floating, in nats.
      x_dot: tangent `[*batch, vocab]`, floating, finite.

    Returns:
      `[*batch, vocab]` in the dtype of `x`, formed in at least float32.

    Raises:
      TypeError: an argument is not floating.
      ValueError: `x` has no axis, or `x_dot` another shape.

    A logit of -inf adds nothing to ⟨s,v⟩ and keeps the finite tangent of the limit; a row that is -inf throughout has
    tangent v.

    Differentiation: plain jnp code, every mode; linear in `x_dot`; O(vocab) a row.

    Source: (M10), centred by (M21).

    >>> import jax.numpy as jnp
    >>> print(f"{log_softmax_jvp(jnp.array([40.0, 0.0]), jnp.array([0.0, 1.0]))[0]:.3g}")
    -4.25e-18
    """
    x = as_logits("x", x)
    x_dot = as_vector("x_dot", x_dot, x)
    return centred(row_of(x), x_dot).astype(x.dtype)  # (M10)


def log_softmax_vjp(
    x: Float[Array, "*batch vocab"], log_s_bar: Float[Array, "*batch vocab"]
) -> Float[Array, "*batch vocab"]:
    """Cotangent of log_softmax: g - s Σg, formed as (1 - s_j) g_j - s_j Σ_{i≠j} g_i.

    Args:
      x: logits `[*batch, vocab]`, floating, in nats.
      log_s_bar: cotangent of log_softmax(x) `[*batch, vocab]`, floating, finite.

    Returns:
      `[*batch, vocab]` in the dtype of `x`, formed in at least float32.

    Raises:
      TypeError: an argument is not floating.
      ValueError: `x` has no axis, or `log_s_bar` another shape.

    A logit of -inf has s = 0 and passes its own cotangent on, as the limit does; a row that is -inf throughout passes
    all of g on.

    Differentiation: plain jnp code, every mode; linear in `log_s_bar`; O(vocab) a row.

    Source: (M10), 1 - s_j by (M20).

    >>> import jax.numpy as jnp
    >>> print(jnp.round(1e18 * log_softmax_vjp(jnp.array([40.0, 0.0]), jnp.array([1.0, 0.0])), 2))
    [ 4.25 -4.25]
    """
    x = as_logits("x", x)
    log_s_bar = as_vector("log_s_bar", log_s_bar, x)
    return (-target_residual(row_of(x), log_s_bar)).astype(x.dtype)  # (M10)
