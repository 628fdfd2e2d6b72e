"""The derivation by matrix calculus, https://zhuanlan.zhihu.com/p/147901986: the rules and softmax, line by line.

Its ∇ of a vector-valued function is the Jacobian: d f(x) = ∇f(x) dx.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

import jaxsoftmax
from experiments.derivation.equalities import Derivation, Document, Line, Point
from experiments.derivation.source_documents.textbook import differential, softmax, total


def _reciprocal(x: Float[Array, " n"]) -> Float[Array, ""]:
    return 1.0 / total(x)


def _d_exp(p: Point) -> Float[Array, " n"]:
    return differential(jnp.exp, p.x, p.dx)


def _product(p: Point) -> Float[Array, "n n"]:
    def as_pair(pair: tuple[Array, Array]) -> Array:
        return pair[0] @ pair[1]

    return jax.jvp(as_pair, ((p.X, p.Y),), ((p.dX, p.dY),))[1]


_RULES = (
    Derivation(
        "M1",
        "a constant",
        Line("dA", lambda p: differential(lambda _: p.const, p.X, p.dX)),
        Line("= 0", lambda p: jnp.zeros_like(p.X)),
    ),
    Derivation(
        "M1",
        "a scalar factor",
        Line("d(aX)", lambda p: differential(lambda X: p.a * X, p.X, p.dX)),
        Line("= a dX", lambda p: p.a * p.dX),
    ),
    Derivation(
        "M1",
        "the sum rule",
        Line("d(X + Y)", lambda p: jax.jvp(jnp.add, (p.X, p.Y), (p.dX, p.dY))[1]),
        Line("= dX + dY", lambda p: p.dX + p.dY),
    ),
    Derivation(
        "M1",
        "the product rule, matrices in their order",
        Line("d(XY)", _product),
        Line("= (dX)Y + X(dY)", lambda p: p.dX @ p.Y + p.X @ p.dY),
    ),
    Derivation(
        "M2",
        "the elementwise exponential",
        Line("d exp°(x)", _d_exp),
        Line("= diag(exp°(x)) dx", lambda p: jnp.diag(jnp.exp(p.x)) @ p.dx),
    ),
    Derivation(
        "M2",
        "a row times a diagonal matrix",
        Line("bᵀ diag(a)", lambda p: p.q @ jnp.diag(p.p)),
        Line("= bᵀ ∘ aᵀ", lambda p: p.q * p.p),
    ),
    Derivation(
        "M2",
        "the row of ones times diag(exp°(x))",
        Line("1ᵀ diag(exp°(x))", lambda p: jnp.ones_like(p.x) @ jnp.diag(jnp.exp(p.x))),
        Line("= 1ᵀ ∘ exp°ᵀ(x)", lambda p: jnp.ones_like(p.x) * jnp.exp(p.x)),
        Line("= exp°ᵀ(x)", lambda p: jnp.exp(p.x)),
    ),
)

_SOFTMAX = (
    Derivation(
        "M3",
        "the reciprocal of the total",
        Line("d 1/(1ᵀexp°(x))", lambda p: differential(_reciprocal, p.x, p.dx)),
        Line("= −d(1ᵀexp°(x)) / (1ᵀexp°(x))²", lambda p: -differential(total, p.x, p.dx) / total(p.x) ** 2),
        Line("= −1ᵀ d exp°(x) / (1ᵀexp°(x))²", lambda p: -(jnp.ones_like(p.x) @ _d_exp(p)) / total(p.x) ** 2),
        Line(
            "= −1ᵀ diag(exp°(x)) dx / (1ᵀexp°(x))²",
            lambda p: -(jnp.ones_like(p.x) @ jnp.diag(jnp.exp(p.x)) @ p.dx) / total(p.x) ** 2,
        ),
        Line("= −exp°ᵀ(x) dx / (1ᵀexp°(x))²", lambda p: -(jnp.exp(p.x) @ p.dx) / total(p.x) ** 2),
    ),
    Derivation(
        "M5",
        "the differential of softmax",
        Line("d softmax(x) = d[exp°(x) / 1ᵀexp°(x)]", lambda p: differential(softmax, p.x, p.dx)),
        Line(
            "= d exp°(x) / 1ᵀexp°(x) + exp°(x) d[1/(1ᵀexp°(x))]",
            lambda p: _d_exp(p) / total(p.x) + jnp.exp(p.x) * differential(_reciprocal, p.x, p.dx),
        ),
        Line(
            "= [diag(exp°(x)) / 1ᵀexp°(x) − exp°(x) exp°ᵀ(x) / (1ᵀexp°(x))²] dx",
            lambda p: _jacobian_unreduced(p.x) @ p.dx,
        ),
        Line("= jaxsoftmax.softmax, by jax.jvp", lambda p: differential(jaxsoftmax.softmax, p.x, p.dx)),
        Line("= jaxsoftmax.analytic.softmax_jvp", lambda p: jaxsoftmax.analytic.softmax_jvp(p.x, p.dx)),
    ),
    Derivation(
        "M5",
        "the gradient of softmax",
        Line("∇softmax(x)", lambda p: jax.jacfwd(softmax)(p.x)),
        Line("= diag(exp°(x)) / 1ᵀexp°(x) − exp°(x) exp°ᵀ(x) / (1ᵀexp°(x))²", lambda p: _jacobian_unreduced(p.x)),
        Line(
            "= diag(softmax(x)) − softmax(x) softmaxᵀ(x)",
            lambda p: jnp.diag(softmax(p.x)) - jnp.outer(softmax(p.x), softmax(p.x)),
        ),
        Line("= jaxsoftmax.softmax, by jax.jacrev", lambda p: jax.jacrev(jaxsoftmax.softmax)(p.x)),
        Line("= jaxsoftmax.analytic.softmax_jacobian", lambda p: jaxsoftmax.analytic.softmax_jacobian(p.x)),
    ),
)


def _jacobian_unreduced(x: Float[Array, " n"]) -> Float[Array, "n n"]:
    return jnp.diag(jnp.exp(x)) / total(x) - jnp.outer(jnp.exp(x), jnp.exp(x)) / total(x) ** 2


_PLANTED = (
    Derivation(
        "M1",
        "the product rule with its factors swapped",
        Line("d(XY)", _product),
        Line("= Y(dX) + X(dY)", lambda p: p.Y @ p.dX + p.X @ p.dY),
    ),
    Derivation(
        "M3",
        "the reciprocal without its square",
        Line("d 1/(1ᵀexp°(x))", lambda p: differential(_reciprocal, p.x, p.dx)),
        Line("= −exp°ᵀ(x) dx / 1ᵀexp°(x)", lambda p: -(jnp.exp(p.x) @ p.dx) / total(p.x)),
    ),
)

DOCUMENT = Document(
    name="zhihu 147901986, on softmax",
    source="https://zhuanlan.zhihu.com/p/147901986",
    derivations=(*_RULES, *_SOFTMAX),
    planted=_PLANTED,
)
