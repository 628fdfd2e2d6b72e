"""The formulas as the source documents define them: nothing shifted, differentiated by JAX itself."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def differential(f: Callable[[Array], Array], x: Array, dx: Array) -> Array:
    """Returns df, the change of ``f`` at ``x`` in the direction ``dx``, by forward-mode differentiation."""
    return jax.jvp(f, (x,), (dx,))[1]


def total(x: Float[Array, " n"]) -> Float[Array, ""]:
    """Returns 1ᵀexp°(x)."""
    return jnp.sum(jnp.exp(x))


def softmax(x: Float[Array, " n"]) -> Float[Array, " n"]:
    """Returns exp°(x) / 1ᵀexp°(x) (M4)."""
    return jnp.exp(x) / total(x)


def logsumexp(x: Float[Array, " n"]) -> Float[Array, ""]:
    """Returns log(1ᵀexp°(x))."""
    return jnp.log(total(x))


def log_softmax(x: Float[Array, " n"]) -> Float[Array, " n"]:
    """Returns log° softmax(x)."""
    return jnp.log(softmax(x))


def cross_entropy(x: Float[Array, " n"], t: Float[Array, " n"]) -> Float[Array, ""]:
    """Returns −Σᵢ tᵢ log sᵢ (M11)."""
    return -jnp.sum(t * jnp.log(softmax(x)))


def identity_like(x: Float[Array, " n"]) -> Float[Array, "n n"]:
    """Returns I of the size of ``x``: δᵢⱼ."""
    return jnp.eye(x.shape[0], dtype=x.dtype)


def quotient_rule_on_diagonal(x: Float[Array, " n"]) -> Float[Array, " n"]:
    """Returns ∂sᵢ/∂xᵢ by the quotient rule, (eᵢ S − eᵢ eᵢ) / S² with e = exp°(x) and S = 1ᵀe."""
    e = jnp.exp(x)
    return (e * total(x) - e * e) / total(x) ** 2


def quotient_rule_off_diagonal(x: Float[Array, " n"]) -> Float[Array, "n n"]:
    """Returns ∂sᵢ/∂xⱼ by the quotient rule, (0·S − eᵢ eⱼ) / S² with e = exp°(x) and S = 1ᵀe, and 0 where i = j."""
    e = jnp.exp(x)
    return off_diagonal((0.0 * total(x) - jnp.outer(e, e)) / total(x) ** 2)


def off_diagonal(matrix: Float[Array, "n n"]) -> Float[Array, "n n"]:
    """Returns the entries with i ≠ j, and 0 where i = j."""
    return matrix * (1.0 - jnp.eye(matrix.shape[0], dtype=matrix.dtype))
