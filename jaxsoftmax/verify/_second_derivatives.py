"""Second derivatives with no keyword: of softmax and log-softmax, and of a mean, over logits and in the fused head."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxsoftmax.verify import _head_inputs, _regimes
from jaxsoftmax.verify._head_forms import HEAD, ExactHead, Setting
from jaxsoftmax.verify._oracle import ExactRow, Expected, exact
from jaxsoftmax.verify._theorem import Claim, Inputs, Theorem, derivative
from jaxsoftmax.verify._training_loss_forms import LOSS, Options

TOKENS = Setting(7, 3, _regimes.VOCAB, reduction="sum", options=Options("no keyword"), weighted=True)
THROUGH_PRODUCT = TOKENS.tokens * TOKENS.embed + TOKENS.embed * TOKENS.vocab


def along(f: Any, x: Any, g: Any, v: Any) -> Any:
    """<v, J^T g>, of a row or of each."""
    return jnp.sum(v * jax.vjp(f, x)[1](g)[0], -1)


def _product(row: ExactRow, v: np.ndarray) -> Expected:
    """J v, to the ulp of s_j (|v_j| + <s, |v|>)."""
    return Expected(row.jacobian @ v, row.probs * (np.abs(v) + np.dot(row.probs, np.abs(v))))


def of_softmax(x: np.ndarray, g: np.ndarray, v: np.ndarray) -> Expected:
    """The gradient of <v, J g> = <s, v g> - <s, v> <s, g>."""
    row, g, v = ExactRow(exact(x)), exact(g), exact(v)
    both, of_g, of_v = (_product(row, direction) for direction in (v * g, g, v))
    mean_v, mean_g = np.dot(row.probs, v), np.dot(row.probs, g)
    size_v, size_g = np.dot(row.probs, np.abs(v)), np.dot(row.probs, np.abs(g))
    return Expected(
        both.value - mean_v * of_g.value - mean_g * of_v.value,
        both.magnitude + size_v * of_g.magnitude + size_g * of_v.magnitude,
    )


def of_log_softmax(x: np.ndarray, g: np.ndarray, v: np.ndarray) -> Expected:
    """The gradient of <v, g - s sum(g)>."""
    product = _product(ExactRow(exact(x)), exact(v))
    return Expected(-sum(exact(g)) * product.value, sum(np.abs(exact(g))) * product.magnitude)


def two_directions(dtype: str) -> list[Inputs]:
    """Rows, each with two vectors."""
    regimes = {"ordinary": _regimes.ordinary(dtype), "ties": _regimes.ties(dtype)}
    return [Inputs(name, (x, _regimes.directions(x), _regimes.directions(x, 6))) for name, x in regimes.items()]


def of_mean(f: Any, x: Any, y: Any, v: Any) -> jax.Array:
    """The Hessian of the mean over tokens, times v."""
    return jax.jvp(jax.grad(lambda x: f(x, y)), (x,), (v,))[1]


def of_mean_exactly(x: np.ndarray, y: np.ndarray, v: np.ndarray) -> Expected:
    """J_t v_t / N (M15)."""
    del y
    rows = Expected.stack([_product(ExactRow(exact(z)), exact(d)) for z, d in zip(x, v, strict=True)])
    return Expected(rows.value / len(x), rows.magnitude / len(x))


def tokens(dtype: str) -> list[Inputs]:
    """Six tokens and a direction."""
    x = _regimes.ordinary(dtype, rows=6, seed=40)
    labels = np.array([0, 6, 2, 5, 4, 3], np.int32)
    return [Inputs("six tokens", (x[None], labels[None], _regimes.directions(x)[None]))]


def of_head(f: Any, theta: Any, v: Any, y: Any) -> jax.Array:
    """The Hessian of the head's mean in hidden states and kernel, times v."""

    def mean(theta):
        parts = TOKENS.parts(theta)
        return f(parts.hidden, parts.kernel, y)

    return jax.jvp(jax.grad(mean), (theta,), (v,))[1]


def of_head_exactly(theta: np.ndarray, v: np.ndarray, y: np.ndarray) -> Expected:
    """The same in mpmath: that of the sum with a bias of 0 and token weights of 1, over N."""
    n, bias = TOKENS.tokens, np.zeros(TOKENS.vocab)
    head = ExactHead(TOKENS, np.concatenate([theta, bias, np.ones(n)]), y)
    product = head.hessian_product(np.concatenate([v, bias, np.zeros(n)]))
    return Expected(product.value[:THROUGH_PRODUCT] / n, product.magnitude[:THROUGH_PRODUCT] / n)


def head_tokens(dtype: str) -> list[Inputs]:
    """Seven tokens and a direction in all of hidden states and kernel."""
    del dtype
    theta = _head_inputs.packed(*_head_inputs.drawn(TOKENS, 41)[:2])
    v = _regimes.directions(np.tile(theta, (2, 1)))[:1]
    return [Inputs("seven tokens", (theta[None], v, np.array([[0, 6, 2, 5, 4, 3, 1]], np.int32)))]


_OF_MEAN = "Hessian-vector product of the mean"
_of_data = partial(Claim, order=0, dtypes=("float32",), rowwise=False)

SECOND_DERIVATIVES = (
    Theorem(
        "M6-second",
        "second derivatives of softmax",
        "the gradient of <v, J g> is J (v g) - <s, v> J g - <s, g> J v, and that of <v, g - s sum(g)> is - sum(g) J v",
        "as M6, to the ulp of the three terms",
        "a rule that is right at first order only: s taken for a constant",
        (
            derivative("softmax", "derivative of the VJP", of_softmax, two_directions, 8, call=along),
            derivative("log_softmax", "derivative of the VJP", of_log_softmax, two_directions, 8, call=along),
        ),
    ),
    Theorem(
        "M15-mean",
        "Hessian of a mean",
        "the Hessian of a mean over N tokens is J_t / N, and that of logits X W follows by the chain rule",
        "as M15, in sums of T or V products",
        "a rule that is right at first order only; a 1 / N taken twice, or left out",
        (
            _of_data(LOSS, _OF_MEAN, call=of_mean, oracle=of_mean_exactly, inputs=tokens, bound=6),
            _of_data(HEAD, _OF_MEAN, call=of_head, oracle=of_head_exactly, inputs=head_tokens, bound=6),
        ),
    ),
)
