"""The fused head, from hidden states and a kernel to the loss: M16, M20, M24, M25, M27."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from jaxsoftmax.verify import _head_inputs
from jaxsoftmax.verify._exact_head import HEAD, ExactHead, Setting
from jaxsoftmax.verify._head_inputs import ALIKE, BLOCKS, EVERYTHING, NEAR_CERTAIN, PLAIN, RAGGED, TAILS
from jaxsoftmax.verify._oracle import end_to_end
from jaxsoftmax.verify._theorem import FLOAT32, Claim, Theorem

UNREDUCED = replace(EVERYTHING, reduction="none")
AT_ONCE = replace(EVERYTHING, chunk=None)
SUMMED = replace(AT_ONCE, reduction="sum")
COTANGENTS = np.array([1.0, -2.0, 0.5, 4.0, -1.0, 2.0, -0.25])


def value_of(setting: Setting):
    """The oracle of a setting's loss."""
    return lambda theta, y: ExactHead(setting, theta, y).value


def gradient_of(setting: Setting):
    """The oracle of a setting's gradient in theta."""
    return lambda theta, y: ExactHead(setting, theta, y).gradient


def product_of(setting: Setting):
    """The oracle of a setting's Hessian-vector product."""
    return lambda theta, v, y: ExactHead(setting, theta, y).hessian_product(v)


def pulled_back(f, theta, y):
    """<c, l> of the unreduced losses."""
    return jnp.dot(jnp.asarray(COTANGENTS, theta.dtype), replace(AT_ONCE, reduction="none").loss(f, theta, y))


def pulled_back_exactly(theta, y):
    """The gradient of the sum with weights c u; in u, c times that."""
    c = np.concatenate([np.ones(len(theta) - len(COTANGENTS)), COTANGENTS])
    weights = np.arange(len(theta)) >= len(theta) - len(COTANGENTS)
    return ExactHead(SUMMED, np.where(weights, c * theta, theta), y).gradient * c


def means(f, theta, y):
    """The mean and its gradient, of one data set or of each."""
    if theta.ndim == 1:
        return EVERYTHING.loss_and_gradient(f, theta, y)
    return jax.lax.map(lambda one: EVERYTHING.loss_and_gradient(f, *one), (theta, y))


def mean_exactly(theta, y):
    """The mean and its gradient of one data set, in high precision."""
    head = ExactHead(EVERYTHING, theta, y)
    return end_to_end({"loss": head.value} | head.gradients)


def bare_mean(f, theta, y):
    """The mean, of hidden states and kernel alone."""
    parts = TAILS.parts(theta)
    return f(parts.hidden, parts.kernel, y)


def bare_gradient(theta, y):
    """The gradient of `bare_mean`: the sum's, with bias 0, over N."""
    head = ExactHead(replace(TAILS, weighted=False), np.append(theta, np.zeros(TAILS.vocab)), y)
    of_arguments = {name: head.gradients[name] for name in ("gradient in hidden", "gradient in kernel")}
    return end_to_end(of_arguments) / TAILS.tokens


_of_one_set = partial(Claim, HEAD, dtypes=FLOAT32, rowwise=False)  # of data: theta and all labels make one row

HEAD_THEOREMS = (
    Theorem(
        "M16-head",
        "gradients of the fused head",
        "dX = G W^T, dW = X^T G, db = sum_t G in the fused head, by chunks of tokens and by blocks of classes of G; a "
        "label outside [0, V) makes its row of dX NaN, and dW and db",
        "sums of T or V products, to the ulp of their terms; entries of G as M11, to 4 ulps of themselves",
        "a ragged chunk dropped, or dW that of the last chunk alone; columns of logit 0 added to V; a label counted "
        "from its block's first class; the classes in which the last block overlaps another, twice",
        (
            _of_one_set("gradients", 1, PLAIN.loss, gradient_of(PLAIN), _head_inputs.plain, 6),
            _of_one_set("gradients, ragged", 1, RAGGED.loss, gradient_of(RAGGED), _head_inputs.ragged, 6),
            _of_one_set("gradients in blocks", 1, BLOCKS.loss, gradient_of(BLOCKS), _head_inputs.blocks, 6),
        ),
    ),
    Theorem(
        "M20-head",
        "tails in the fused head",
        "the fused head's G keeps its tails, s_y - 1 = expm1(-nll); of low-precision arrays it is formed and its "
        "products are summed in float32",
        "sums of V terms, to the ulp of their sizes; in low precision half an ulp for G, half for the sum",
        "p - 1, which is 0 from a gap of 17 on; in bfloat16 it has no digit right at p = 0.999 (Liger#1329), and sums "
        "stick",
        (
            _of_one_set("gradients in low precision", 1, NEAR_CERTAIN.loss, gradient_of(NEAR_CERTAIN),
                        _head_inputs.near_certain, 1, dtypes=("bfloat16",)),
            _of_one_set("gradients summed from low precision", 1, ALIKE.loss, gradient_of(ALIKE),
                        _head_inputs.equal_tokens, 1, dtypes=("bfloat16",)),
            _of_one_set("gradients with no keyword", 1, bare_mean, bare_gradient, _head_inputs.bare, 6),
            _of_one_set("gradients, and losses as those in the token weights", 1, TAILS.loss, gradient_of(TAILS),
                        _head_inputs.confident, 6),
        ),
    ),
    Theorem(
        "M24-head",
        "losses of the fused head",
        "the fused head's losses are (M24) of the logits hidden @ kernel + bias; NaN for a label outside [0, V) alone",
        "as M24",
        "as M24; a bias forgotten; losses in another order than the tokens; -1 wrapped to the last class",
        (_of_one_set("losses, everything on", 0, UNREDUCED.loss, value_of(UNREDUCED), _head_inputs.with_no_class, 6),),
    ),
    Theorem(
        "M27-head",
        "mean of the fused head",
        "the fused head's G is (M25) times the token's weight and cotangent; in the mean, over sum_t u_t w_{y_t}, and "
        "over nothing loss and gradients are 0; dl/du is M27's, and second derivatives are M15's",
        "as M25, in sums of T or V products",
        "a soft cap's slope or the z-loss left out of G; a mean over tokens, or with the ignored; 0 / 0 where all are; "
        "token weights that not every part gets, or without a gradient",
        (
            _of_one_set("VJP of the losses, everything on", 1, pulled_back, pulled_back_exactly, _head_inputs.weighted,
                        6, dtypes=("float64",),
                        textbook=lambda theta, y: jnp.dot(COTANGENTS, EVERYTHING.textbook(theta, y))),
            _of_one_set("Hessian-vector product, everything on", 0, SUMMED.hessian_product, product_of(SUMMED),
                        _head_inputs.moved, 6),
            Claim(HEAD, "mean and gradients, everything on", 0, means, mean_exactly, _head_inputs.some_or_all_ignored,
                  6, dtypes=FLOAT32),
        ),
    ),
)  # fmt: skip
