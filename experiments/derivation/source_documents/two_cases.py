"""The derivation in two cases i = j and i ≠ j, from the notes «Softmax函数求导与梯度计算», executed line by line.

The notes write the logits as z, the probabilities as a, the targets as t and the total of the exponentials as S.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

import jaxsoftmax
from experiments.derivation.equalities import Derivation, Document, Line, Point
from experiments.derivation.source_documents.textbook import (
    cross_entropy,
    identity_like,
    off_diagonal,
    quotient_rule_off_diagonal,
    quotient_rule_on_diagonal,
    softmax,
    total,
)


def _differentiated_quotient(p: Point) -> Float[Array, " n"]:
    """Returns (u′v − uv′)/v² with u = exp(zᵢ) and v = S, both differentiated by JAX."""
    u, v = jnp.exp(p.x), total(p.x)
    u_prime = jnp.diagonal(jax.jacfwd(jnp.exp)(p.x))
    v_prime = jax.grad(total)(p.x)
    return (u_prime * v - u * v_prime) / v**2


_CASES = (
    Derivation(
        "M4",
        "the definition",
        Line("aⱼ = exp(zⱼ) / Σₖ exp(zₖ)", lambda p: softmax(p.x)),
        Line("= exp(zⱼ) / S", lambda p: jnp.exp(p.x) / total(p.x)),
        Line("= jaxsoftmax.softmax", lambda p: jaxsoftmax.softmax(p.x)),
    ),
    Derivation(
        "M5",
        "the case i = j, by the quotient rule with u = exp(zᵢ), v = S",
        Line("∂aᵢ/∂zᵢ", lambda p: jnp.diagonal(jax.jacfwd(softmax)(p.x))),
        Line("= (u′v − uv′) / v², u′ = v′ = exp(zᵢ)", _differentiated_quotient),
        Line("= (exp(zᵢ) S − exp(zᵢ) exp(zᵢ)) / S²", lambda p: quotient_rule_on_diagonal(p.x)),
        Line("= exp(zᵢ) (S − exp(zᵢ)) / S²", lambda p: jnp.exp(p.x) * (total(p.x) - jnp.exp(p.x)) / total(p.x) ** 2),
        Line(
            "= (exp(zᵢ) / S) ((S − exp(zᵢ)) / S)",
            lambda p: (jnp.exp(p.x) / total(p.x)) * ((total(p.x) - jnp.exp(p.x)) / total(p.x)),
        ),
        Line("= aᵢ (1 − aᵢ)", lambda p: softmax(p.x) * (1.0 - softmax(p.x))),
        Line(
            "= diagonal of jaxsoftmax.analytic.softmax_jacobian",
            lambda p: jnp.diagonal(jaxsoftmax.analytic.softmax_jacobian(p.x)),
        ),
    ),
    Derivation(
        "M5",
        "the case i ≠ j, by the quotient rule with u = exp(zᵢ), v = S",
        Line("∂aᵢ/∂zⱼ", lambda p: off_diagonal(jax.jacfwd(softmax)(p.x))),
        Line("= (u′v − uv′) / v² = (0·S − exp(zᵢ) exp(zⱼ)) / S²", lambda p: quotient_rule_off_diagonal(p.x)),
        Line(
            "= −exp(zᵢ) exp(zⱼ) / S²", lambda p: off_diagonal(-jnp.outer(jnp.exp(p.x), jnp.exp(p.x)) / total(p.x) ** 2)
        ),
        Line(
            "= −(exp(zᵢ) / S) (exp(zⱼ) / S)",
            lambda p: off_diagonal(-jnp.outer(jnp.exp(p.x) / total(p.x), jnp.exp(p.x) / total(p.x))),
        ),
        Line("= −aᵢ aⱼ", lambda p: off_diagonal(-jnp.outer(softmax(p.x), softmax(p.x)))),
        Line(
            "= off-diagonal of jaxsoftmax.analytic.softmax_jacobian",
            lambda p: off_diagonal(jaxsoftmax.analytic.softmax_jacobian(p.x)),
        ),
    ),
    Derivation(
        "M5",
        "both cases in one formula",
        Line("∂aᵢ/∂zⱼ", lambda p: jax.jacfwd(softmax)(p.x)),
        Line("= aᵢ (δᵢⱼ − aⱼ)", lambda p: softmax(p.x)[:, None] * (identity_like(p.x) - softmax(p.x)[None, :])),
        Line("= jaxsoftmax.softmax, by jax.jacfwd", lambda p: jax.jacfwd(jaxsoftmax.softmax)(p.x)),
    ),
)


def _log_probability(p: Point, z: Float[Array, " n"]) -> Float[Array, ""]:
    return jnp.log(softmax(z)[p.y])


def _library_loss(p: Point, z: Float[Array, " n"]) -> Float[Array, ""]:
    return jaxsoftmax.softmax_cross_entropy_with_integer_labels(z, p.y)


_LOSS = (
    Derivation(
        "M11",
        "the loss of a one-hot target",
        Line("L = −Σₖ tₖ log(aₖ)", lambda p: cross_entropy(p.x, p.e)),
        Line("= −log(aₜ)", lambda p: -_log_probability(p, p.x)),
        Line("= jaxsoftmax.softmax_cross_entropy_with_integer_labels", lambda p: _library_loss(p, p.x)),
        Line("= jaxsoftmax.cross_entropy", lambda p: jaxsoftmax.cross_entropy(p.x[None], p.y[None])),
    ),
    Derivation(
        "M11",
        "the gradient of a one-hot target",
        Line("∂L/∂zⱼ = ∂(−log(aₜ))/∂zⱼ", lambda p: jax.grad(lambda z: -_log_probability(p, z))(p.x)),
        Line("= −(1/aₜ) (∂aₜ/∂zⱼ)", lambda p: -(1.0 / softmax(p.x)[p.y]) * jax.grad(lambda z: softmax(z)[p.y])(p.x)),
        Line(
            "= −(1/aₜ) [aₜ (δₜⱼ − aⱼ)]",
            lambda p: -(1.0 / softmax(p.x)[p.y]) * (softmax(p.x)[p.y] * (p.e - softmax(p.x))),
        ),
        Line("= −(δₜⱼ − aⱼ)", lambda p: -(p.e - softmax(p.x))),
        Line("= aⱼ − δₜⱼ", lambda p: softmax(p.x) - p.e),
        Line("= aⱼ − 1 where j = t, aⱼ where j ≠ t", lambda p: jnp.where(p.e == 1.0, softmax(p.x) - 1.0, softmax(p.x))),
        Line(
            "= jaxsoftmax.softmax_cross_entropy_with_integer_labels, by jax.grad",
            lambda p: jax.grad(lambda z: _library_loss(p, z))(p.x),
        ),
    ),
)

_PLANTED = (
    Derivation(
        "M5",
        "the case i = j with a wrong sign",
        Line("∂aᵢ/∂zᵢ", lambda p: jnp.diagonal(jax.jacfwd(softmax)(p.x))),
        Line("= aᵢ (1 + aᵢ)", lambda p: softmax(p.x) * (1.0 + softmax(p.x))),
    ),
    Derivation(
        "M5",
        "the case i ≠ j forgotten",
        Line("∂aᵢ/∂zⱼ", lambda p: jax.jacfwd(softmax)(p.x)),
        Line("= aᵢ (1 − aᵢ) δᵢⱼ", lambda p: jnp.diag(softmax(p.x) * (1.0 - softmax(p.x)))),
    ),
)

DOCUMENT = Document(
    name="notes in two cases",
    source="«Softmax函数求导与梯度计算», 2025-11-02",
    derivations=(*_CASES, *_LOSS),
    planted=_PLANTED,
)
