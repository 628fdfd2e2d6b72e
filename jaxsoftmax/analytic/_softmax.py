"""Derivatives of softmax."""

import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from jaxsoftmax.analytic._arguments import as_logits, as_vector
from jaxsoftmax.analytic._row import centred, row_of


def softmax_jacobian(x: Float[Array, "*batch vocab"]) -> Float[Array, "*batch vocab vocab"]:
    """Jacobian of softmax: J = diag(s) - s sᵀ.

    Entrywise ∂s_i/∂x_j = s_i (δ_ij - s_j). The diagonal s_i (1 - s_i) is formed as s_i · (-expm1(log s_i)), so it keeps
    its relative accuracy when s_i rounds to one. J is symmetric, and its rows and columns sum to zero.

    Args:
      x: logits `[*batch, vocab]`, floating, in nats.

    Returns:
      `[*batch, vocab, vocab]` in the dtype of `x`, formed in at least float32.

    Raises:
      TypeError: `x` is not floating.
      ValueError: `x` has no axis.

    A logit of -inf has s = 0, and its row and column of J are zero; a row that is -inf throughout has J = 0.
    +inf or nan anywhere in a row gives nan. Tied logits share the probability: nothing breaks the tie.

    Differentiation: plain jnp code, every mode; holds O(vocab²) a row.

    Source: (M5), diagonal by (M20).

    >>> import jax.numpy as jnp
    >>> print(jnp.round(softmax_jacobian(jnp.zeros(2)), 4))
    [[ 0.25 -0.25]
     [-0.25  0.25]]
    """
    x = as_logits("x", x)
    row = row_of(x)
    outer = row.probs[..., :, None] * row.probs[..., None, :]
    diagonal = row.probs * row.complement  # (M20)
    on_diagonal = jnp.eye(x.shape[-1], dtype=bool)
    return jnp.where(on_diagonal, diagonal[..., :, None], -outer).astype(x.dtype)  # (M5)


def softmax_jvp(x: Float[Array, "*batch vocab"], x_dot: Float[Array, "*batch vocab"]) -> Float[Array, "*batch vocab"]:
    """Tangent of softmax: J v = s ∘ (v - ⟨s,v⟩).

    With h = v - v_k 1 at the entry k whose probability exceeds 1/2 (there is at most one), J v = s ∘ (h - ⟨s,h⟩): each
    term is then relatively accurate, and ΣJv = 0 to rounding, however close s_k is to one.

    Args:
      x: logits `[*batch, vocab]`, floating, in nats.
      x_dot: tangent `[*batch, vocab]`, floating, finite.

    Returns:
      `[*batch, vocab]` in the dtype of `x`, formed in at least float32.

    Raises:
      TypeError: an argument is not floating.
      ValueError: `x` has no axis, or `x_dot` another shape.

    A logit of -inf has tangent zero, and so has a row that is -inf throughout. Ties have no centre and need none.

    Differentiation: plain jnp code, every mode; linear in `x_dot`; O(vocab) a row.

    Source: (M6), centred by (M21).

    >>> import jax.numpy as jnp
    >>> print(jnp.round(1e18 * softmax_jvp(jnp.array([40.0, 0.0]), jnp.array([1.0, 0.0])), 2))
    [ 4.25 -4.25]
    """
    x = as_logits("x", x)
    x_dot = as_vector("x_dot", x_dot, x)
    row = row_of(x)
    return (row.probs * centred(row, x_dot)).astype(x.dtype)  # (M21)


def softmax_vjp(x: Float[Array, "*batch vocab"], s_bar: Float[Array, "*batch vocab"]) -> Float[Array, "*batch vocab"]:
    """Cotangent of softmax: Jᵀ g = s ∘ (g - ⟨s,g⟩), the same numbers as `softmax_jvp`, since J = Jᵀ.

    Args:
      x: logits `[*batch, vocab]`, floating, in nats.
      s_bar: cotangent of softmax(x) `[*batch, vocab]`, floating, finite.

    Returns:
      `[*batch, vocab]` in the dtype of `x`, formed in at least float32.

    Raises:
      TypeError: an argument is not floating.
      ValueError: `x` has no axis, or `s_bar` another shape.

    A logit of -inf has cotangent zero, and so has a row that is -inf throughout.

    Differentiation: plain jnp code, every mode; linear in `s_bar`; O(vocab) a row.

    Source: (M6), centred by (M21).

    >>> import jax.numpy as jnp
    >>> print(jnp.round(1e18 * softmax_vjp(jnp.array([40.0, 0.0]), jnp.array([0.0, 1.0])), 2))
    [-4.25  4.25]
    """
    x = as_logits("x", x)
    return softmax_jvp(x, as_vector("s_bar", s_bar, x))  # (M6)
