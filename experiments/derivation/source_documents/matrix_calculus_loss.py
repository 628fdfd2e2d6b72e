"""The derivation by matrix calculus, https://zhuanlan.zhihu.com/p/147901986: log-softmax and the loss, line by line.

The document's last result sums over the samples i. That is the gradient with respect to a bias which all samples share;
with respect to one sample's logits the gradient is that sample's term alone. Both readings are executed.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

import jaxsoftmax
from experiments.derivation.equalities import Derivation, Document, Line, Point
from experiments.derivation.source_documents.textbook import (
    differential,
    identity_like,
    log_softmax,
    logsumexp,
    softmax,
    total,
)

_LOG_SUM_EXP = (
    Derivation(
        "M8",
        "the differential of log-sum-exp",
        Line("d LSE(x)", lambda p: differential(logsumexp, p.x, p.dx)),
        Line(
            "= 1ᵀ d exp°(x) / 1ᵀexp°(x)", lambda p: jnp.ones_like(p.x) @ differential(jnp.exp, p.x, p.dx) / total(p.x)
        ),
        Line(
            "= 1ᵀ diag(exp°(x)) dx / 1ᵀexp°(x)",
            lambda p: jnp.ones_like(p.x) @ jnp.diag(jnp.exp(p.x)) @ p.dx / total(p.x),
        ),
        Line("= exp°(xᵀ) / 1ᵀexp°(x) dx", lambda p: (jnp.exp(p.x) / total(p.x)) @ p.dx),
        Line("= softmaxᵀ(x) dx", lambda p: softmax(p.x) @ p.dx),
    ),
    Derivation(
        "M8",
        "the gradient of log-sum-exp",
        Line("∇LSE(x)", lambda p: jax.grad(logsumexp)(p.x)),
        Line("= softmax(x)", lambda p: softmax(p.x)),
        Line("= jaxsoftmax.logsumexp, by jax.grad", lambda p: jax.grad(jaxsoftmax.logsumexp)(p.x)),
        Line("= jaxsoftmax.analytic.logsumexp_gradient", lambda p: jaxsoftmax.analytic.logsumexp_gradient(p.x)),
    ),
)

_LOG_SOFTMAX = (
    Derivation(
        "M10",
        "the differential of log-softmax",
        Line("d log_softmax(x) = d log°[exp°(x) / 1ᵀexp°(x)]", lambda p: differential(log_softmax, p.x, p.dx)),
        Line(
            "= d(x − log(1ᵀexp°(x)) 1)",
            lambda p: differential(lambda x: x - logsumexp(x) * jnp.ones_like(x), p.x, p.dx),
        ),
        Line("= dx − 1 d(log(1ᵀexp°(x)))", lambda p: p.dx - jnp.ones_like(p.x) * differential(logsumexp, p.x, p.dx)),
        Line("= dx − 1 softmaxᵀ(x) dx", lambda p: p.dx - jnp.ones_like(p.x) * (softmax(p.x) @ p.dx)),
        Line("= (I − 1 softmaxᵀ(x)) dx", lambda p: _log_softmax_jacobian(p.x) @ p.dx),
        Line("= jaxsoftmax.log_softmax, by jax.jvp", lambda p: differential(jaxsoftmax.log_softmax, p.x, p.dx)),
    ),
    Derivation(
        "M10",
        "the gradient of log-softmax",
        Line("∇log_softmax(x)", lambda p: jax.jacfwd(log_softmax)(p.x)),
        Line("= I − 1 softmaxᵀ(x)", lambda p: _log_softmax_jacobian(p.x)),
        Line("= jaxsoftmax.log_softmax, by jax.jacrev", lambda p: jax.jacrev(jaxsoftmax.log_softmax)(p.x)),
        Line("= jaxsoftmax.analytic.log_softmax_jacobian", lambda p: jaxsoftmax.analytic.log_softmax_jacobian(p.x)),
    ),
)


def _log_softmax_jacobian(x: Float[Array, " n"]) -> Float[Array, "n n"]:
    return identity_like(x) - jnp.outer(jnp.ones_like(x), softmax(x))


def _one_hot(p: Point) -> Float[Array, "m n"]:
    return jax.nn.one_hot(p.ys, p.xs.shape[1], dtype=p.xs.dtype)


def _softmax_loss(p: Point, xs: Float[Array, "m n"]) -> Float[Array, ""]:
    """Returns −(1/N) Σᵢ eᵀ(yᵢ) log° softmax(xᵢ), as the document defines it."""
    return -jnp.mean(jnp.sum(_one_hot(p) * jax.vmap(log_softmax)(xs), axis=1))


def _mean_over_samples(p: Point, of_sample: Callable[[Array, Array], Array]) -> Float[Array, " n"]:
    """Returns (1/N) Σᵢ of a sample's gradient, written in its probabilities and its one-hot label."""
    return jnp.mean(jax.vmap(of_sample)(jax.vmap(softmax)(p.xs), _one_hot(p)), axis=0)


def _by_jacobian(s: Float[Array, " n"], e: Float[Array, " n"]) -> Float[Array, " n"]:
    return -(identity_like(s) - jnp.outer(s, jnp.ones_like(s))) @ e


def _library_loss(p: Point, xs: Float[Array, "m n"]) -> Float[Array, ""]:
    return jaxsoftmax.cross_entropy(xs, p.ys)


_LOSS = (
    Derivation(
        "M14",
        "a one-hot label sums to one",
        Line("1ᵀe(y)", lambda p: jnp.sum(p.e)),
        Line("= 1", lambda p: jnp.ones_like(p.a)),
    ),
    Derivation(
        "M14",
        "the mean loss; the printed sum over i is the gradient in a bias b that all samples share",
        Line(
            "∇softmax_loss(S) = ∂/∂b softmax_loss(xᵢ + b) at b = 0",
            lambda p: jax.grad(lambda b: _softmax_loss(p, p.xs + b))(jnp.zeros_like(p.b)),
        ),
        Line("= −(1/N) Σᵢ (I − softmax(xᵢ) 1ᵀ) e(yᵢ)", lambda p: _mean_over_samples(p, _by_jacobian)),
        Line(
            "= (1/N) Σᵢ (softmax(xᵢ) 1ᵀe(yᵢ) − e(yᵢ))", lambda p: _mean_over_samples(p, lambda s, e: s * jnp.sum(e) - e)
        ),
        Line("= (1/N) Σᵢ (softmax(xᵢ) − e(yᵢ))", lambda p: _mean_over_samples(p, lambda s, e: s - e)),
        Line(
            "= jaxsoftmax.cross_entropy, by jax.grad in b",
            lambda p: jax.grad(lambda b: _library_loss(p, p.xs + b))(jnp.zeros_like(p.b)),
        ),
    ),
    Derivation(
        "M14",
        "the mean loss; without the sum, one row for each sample",
        Line("∂ softmax_loss(S)/∂xᵢ", lambda p: jax.grad(lambda xs: _softmax_loss(p, xs))(p.xs)),
        Line("= (softmax(xᵢ) − e(yᵢ)) / N", lambda p: (jax.vmap(softmax)(p.xs) - _one_hot(p)) / p.xs.shape[0]),
        Line("= jaxsoftmax.cross_entropy, by jax.grad in x", lambda p: jax.grad(lambda xs: _library_loss(p, xs))(p.xs)),
    ),
)

_PLANTED = (
    Derivation(
        "M10",
        "the Jacobian of log-softmax transposed",
        Line("∇log_softmax(x)", lambda p: jax.jacfwd(log_softmax)(p.x)),
        Line("= I − softmax(x) 1ᵀ", lambda p: _log_softmax_jacobian(p.x).T),
    ),
    Derivation(
        "M14",
        "a sample's gradient row without the 1/N",
        Line("∂ softmax_loss(S)/∂xᵢ", lambda p: jax.grad(lambda xs: _softmax_loss(p, xs))(p.xs)),
        Line("= softmax(xᵢ) − e(yᵢ)", lambda p: jax.vmap(softmax)(p.xs) - _one_hot(p)),
    ),
)

DOCUMENT = Document(
    name="zhihu 147901986, on the loss",
    source="https://zhuanlan.zhihu.com/p/147901986",
    derivations=(*_LOG_SUM_EXP, *_LOG_SOFTMAX, *_LOSS),
    planted=_PLANTED,
)
