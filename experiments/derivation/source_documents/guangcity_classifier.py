"""The linear softmax classifier of guangcity's «Softmax» (CS231n notes), executed line by line.

The notes write a sample's scores as S = xW, its probabilities as q and its one-hot target as p. Read with these errata:
X is (N, D) and W is (D, C), not (D, N) and (N, C); the gradient code adds to the column ``dW[:, j]``, not to
``dW[i, j]``; and that gradient still has to be divided by N and given the regulariser's 2λW.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

import jaxsoftmax
from experiments.derivation.equalities import Derivation, Document, Line, Point
from experiments.derivation.source_documents.textbook import (
    cross_entropy,
    off_diagonal,
    quotient_rule_off_diagonal,
    quotient_rule_on_diagonal,
    softmax,
)


def _sample(p: Point) -> Float[Array, " d"]:
    return p.features[0]


def _scores(p: Point) -> Float[Array, " n"]:
    return _sample(p) @ p.W


def _scores_jacobian(p: Point) -> Float[Array, "n d n"]:
    """Returns ∂S/∂W: the entry [m, :, j] is x where m = j and 0 elsewhere."""
    return jnp.eye(p.W.shape[1])[:, None, :] * _sample(p)[None, :, None]


def _loss_of_probabilities(p: Point, q: Float[Array, " n"]) -> Float[Array, ""]:
    return -jnp.sum(p.e * jnp.log(q))


def _chain_of_three(p: Point) -> Float[Array, "d n"]:
    by_q = jax.grad(lambda q: _loss_of_probabilities(p, q))(softmax(_scores(p)))
    return jnp.einsum("m,mn,ndj->dj", by_q, jax.jacfwd(softmax)(_scores(p)), _scores_jacobian(p))


def _chain_of_two(p: Point) -> Float[Array, "d n"]:
    return jnp.einsum("n,ndj->dj", softmax(_scores(p)) - p.e, _scores_jacobian(p))


_SAMPLE = (
    Derivation(
        "M16",
        "(1) the scores",
        Line("Sᵢⱼ = Xᵢ Wⱼᵀ", lambda p: jnp.stack([_sample(p) @ column for column in p.W.T])),
        Line("= np.dot(X[i], W)", _scores),
    ),
    Derivation(
        "M4",
        "(2) the probabilities",
        Line("qᵢⱼ = exp(Sᵢⱼ) / Σₖ exp(Sᵢₖ)", lambda p: softmax(_scores(p))),
        Line("= jaxsoftmax.softmax", lambda p: jaxsoftmax.softmax(_scores(p))),
    ),
    Derivation(
        "M13",
        "(5) the derivative of Lᵢ = −Σₘ pₘ log qᵢₘ",
        Line("∂Lᵢ/∂qᵢ", lambda p: jax.grad(lambda q: _loss_of_probabilities(p, q))(softmax(_scores(p)))),
        Line("= [0, …, −1/q_{iyᵢ}, …, 0]", lambda p: jnp.zeros_like(p.e).at[p.y].set(-1.0 / softmax(_scores(p))[p.y])),
    ),
    Derivation(
        "M5",
        "(7) the case m = n",
        Line("∂qᵢₘ/∂Sᵢₙ", lambda p: jnp.diagonal(jax.jacfwd(softmax)(_scores(p)))),
        Line(
            "= (exp(Sᵢₘ) Σₖ exp(Sᵢₖ) − exp(Sᵢₘ) exp(Sᵢₘ)) / (Σₖ exp(Sᵢₖ))²",
            lambda p: quotient_rule_on_diagonal(_scores(p)),
        ),
        Line(
            "= exp(Sᵢₘ)/Σₖ exp(Sᵢₖ) − (exp(Sᵢₘ)/Σₖ exp(Sᵢₖ))²", lambda p: softmax(_scores(p)) - softmax(_scores(p)) ** 2
        ),
        Line("= qᵢₘ (1 − qᵢₘ)", lambda p: softmax(_scores(p)) * (1.0 - softmax(_scores(p)))),
    ),
    Derivation(
        "M5",
        "(7) the case m ≠ n",
        Line("∂qᵢₘ/∂Sᵢₙ", lambda p: off_diagonal(jax.jacfwd(softmax)(_scores(p)))),
        Line("= (0 − exp(Sᵢₙ) exp(Sᵢₘ)) / (Σₖ exp(Sᵢₖ))²", lambda p: quotient_rule_off_diagonal(_scores(p))),
        Line("= −qᵢₙ qᵢₘ", lambda p: off_diagonal(-jnp.outer(softmax(_scores(p)), softmax(_scores(p))))),
    ),
    Derivation(
        "M16",
        "(13) the derivative of the scores",
        Line("∂Sᵢ/∂Wⱼ", lambda p: jax.jacfwd(lambda W: _sample(p) @ W)(p.W)),
        Line("= xᵢ in row j, 0 elsewhere", _scores_jacobian),
    ),
    Derivation(
        "M16",
        "(4) the chain rule",
        Line("∂Lᵢ/∂Wⱼ", lambda p: jax.grad(lambda W: cross_entropy(_sample(p) @ W, p.e))(p.W)),
        Line("= (∂Lᵢ/∂qᵢ) (∂qᵢ/∂Sᵢ) (∂Sᵢ/∂Wⱼ)", _chain_of_three),
        Line("= [qᵢ₁, …, q_{iyᵢ} − 1, …, q_{iC}] (∂Sᵢ/∂Wⱼ)", _chain_of_two),
        Line(
            "= xᵢ qᵢⱼ where j ≠ yᵢ, xᵢ (qᵢⱼ − 1) where j = yᵢ",
            lambda p: _sample(p)[:, None] * (softmax(_scores(p)) - p.e)[None, :],
        ),
    ),
)


def _code_loss(p: Point, W: Float[Array, "d n"], b: Float[Array, " n"]) -> Float[Array, ""]:
    """Returns the loss as the notes' loop computes it, with the regulariser λΣW², and with a bias."""

    def add_sample(i: Array, loss: Array) -> Array:
        score = p.features[i] @ W + b
        score = jnp.exp(score - jnp.max(score))
        return loss - jnp.log((score / jnp.sum(score))[p.ys[i]])

    loss = jax.lax.fori_loop(0, p.ys.size, add_sample, jnp.zeros_like(p.reg))
    return loss / p.ys.size + p.reg * jnp.sum(W * W)


def _residual(p: Point) -> Float[Array, "m n"]:
    """Returns S − Y, with a bias in the scores."""
    return jax.vmap(softmax)(p.features @ p.W + p.b) - jax.nn.one_hot(p.ys, p.b.size, dtype=p.b.dtype)


def _code_gradient(p: Point) -> Float[Array, "d n"]:
    """Returns dW as the notes' two loops fill it: column j gains xᵢ sᵢⱼ, or xᵢ (sᵢⱼ − 1) where j is the label."""

    def add_sample(i: Array, dW: Array) -> Array:
        score = softmax(p.features[i] @ p.W + p.b)

        def add_to_column(j: Array, dW: Array) -> Array:
            coefficient = jnp.where(j != p.ys[i], score[j], score[j] - 1.0)
            return dW.at[:, j].add(coefficient * p.features[i])  # (M16)

        return jax.lax.fori_loop(0, p.W.shape[1], add_to_column, dW)

    dW = jax.lax.fori_loop(0, p.ys.size, add_sample, jnp.zeros_like(p.W))
    return dW / p.ys.size + 2.0 * p.reg * p.W  # (M17)


def _library_loss(p: Point, W: Float[Array, "d n"], b: Float[Array, " n"]) -> Float[Array, ""]:
    return jaxsoftmax.cross_entropy(p.features @ W + b, p.ys) + p.reg * jnp.sum(W * W)


def _closed_form(p: Point) -> jaxsoftmax.analytic.LinearCrossEntropyGradients:
    return jaxsoftmax.analytic.linear_cross_entropy_gradients(p.features, p.W, p.ys, p.b)


def _closed_form_bias(p: Point) -> Float[Array, " n"]:
    gradient = _closed_form(p).bias
    assert gradient is not None  # a bias was given
    return gradient


_CODE = (
    Derivation(
        "M17",
        "the code's loss with λΣW²",
        Line("softmax_loss_naive: loss", lambda p: _code_loss(p, p.W, p.b)),
        Line("= jaxsoftmax.cross_entropy + λΣW²", lambda p: _library_loss(p, p.W, p.b)),
    ),
    Derivation(
        "M16/M17",
        "the code's gradient with 2λW",
        Line("∂loss/∂W", lambda p: jax.grad(_code_loss, argnums=1)(p, p.W, p.b)),
        Line("= softmax_loss_naive: dW", _code_gradient),
        Line("= Xᵀ(S − Y) / N + 2λW", lambda p: p.features.T @ _residual(p) / p.ys.size + 2.0 * p.reg * p.W),
        Line("= jaxsoftmax.cross_entropy, by jax.grad", lambda p: jax.grad(_library_loss, argnums=1)(p, p.W, p.b)),
        Line(
            "= jaxsoftmax.analytic.linear_cross_entropy_gradients + 2λW",
            lambda p: _closed_form(p).kernel + 2.0 * p.reg * p.W,
        ),
    ),
    Derivation(
        "M16",
        "the gradient in the bias",
        Line("∂loss/∂b", lambda p: jax.grad(_code_loss, argnums=2)(p, p.W, p.b)),
        Line("= Σᵢ (Sᵢ − Yᵢ) / N", lambda p: _residual(p).sum(axis=0) / p.ys.size),
        Line("= jaxsoftmax.cross_entropy, by jax.grad", lambda p: jax.grad(_library_loss, argnums=2)(p, p.W, p.b)),
        Line("= jaxsoftmax.analytic.linear_cross_entropy_gradients", _closed_form_bias),
    ),
    Derivation(
        "M16",
        "the gradient in the features",
        Line("∂loss/∂X", lambda p: jax.grad(lambda X: _code_loss(p._replace(features=X), p.W, p.b))(p.features)),
        Line("= (S − Y) Wᵀ / N", lambda p: _residual(p) @ p.W.T / p.ys.size),
        Line(
            "= jaxsoftmax.cross_entropy, by jax.grad",
            lambda p: jax.grad(lambda X: _library_loss(p._replace(features=X), p.W, p.b))(p.features),
        ),
        Line("= jaxsoftmax.analytic.linear_cross_entropy_gradients", lambda p: _closed_form(p).hidden),
    ),
)

_PLANTED = (
    Derivation(
        "M16",
        "the code as printed, without 1/N and 2λW",
        Line("∂loss/∂W", lambda p: jax.grad(_code_loss, argnums=1)(p, p.W, p.b)),
        Line("= Xᵀ(S − Y)", lambda p: p.features.T @ _residual(p)),
    ),
)

DOCUMENT = Document(
    name="guangcity, CS231n notes",
    source="guangcity (Light-City), «Softmax»",
    derivations=(*_SAMPLE, *_CODE),
    planted=_PLANTED,
)
