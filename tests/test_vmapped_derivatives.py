"""Derivatives along several directions at once are those of the closed forms, of many rows too.

XLA CPU of jaxlib 0.10.2 adds up wrong entries where a vmapped sum over a row is fused with what is not vmapped, from
some thousand entries on (jax#39103).
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

import jaxsoftmax
from jaxsoftmax import analytic, forward_mode
from tests.tiers import in_tiers

SHAPES = [(3, 50_000, 10), (40, 3000, 2), (4, 1024, 300), (6, 7, 5000)]  # directions, rows, classes
TELLING = (40, 3000, 2)  # without their guards against it the functions go wrong here
ATOL = 4e-6  # entries of up to 6, of float32; a wrong one is off by 0.1 and more


in_every_shape = in_tiers("shape", SHAPES, first=[TELLING])


def labels_of(x):
    return jnp.arange(len(x)) % x.shape[-1]


def targets_of(x):
    return jax.nn.softmax(jnp.flip(x, -1))


def loss(library, labels_of, x, **options):
    return library.cross_entropy(x, labels_of(jax.lax.stop_gradient(x)), reduction="sum", **options)


def jvp(function):
    return lambda x, v: jax.jvp(function, (x,), (v,))[1]


def vjp(function):
    return lambda x, v: jax.vjp(function, x)[1](v)[0]


def forward_over_reverse(function):
    return jvp(jax.grad(function))


def reverse_over_reverse(function):
    return lambda x, v: jax.grad(lambda z: jnp.vdot(jax.grad(function)(z), v))(x)


def sum_of_lse(x):
    return jnp.sum(jaxsoftmax.logsumexp(x, axis=-1))


LOSSES = {
    "integer labels": partial(loss, jaxsoftmax, labels_of),
    "float labels": partial(loss, jaxsoftmax, targets_of),
    "forward-mode variant": partial(loss, forward_mode, labels_of),
    "logsumexp": sum_of_lse,
}
HESSIAN_PRODUCTS = {  # each is diag(s) - s s^T times v in every row (M5, M9, M15)
    "jvp of softmax": jvp(jaxsoftmax.softmax),
    "vjp of softmax": vjp(jaxsoftmax.softmax),
    "analytic.softmax_jvp": analytic.softmax_jvp,
    "analytic.cross_entropy_hvp": lambda x, v: analytic.cross_entropy_hvp(x, labels_of(x), v),
    **{f"forward over reverse, {name}": forward_over_reverse(function) for name, function in LOSSES.items()},
    **{f"reverse over reverse, {name}": reverse_over_reverse(function) for name, function in LOSSES.items()},
}


FIRST = ["vjp of softmax", "forward over reverse, integer labels", "analytic.cross_entropy_hvp"]


def rows_and_directions(shape):
    rng = np.random.default_rng(0)
    return rng.normal(scale=2.0, size=shape[1:]).astype(np.float32), rng.normal(size=shape).astype(np.float32)


def along_all(product, x, directions):
    return np.asarray(jax.jit(jax.vmap(product, (None, 0)))(x, directions))


def probabilities(x):
    e = np.exp(x.astype(np.float64) - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


@in_every_shape
@in_tiers("name", HESSIAN_PRODUCTS, FIRST)
def test_vmapped_product_is_the_jacobian_of_softmax_times_each_direction(name, shape):
    x, v = rows_and_directions(shape)
    s = probabilities(x)
    expected = s * (v - np.sum(s * v, -1, keepdims=True))
    np.testing.assert_allclose(along_all(HESSIAN_PRODUCTS[name], x, v), expected, rtol=0, atol=ATOL)


@in_every_shape
def test_vmapped_log_softmax_derivatives_are_those_of_each_direction(shape):
    x, v = rows_and_directions(shape)
    s = probabilities(x)
    pushed = v - np.sum(s * v, -1, keepdims=True)  # (M10)
    pulled = v - s * np.sum(v, -1, keepdims=True, dtype=np.float64)
    np.testing.assert_allclose(along_all(jvp(jaxsoftmax.log_softmax), x, v), pushed, rtol=0, atol=ATOL)
    np.testing.assert_allclose(along_all(vjp(jaxsoftmax.log_softmax), x, v), pulled, rtol=0, atol=ATOL)
