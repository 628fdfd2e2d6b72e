"""Products of a loss's curvature with a vector of parameters: the Hessian by every mode, and Gauss–Newton's matrix.

The network's logits z(θ) have one row of N each, the loss is the mean cross-entropy C, and with J = ∂z/∂θ

    ∇²(C ∘ z) = Jᵀ (diag(s) − ssᵀ) J / N + Σ (s − e_y) ∇²z / N,

Gauss–Newton's matrix and a term with the network's second derivatives, which a linear network has none of.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, Int

import jaxsoftmax
from jaxsoftmax import analytic, forward_mode

Flat = Float[Array, " parameters"]
Matrix = Float[Array, "parameters parameters"]
Pixels = Float[Array, "rows pixels"]
Logits = Float[Array, "rows classes"]
Loss = Callable[[Logits, Int[Array, " rows"]], Float[Array, ""]]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Model:
    """A network on one batch, and a point in its parameters as one vector."""

    logits_of: Callable[[Any, Pixels], Logits] = field(metadata={"static": True})
    unravel: Callable[[Flat], Any] = field(metadata={"static": True})
    x: Pixels
    labels: Int[Array, " rows"]
    point: Flat

    def network(self, flat: Flat) -> Logits:
        """Returns the logits of the batch."""
        return self.logits_of(self.unravel(flat), self.x)

    def of(self, cross_entropy: Loss) -> Callable[[Flat], Float[Array, ""]]:
        """Returns the loss as a function of the parameters."""
        return lambda flat: cross_entropy(self.network(flat), self.labels)


def model_of(
    logits_of: Callable[[Any, Pixels], Logits], parameters: Any, x: np.ndarray, y: np.ndarray, dtype: str
) -> Model:
    """Returns a network on a batch, with parameters and pixels of one dtype."""
    point, unravel = ravel_pytree(jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), parameters))
    return Model(logits_of, unravel, jnp.asarray(x, dtype), jnp.asarray(y, jnp.int32), point)


def forward_over_reverse(model: Model, v: Flat, cross_entropy: Loss = jaxsoftmax.cross_entropy) -> Flat:
    """Returns Hv as the jvp of the gradient."""
    return jax.jvp(jax.grad(model.of(cross_entropy)), (model.point,), (v,))[1]


def reverse_over_reverse(model: Model, v: Flat) -> Flat:
    """Returns the gradient of ⟨gradient, v⟩."""
    gradient = jax.grad(model.of(jaxsoftmax.cross_entropy))
    return jax.grad(lambda flat: jnp.vdot(gradient(flat), v))(model.point)


def linearized_variant(model: Model, v: Flat) -> Flat:
    """Returns the product by `jax.linearize`, whose linear map can be applied to many vectors."""
    return jax.linearize(jax.grad(model.of(forward_mode.cross_entropy)), model.point)[1](v)


def reverse_over_forward_variant(model: Model, v: Flat) -> Flat:
    """Returns the gradient of the slope along v."""
    return jax.grad(lambda flat: _slope(model, flat, v))(model.point)


def forward_twice(model: Model, v: Flat) -> Float[Array, ""]:
    """Returns vᵀHv, the second derivative along v, in forward mode alone."""
    return jax.jvp(lambda flat: _slope(model, flat, v), (model.point,), (v,))[1]


def _slope(model: Model, flat: Flat, v: Flat) -> Float[Array, ""]:
    return jax.jvp(model.of(forward_mode.cross_entropy), (flat,), (v,))[1]


def gauss_newton(model: Model, v: Flat) -> Flat:
    """Returns Jᵀ (diag(s) − ssᵀ) J v / N: forward through the network, the closed form, and back."""
    logits, logits_dot = jax.jvp(model.network, (model.point,), (v,))
    logits_bar = analytic.cross_entropy_hvp(logits, model.labels, logits_dot)  # (M15)
    return _pull_back(model, model.point, logits_bar)


def second_derivative_term(model: Model, v: Flat) -> Flat:
    """Returns Σ (s − e_y) ∇²z v / N, the rest of the Hessian's product."""
    residual = analytic.cross_entropy_gradient(model.network(model.point), model.labels)  # (M11)
    return jax.jvp(lambda flat: _pull_back(model, flat, residual), (model.point,), (v,))[1]


def _pull_back(model: Model, flat: Flat, logits_bar: Logits) -> Flat:
    _, pullback = jax.vjp(model.network, flat)
    return pullback(logits_bar / len(model.labels))[0]


def gauss_newton_and_the_rest(model: Model, v: Flat) -> Flat:
    """Returns the Hessian's product from its two closed forms."""
    return gauss_newton(model, v) + second_derivative_term(model, v)


def central_difference(model: Model, v: Flat, step: float = 1e-4) -> Flat:
    """Returns the difference of two gradients over 2 ``step``, for |v| = 1 in float64."""
    gradient = jax.grad(model.of(jaxsoftmax.cross_entropy))
    return (gradient(model.point + step * v) - gradient(model.point - step * v)) / (2 * step)


def hessian_matrix(model: Model) -> Matrix:
    """Returns the whole Hessian of the loss."""
    return jax.hessian(model.of(jaxsoftmax.cross_entropy))(model.point)


Product = Callable[[Model, Flat], Flat]
HESSIAN_PRODUCTS: dict[str, Product] = {
    "jvp of grad": forward_over_reverse,
    "grad of ⟨grad, v⟩": reverse_over_reverse,
    "linearize of the variant's grad": linearized_variant,
    "grad of the variant's jvp": reverse_over_forward_variant,
    "Gauss–Newton by cross_entropy_hvp, and the rest": gauss_newton_and_the_rest,
}
