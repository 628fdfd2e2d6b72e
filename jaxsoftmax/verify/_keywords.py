"""Each keyword of the loss by itself, then all together: M24-M27 with labels of each kind, in each reduction."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import mpmath
import numpy as np

from jaxsoftmax import SparseLabels
from jaxsoftmax.verify import _regimes
from jaxsoftmax.verify._cross_entropy_theorems import LOSS
from jaxsoftmax.verify._keyword_cases import (
    ALONE,
    FLOAT,
    INTEGER,
    OF_INTEGERS,
    SPARSE,
    WEIGHTING,
    WITHOUT_EFFECT_ON_LOSS,
    Case,
    cases,
    seldom_wrong,
)
from jaxsoftmax.verify._oracle import Expected, end_to_end, exact, itself
from jaxsoftmax.verify._theorem import FLOAT_LABELS, Claim, Inputs, Theorem
from jaxsoftmax.verify._token_loss import TOKEN_WEIGHTS, gradient_in_labels, token_gradient, token_loss
from jaxsoftmax.verify._transformations import with_gradients

COTANGENTS = np.array([1.0, -2.0, 0.5, 4.0, -1.0, 2.0])  # of unreduced losses
LABELS = np.array([4, 1, 6, 3, 2, 1], np.int32)
CLASSES = np.array([[0, 2, 5], [3, 1, 6], [4, 4, 2], [6, 0, 5], [1, 1, 3], [2, 6, 4]], np.int32)


class ExactLoss(NamedTuple):
    """A loss of several tokens and its derivatives, in mpmath."""

    value: Expected  # reduced
    parts: Expected  # nll, z-loss, weight and correct, of the loss or of each token
    by_logits: Expected
    by_token_weights: Expected
    by_labels: Expected  # of float labels


def exact_loss(case: Case, z: np.ndarray, y: np.ndarray, u: np.ndarray) -> ExactLoss:
    """The loss of logits z (M24, M26), as it is reduced (M27), and its derivatives (M12, M25); 0 over nothing."""
    tokens = [_token(case, *token) for token in zip(z, y, strict=True)]
    loss, by_logits, by_labels, parts = (Expected.stack(column) for column in zip(*tokens, strict=True))
    counted = _counted(case, y)
    u = np.where(counted, exact(u) if "token_weights" in case.given else exact(1.0), exact(0.0))
    normalizers = np.where(counted, _normalizers(case, y), exact(0.0))
    divisor = _divisor(u, normalizers) if case.reduction == "mean" else mpmath.mpf(1)
    cotangents = exact(COTANGENTS) if case.reduction == "none" else exact(np.ones(len(u)))
    scale = cotangents * u / divisor
    mean = np.dot(u, loss.value) / divisor if case.reduction == "mean" else mpmath.mpf(0)
    by_weights = loss - mean * normalizers  # (M27)
    scaled_parts = u[:, None] * np.concatenate([parts.value[:, :2], normalizers[:, None], parts.value[:, 2:]], 1)
    losses = u / divisor * loss
    return ExactLoss(
        losses if case.reduction == "none" else losses.sum(),
        _reduced_parts(case, scaled_parts, divisor),
        scale[:, None] * by_logits,
        np.where(counted, cotangents / divisor, exact(0.0)) * by_weights,
        scale[:, None] * by_labels,
    )


def _divisor(u: np.ndarray, normalizers: np.ndarray) -> Any:
    """Σ u_t n_t; infinite where it is 0, as a mean over nothing is 0."""
    return np.dot(u, normalizers) or mpmath.mpf("inf")


def _token(case: Case, z: np.ndarray, y: np.ndarray) -> tuple[Expected, Expected, Expected, Expected]:
    """Loss, gradient in the logits and in float labels, and nll, z-loss and whether the prediction is right."""
    options, size = case.options, len(z)
    if not np.ndim(y) and not 0 <= y < size:  # ignored, or else NaN
        nothing = exact(np.zeros(size) if y == case.sentinel else np.full(size, np.nan))
        return itself(nothing[0]), itself(nothing), itself(nothing), itself(nothing[:3])
    by_labels = gradient_in_labels(options)(y, z) if np.ndim(y) else itself(exact(np.zeros(size)))
    plain = token_loss(replace(options, smoothing=0.0, z_loss=0.0))(z, y).value
    penalised = token_loss(replace(options, smoothing=0.0))(z, y).value
    right = mpmath.mpf(int(np.argmax(z) == (np.argmax(y) if np.ndim(y) else y)))
    parts = itself([plain.item(), penalised.item() - plain.item(), right])
    return token_loss(options)(z, y), token_gradient(options)(z, y), by_labels, parts


def _counted(case: Case, y: np.ndarray) -> np.ndarray:
    return y != case.sentinel if y.ndim == 1 and case.sentinel is not None else np.ones(len(y), bool)


def _normalizers(case: Case, y: np.ndarray) -> np.ndarray:
    """w_y of integer labels, 1 of others (M27)."""
    return exact(np.ones(len(y))) if y.ndim > 1 else case.options.weights[np.clip(y, 0, _regimes.VOCAB - 1)]


def _reduced_parts(case: Case, parts: np.ndarray, divisor: mpmath.mpf) -> Expected:
    if case.reduction == "none":
        return itself(parts.T)
    return itself(np.sum(parts, 0) / np.array([divisor, divisor, 1, 1], object))


def flattened(case: Case, loss: ExactLoss, gradients: dict[str, Expected], classes: np.ndarray) -> Expected:
    """The loss, its parts if they are asked for, and its gradients, end to end."""
    parts = {"loss": loss.value} | ({"parts": loss.parts} if "has_aux" in case.given else {}) | gradients
    if case.labels != INTEGER:
        parts["gradient in labels"] = loss.by_labels if case.labels == FLOAT else by_sparse_labels(loss, classes)
    if "token_weights" in case.given:
        parts["gradient in token_weights"] = loss.by_token_weights
    return end_to_end(parts)


def loss_and_gradients(case: Case, loss: Any, *arguments: Any) -> jax.Array:
    """The loss, its parts and its gradients in the arguments, as `flattened` has them."""

    def pulled_back(*arguments):
        returned = loss(*arguments)
        value, parts = returned if "has_aux" in case.given else (returned, ())
        cotangents = jnp.asarray(COTANGENTS, value.dtype) if case.reduction == "none" else 1
        return jnp.sum(cotangents * value), (value, *parts)

    return with_gradients(pulled_back, *arguments)


def of_logits(case: Case, f: Any, x: Any, y: Any, u: Any, classes: Any) -> jax.Array:
    """The call over given logits."""
    given = {"logits": x} | differentiable(case, y, u)

    def loss(*values):
        named = dict(zip(given, values, strict=True))
        labels = as_labels(case, named.get("labels", y), classes)
        return f(named["logits"], labels, **case.keywords(x.dtype, named.get("token_weights")))

    return loss_and_gradients(case, loss, *given.values())


def differentiable(case: Case, y: Any, u: Any) -> dict[str, Any]:
    """Labels and token weights, where a gradient flows into them."""
    labels = {} if case.labels == INTEGER else {"labels": y}
    return labels | ({"token_weights": u} if "token_weights" in case.given else {})


def as_labels(case: Case, y: Any, classes: Any) -> Any:
    """Labels as the loss takes them."""
    return SparseLabels(classes, y) if case.labels == SPARSE else y


def dense(case: Case, y: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """Sparse labels as float labels (M31)."""
    return np.einsum("tk,tkv->tv", y, np.eye(_regimes.VOCAB)[classes]) if case.labels == SPARSE else y


def by_sparse_labels(loss: ExactLoss, classes: np.ndarray) -> Expected:
    """The gradient in the weights of sparse labels (M31)."""
    return loss.by_labels[np.arange(len(classes))[:, None], classes]


def of_logits_exactly(case: Case, x: np.ndarray, y: np.ndarray, u: np.ndarray, classes: np.ndarray) -> Expected:
    """What the call over given logits gives, in mpmath."""
    loss = exact_loss(case, x, dense(case, y, classes), u)
    return flattened(case, loss, {"gradient in logits": loss.by_logits}, classes)


def mistakes(case: Case, z: np.ndarray, y: np.ndarray, u: np.ndarray) -> Iterator[tuple[str, Expected]]:
    """What the loss comes to if a keyword changes nothing, or if a mean is taken over all tokens."""
    for keyword in sorted(case.given - WITHOUT_EFFECT_ON_LOSS):
        yield f"{keyword} changes nothing: the loss without it came", exact_loss(case.without(keyword), z, y, u).value
    if case.reduction == "mean" and case.given & WEIGHTING:
        total = exact_loss(replace(case, reduction="sum"), z, y, u).value.value
        yield "the mean is over all tokens, whatever their weights, ignored or not", itself(total / len(y))


def mistakes_of_logits(case: Case, x: np.ndarray, y: np.ndarray, u: np.ndarray, classes: np.ndarray) -> Iterator[Any]:
    """The mistakes in a row of inputs."""
    return mistakes(case, x, dense(case, y, classes), u)


def inputs(case: Case, dtype: str) -> list[Inputs]:
    """Six tokens."""
    x = _regimes.ordinary(dtype, rows=6, seed=33)
    return [Inputs(regime, (x[None], *labels)) for regime, labels in labels_of(case).items()]


def labels_of(case: Case) -> dict[str, tuple[np.ndarray, ...]]:
    """Labels, token weights and the classes of sparse labels: of integers some ignored, of others some of sum 1."""
    given = TOKEN_WEIGHTS[None], CLASSES[None]
    if case.labels == INTEGER:
        y = LABELS.copy()
        if case.sentinel is not None:
            y[[1, 3]] = case.sentinel
        return {"six tokens": (y[None], *given)}
    width = _regimes.VOCAB if case.labels == FLOAT else CLASSES.shape[1]
    drawn = np.random.default_rng(34).permuted(np.tile(np.arange(width) / 8.0, (6, 1)), axis=1)
    normalised = np.round(drawn / drawn.sum(1, keepdims=True) * 32) / 64
    normalised[:, 0] += 1 - normalised.sum(1)
    return {"labels of sum 1": (normalised[None], *given), "labels of another sum": (drawn[None], *given)}


of_tokens = partial(Claim, order=0, bound=6, dtypes=("float32",), rowwise=False, through=("jit",))


def of_each(
    function: str,
    quantity: str,
    given: Mapping[str, frozenset[str]],
    call: Callable[..., Any],
    oracle: Callable[..., Any],
    inputs: Callable[..., Any],
    mistakes: Callable[..., Any],
) -> Iterator[Claim]:
    """A claim about each of these sets of keywords, by name, which are the first argument of call, oracle, mistakes."""
    for name, keywords in given.items():
        yield of_tokens(
            function,
            f"{quantity}, {name}",
            call=partial(call, keywords),
            oracle=partial(oracle, keywords),
            inputs=inputs,
            mistakes=partial(mistakes, keywords),
            only_in_full=seldom_wrong(keywords),
        )


def narrowed(claim_of: Callable[[Case], Claim], case: Case, known: frozenset[str]) -> Claim | None:
    """The claim about a call with those of its keywords that a function has."""
    fewer = case.narrowed(known)
    return None if fewer is None else claim_of(fewer)


def _claim(case: Case) -> Claim:
    return of_tokens(
        LOSS,
        case.name,
        call=partial(of_logits, case),
        oracle=partial(of_logits_exactly, case),
        inputs=partial(inputs, case),
        mistakes=partial(mistakes_of_logits, case),
        requires="SparseLabels" if case.labels == SPARSE else "",
        may_refuse=FLOAT_LABELS if case.labels == FLOAT else "",
        only_in_full=case.only_in_full,
        narrowed=partial(narrowed, _claim, case) if len(case.given) > 1 else None,
    )


KEYWORDS = Theorem(
    "M27-keywords",
    "each keyword by itself",
    "each keyword of the loss by itself, and all together, with labels of each kind, of sum 1 or not, in each "
    "reduction: loss and gradients are those of M24-M27 and M31",
    "as M25",
    "a keyword that is taken and does nothing, or does so with one kind of labels or in one reduction alone; an "
    "ignore_index of 0 taken for none; a mean over all tokens",
    tuple(
        _claim(case)
        for kind in (INTEGER, FLOAT, SPARSE)
        for case in cases(kind, ALONE + (OF_INTEGERS if kind == INTEGER else ()))
    ),
)
