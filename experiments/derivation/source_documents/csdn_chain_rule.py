"""The elementwise chain rule of https://blog.csdn.net/zt_1995/article/details/62227603, executed line by line.

The post writes the logits as z, the probabilities as a and the targets as y. Where it prints ∂C/∂aⱼ = −Σⱼ yⱼ (1/aⱼ) the
sum belongs to the chain rule around it: one partial derivative is −yⱼ/aⱼ. Its code prints ``x.T`` for ``X.T``.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

import jaxsoftmax
from experiments.derivation.equalities import Derivation, Document, Line, Point
from experiments.derivation.source_documents.textbook import cross_entropy, off_diagonal, softmax, total


def _of_probabilities(a: Float[Array, " n"], y: Float[Array, " n"]) -> Float[Array, ""]:
    return -jnp.sum(y * jnp.log(a))


def _chain_rule(p: Point) -> Float[Array, " n"]:
    """Returns Σⱼ ∂C/∂aⱼ ∂aⱼ/∂zᵢ."""
    return jax.grad(_of_probabilities)(softmax(p.x), p.t) @ jax.jacfwd(softmax)(p.x)


def _two_cases(p: Point) -> Float[Array, " n"]:
    a = softmax(p.x)
    return -(p.t / a) * a * (1.0 - a) + off_diagonal((p.t / a)[None, :] * a[:, None] * a[None, :]).sum(axis=1)


def _others_summed(p: Point) -> Float[Array, " n"]:
    a = softmax(p.x)
    return -p.t + p.t * a + off_diagonal(p.t[None, :] * a[:, None]).sum(axis=1)


_GRADIENT = (
    Derivation(
        "M13",
        "the first half of the chain rule",
        Line("∂C/∂aⱼ = ∂(−Σₖ yₖ ln aₖ)/∂aⱼ", lambda p: jax.grad(_of_probabilities)(softmax(p.x), p.t)),
        Line("= −yⱼ (1/aⱼ)", lambda p: -p.t * (1.0 / softmax(p.x))),
    ),
    Derivation(
        "M5",
        "the second half, i = j",
        Line("∂aᵢ/∂zᵢ", lambda p: jnp.diagonal(jax.jacfwd(softmax)(p.x))),
        Line(
            "= (Σₖ exp(zₖ) exp(zᵢ) − exp(zᵢ)²) / (Σₖ exp(zₖ))²",
            lambda p: (total(p.x) * jnp.exp(p.x) - jnp.exp(p.x) ** 2) / total(p.x) ** 2,
        ),
        Line(
            "= (exp(zᵢ) / Σₖ exp(zₖ)) (1 − exp(zᵢ) / Σₖ exp(zₖ))",
            lambda p: (jnp.exp(p.x) / total(p.x)) * (1.0 - jnp.exp(p.x) / total(p.x)),
        ),
        Line("= aᵢ (1 − aᵢ)", lambda p: softmax(p.x) * (1.0 - softmax(p.x))),
    ),
    Derivation(
        "M5",
        "the second half, i ≠ j",
        Line("∂aⱼ/∂zᵢ", lambda p: off_diagonal(jax.jacfwd(softmax)(p.x))),
        Line(
            "= −exp(zⱼ) (1 / Σₖ exp(zₖ))² exp(zᵢ)",
            lambda p: off_diagonal(-jnp.exp(p.x)[:, None] * (1.0 / total(p.x)) ** 2 * jnp.exp(p.x)[None, :]),
        ),
        Line("= −aᵢ aⱼ", lambda p: off_diagonal(-jnp.outer(softmax(p.x), softmax(p.x)))),
    ),
    Derivation(
        "M11",
        "both halves, elementwise, for any real y",
        Line("∂C/∂zᵢ", lambda p: jax.grad(cross_entropy)(p.x, p.t)),
        Line("= Σⱼ (∂C/∂aⱼ) (∂aⱼ/∂zᵢ)", _chain_rule),
        Line("= −(yᵢ/aᵢ) aᵢ (1 − aᵢ) + Σ_{j≠i} (yⱼ/aⱼ) aᵢ aⱼ", _two_cases),
        Line("= −yᵢ + yᵢ aᵢ + Σ_{j≠i} yⱼ aᵢ", _others_summed),
        Line("= −yᵢ + aᵢ Σⱼ yⱼ", lambda p: -p.t + softmax(p.x) * jnp.sum(p.t)),
        Line(
            "= jaxsoftmax.analytic.cross_entropy_gradient",
            lambda p: jaxsoftmax.analytic.cross_entropy_gradient(p.x, p.t),
        ),
    ),
    Derivation(
        "M11",
        "one target is 1 and the others 0",
        Line("∂C/∂zᵢ", lambda p: jax.grad(cross_entropy)(p.x, p.e)),
        Line("= aᵢ − yᵢ", lambda p: softmax(p.x) - p.e),
        Line(
            "= jaxsoftmax.softmax_cross_entropy, by jax.grad",
            lambda p: jax.grad(jaxsoftmax.softmax_cross_entropy)(p.x, p.e),
        ),
    ),
)


def _code_loss(p: Point, W: Float[Array, "d n"]) -> Float[Array, ""]:
    """Returns the loss as the vectorised code computes it, with the regulariser ½λΣW²."""
    scores = p.features @ W
    shifted = scores - jnp.max(scores, axis=1, keepdims=True)
    output = jnp.exp(shifted) / jnp.sum(jnp.exp(shifted), axis=1, keepdims=True)
    return -jnp.sum(jnp.log(output[jnp.arange(p.ys.size), p.ys])) / p.ys.size + 0.5 * p.reg * jnp.sum(W * W)


def _code_loop_loss(p: Point) -> Float[Array, ""]:
    """Returns the loss as the loop computes it, with the regulariser ½λΣW²."""

    def add_sample(i: Array, loss: Array) -> Array:
        scores = p.features[i] @ p.W
        shifted = scores - jnp.max(scores)
        return loss - shifted[p.ys[i]] + jnp.log(jnp.sum(jnp.exp(shifted)))

    loss = jax.lax.fori_loop(0, p.ys.size, add_sample, jnp.zeros_like(p.reg))
    return loss / p.ys.size + 0.5 * p.reg * jnp.sum(p.W * p.W)


def _code_loop_gradient(p: Point) -> Float[Array, "d n"]:
    """Returns dW as the two loops fill it: column j gains (−1 + sᵢⱼ) xᵢ where j is the label, sᵢⱼ xᵢ elsewhere."""

    def add_sample(i: Array, dW: Array) -> Array:
        scores = p.features[i] @ p.W
        shifted = scores - jnp.max(scores)

        def add_to_column(j: Array, dW: Array) -> Array:
            output = jnp.exp(shifted[j]) / jnp.sum(jnp.exp(shifted))
            return dW.at[:, j].add(jnp.where(j == p.ys[i], -1.0 + output, output) * p.features[i])  # (M16)

        return jax.lax.fori_loop(0, p.W.shape[1], add_to_column, dW)

    dW = jax.lax.fori_loop(0, p.ys.size, add_sample, jnp.zeros_like(p.W))
    return dW / p.ys.size + p.reg * p.W  # (M17)


def _code_vectorised_gradient(p: Point) -> Float[Array, "d n"]:
    scores_bar = jax.vmap(softmax)(p.features @ p.W).at[jnp.arange(p.ys.size), p.ys].add(-1.0)
    return p.features.T @ scores_bar / p.ys.size + p.reg * p.W  # (M16) (M17)


def _library_loss(p: Point, W: Float[Array, "d n"]) -> Float[Array, ""]:
    return jaxsoftmax.cross_entropy(p.features @ W, p.ys) + 0.5 * p.reg * jnp.sum(W * W)


_CODE = (
    Derivation(
        "M17",
        "the code's loss with ½λΣW²",
        Line("softmax_loss_vectorized: loss", lambda p: _code_loss(p, p.W)),
        Line("= softmax_loss_native: loss", _code_loop_loss),
        Line("= jaxsoftmax.cross_entropy + ½λΣW²", lambda p: _library_loss(p, p.W)),
    ),
    Derivation(
        "M16/M17",
        "the code's gradient with λW",
        Line("∂loss/∂W", lambda p: jax.grad(lambda W: _code_loss(p, W))(p.W)),
        Line("= softmax_loss_native: dW", _code_loop_gradient),
        Line("= softmax_loss_vectorized: dW = XᵀdS / N + λW", _code_vectorised_gradient),
        Line("= jaxsoftmax.cross_entropy, by jax.grad", lambda p: jax.grad(lambda W: _library_loss(p, W))(p.W)),
    ),
)

_PLANTED = (
    Derivation(
        "M13",
        "the printed ∂C/∂aⱼ with its sum",
        Line("∂C/∂aⱼ", lambda p: jax.grad(_of_probabilities)(softmax(p.x), p.t)),
        Line("= −Σⱼ yⱼ (1/aⱼ)", lambda p: -jnp.sum(p.t / softmax(p.x)) * jnp.ones_like(p.x)),
    ),
    Derivation(
        "M17",
        "the gradient of ½λΣW² doubled",
        Line("∂loss/∂W", lambda p: jax.grad(lambda W: _code_loss(p, W))(p.W)),
        Line("= XᵀdS / N + 2λW", lambda p: _code_vectorised_gradient(p) + p.reg * p.W),
    ),
)

DOCUMENT = Document(
    name="CSDN 62227603, its chain rule and code",
    source="https://blog.csdn.net/zt_1995/article/details/62227603",
    derivations=(*_GRADIENT, *_CODE),
    planted=_PLANTED,
)
