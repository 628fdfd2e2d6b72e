"""The derivation of liuyan, «softmax和交叉熵函数求导» (2018-01-22), executed line by line.

The post writes the logits as a, the probabilities as y, the targets as t and the total of the exponentials as Σ.
Its last formula is an image that did not survive; the two lines after "= −Σᵢ tᵢ (1/yᵢ) ∂yᵢ/∂aⱼ" finish it.
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

_SOFTMAX = (
    Derivation(
        "M5",
        "the quotient rule, f = g/h with g = exp(u), h = 2 + sin(u)",
        Line("f′(u)", lambda p: jax.grad(lambda u: jnp.exp(u) / (2.0 + jnp.sin(u)))(p.u)),
        Line(
            "= (g′(u) h(u) − g(u) h′(u)) / h(u)²",
            lambda p: (jnp.exp(p.u) * (2.0 + jnp.sin(p.u)) - jnp.exp(p.u) * jnp.cos(p.u)) / (2.0 + jnp.sin(p.u)) ** 2,
        ),
    ),
    Derivation(
        "M5",
        "the derivative of the denominator",
        Line("∂(Σₖ exp(aₖ))/∂aⱼ", lambda p: jax.grad(total)(p.x)),
        Line("= exp(aⱼ)", lambda p: jnp.exp(p.x)),
    ),
    Derivation(
        "M5",
        "the derivative of the numerator",
        Line("∂exp(aᵢ)/∂aⱼ", lambda p: jax.jacfwd(jnp.exp)(p.x)),
        Line("= exp(aᵢ) where i = j, 0 where i ≠ j", lambda p: jnp.exp(p.x)[:, None] * identity_like(p.x)),
    ),
    Derivation(
        "M5",
        "the case i = j",
        Line("∂yᵢ/∂aⱼ", lambda p: jnp.diagonal(jax.jacfwd(softmax)(p.x))),
        Line("= (exp(aᵢ) Σ − exp(aᵢ) exp(aⱼ)) / Σ²", lambda p: quotient_rule_on_diagonal(p.x)),
        Line(
            "= (exp(aᵢ) / Σ) ((Σ − exp(aⱼ)) / Σ)",
            lambda p: (jnp.exp(p.x) / total(p.x)) * ((total(p.x) - jnp.exp(p.x)) / total(p.x)),
        ),
        Line("= yᵢ (1 − yⱼ)", lambda p: softmax(p.x) * (1.0 - softmax(p.x))),
    ),
    Derivation(
        "M5",
        "the case i ≠ j",
        Line("∂yᵢ/∂aⱼ", lambda p: off_diagonal(jax.jacfwd(softmax)(p.x))),
        Line("= (0 − exp(aᵢ) exp(aⱼ)) / Σ²", lambda p: quotient_rule_off_diagonal(p.x)),
        Line(
            "= −(exp(aᵢ) / Σ) (exp(aⱼ) / Σ)",
            lambda p: off_diagonal(-jnp.outer(jnp.exp(p.x) / total(p.x), jnp.exp(p.x) / total(p.x))),
        ),
        Line("= −yᵢ yⱼ", lambda p: off_diagonal(-jnp.outer(softmax(p.x), softmax(p.x)))),
    ),
    Derivation(
        "M7",
        "numerator and denominator times a constant E > 0",
        Line("yᵢ = exp(aᵢ) / Σₖ exp(aₖ)", lambda p: softmax(p.x)),
        Line(
            "= E exp(aᵢ) / Σₖ E exp(aₖ), E = exp(a)",
            lambda p: jnp.exp(p.a) * jnp.exp(p.x) / jnp.sum(jnp.exp(p.a) * jnp.exp(p.x)),
        ),
        Line("= exp(aᵢ + log E) / Σₖ exp(aₖ + log E)", lambda p: softmax(p.x + p.a)),
        Line("= the same with log E = −max(a₁, …, a_C)", lambda p: softmax(p.x - jnp.max(p.x))),
        Line("= jaxsoftmax.softmax", lambda p: jaxsoftmax.softmax(p.x)),
    ),
)


def _matrix_chain_rule(p: Point) -> Float[Array, " n"]:
    """Returns Jᵀ(−t/s) with J = diag(s) − ssᵀ."""
    s = softmax(p.x)
    return (jnp.diag(s) - jnp.outer(s, s)).T @ (-p.t / s)  # (M13)


def _log_softmax_chain_rule(p: Point) -> Float[Array, " n"]:
    """Returns (I − s1ᵀ)(−t), the Jacobian of log-softmax transposed."""
    s = softmax(p.x)
    return (identity_like(s) - jnp.outer(s, jnp.ones_like(s))) @ (-p.t)  # (M13)


def _sum_over_log_gradients(p: Point) -> Float[Array, " n"]:
    return -jnp.sum(p.t[:, None] * jax.jacfwd(lambda a: jnp.log(softmax(a)))(p.x), axis=0)


def _sum_over_gradients(p: Point) -> Float[Array, " n"]:
    return -jnp.sum(p.t[:, None] / softmax(p.x)[:, None] * jax.jacfwd(softmax)(p.x), axis=0)


_CROSS_ENTROPY = (
    Derivation(
        "M11",
        "the loss, for any real t",
        Line("J_CE = −Σᵢ tᵢ log(yᵢ)", lambda p: cross_entropy(p.x, p.t)),
        Line("= jaxsoftmax.softmax_cross_entropy", lambda p: jaxsoftmax.softmax_cross_entropy(p.x, p.t)),
    ),
    Derivation(
        "M13",
        "the gradient by the chain rule, for any real t",
        Line("∂J_CE/∂aⱼ", lambda p: jax.grad(cross_entropy)(p.x, p.t)),
        Line("= −Σᵢ ∂(tᵢ log(yᵢ))/∂aⱼ = −Σᵢ tᵢ ∂log(yᵢ)/∂aⱼ", _sum_over_log_gradients),
        Line("= −Σᵢ tᵢ (1/yᵢ) ∂yᵢ/∂aⱼ", _sum_over_gradients),
        Line("= Jᵀ(−t/y) as matrices, J = diag(y) − yyᵀ", _matrix_chain_rule),
        Line("= (I − y1ᵀ)(−t)", _log_softmax_chain_rule),
        Line("= yⱼ Σᵢ tᵢ − tⱼ", lambda p: softmax(p.x) * jnp.sum(p.t) - p.t),
        Line(
            "= jaxsoftmax.softmax_cross_entropy, by jax.grad",
            lambda p: jax.grad(jaxsoftmax.softmax_cross_entropy)(p.x, p.t),
        ),
    ),
)

_PLANTED = (
    Derivation(
        "M13",
        "the targets taken to sum to one when they do not",
        Line("∂J_CE/∂aⱼ", lambda p: jax.grad(cross_entropy)(p.x, p.t)),
        Line("= yⱼ − tⱼ", lambda p: softmax(p.x) - p.t),
    ),
)

DOCUMENT = Document(
    name="liuyan 2018",
    source="liuyan, «softmax和交叉熵函数求导», 2018-01-22",
    derivations=(*_SOFTMAX, *_CROSS_ENTROPY),
    planted=_PLANTED,
)
