"""Products with the Jacobian of softmax where almost all of a direction is one number (M21).

Of a row with a dominant entry k each entry is s_j (h_j - <s, h>) with h_j = v_j - v_k: exact to its own last bits, and
those that cancel in <s, h>.
"""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxsoftmax
from jaxsoftmax import forward_mode
from jaxsoftmax._reduction import blocked_cpu
from tests.tolerances import MP, exact, exp

RNG = np.random.default_rng(3)
WIDTH = 96


def _rows():
    """Rows with a dominant entry, and directions most of whose entries are equal to that at it."""
    x, v = np.full((24, WIDTH), -17, np.float32), np.ones((24, WIDTH), np.float32)
    x[8:16] -= RNG.integers(0, 80, (8, WIDTH)) / 4
    x[16:] = 8 * RNG.standard_normal((8, WIDTH)) - 40
    x[np.arange(24), RNG.integers(0, WIDTH, 24)] = 0
    v[::3] = RNG.integers(-2, 3, (8, WIDTH))
    v[1::3, ::32] += 1
    v[2::3] += RNG.standard_normal((8, WIDTH)) * (RNG.random((8, WIDTH)) < 0.1)
    return x, v.astype(np.float32)


X, V = _rows()
LABEL, WEIGHTS = np.int32(5), np.float32(np.arange(WIDTH) / np.sum(np.arange(WIDTH)))
# Hessian times a direction: that of each loss is a multiple of the Jacobian of softmax.
HESSIANS = {
    "logsumexp": (jaxsoftmax.logsumexp, 1),
    "integer label": (lambda x: jaxsoftmax.softmax_cross_entropy_with_integer_labels(x, LABEL), 1),
    "float labels": (lambda x: jaxsoftmax.softmax_cross_entropy(x, WEIGHTS), np.sum(WEIGHTS, dtype=np.float64)),
    "training loss": (lambda x: jaxsoftmax.cross_entropy(x, LABEL), 1),
    "forward mode": (lambda x: forward_mode.cross_entropy(x, LABEL), 1),
}


@cache
def products():
    """The exact products, and in ulps of 1 what they may be off."""
    bound, right = np.zeros(X.shape), np.zeros(X.shape, object)
    for row, (x, v) in enumerate(zip(X, V, strict=True)):
        e = exp(exact(x))
        s = e / np.sum(e)
        h = exact(v) - MP.mpf(float(v[np.argmax(x)]))
        right[row] = s * (h - np.sum(s * h))
        bound[row] = np.float64(8 * (abs(right[row]) + s * np.sum(s * abs(h))))
    return right, bound


def assert_product(got, scale=1):
    right, bound = products()
    off = np.float64(abs(exact(np.asarray(got)) - scale * right))
    info = np.finfo(np.float32)
    assert np.max(off / (scale * bound * info.eps + info.smallest_normal)) <= 1


def computed(monkeypatch, schedule):
    """Every product by a schedule, in one program."""
    if schedule == "default":
        monkeypatch.setattr(blocked_cpu, "_on_one_device", lambda: False)
    jax.clear_caches()

    def of_row(x, v):
        products = {name: jax.jvp(jax.grad(loss), (x,), (v,))[1] for name, (loss, _) in HESSIANS.items()}
        products["JVP"] = jax.jvp(jaxsoftmax.softmax, (x,), (v,))[1]
        products["VJP"] = jax.vjp(jaxsoftmax.softmax, x)[1](v)[0]
        products["VJP, masked"] = jax.vjp(lambda x: jaxsoftmax.softmax(x, where=x > -jnp.inf), x)[1](v)[0]
        products["log_softmax"] = jnp.exp(x) * jax.jvp(jaxsoftmax.log_softmax, (x,), (v,))[1]
        return products

    rows = jax.jit(jax.vmap(of_row))(X, V)
    of_columns = jax.jit(lambda x, v: jax.vjp(lambda x: jaxsoftmax.softmax(x, 0), x)[1](v)[0])
    return rows | {"along axis 0": of_columns(X.T, V.T).T}


@pytest.mark.parametrize("schedule", ["CPU", pytest.param("default", marks=pytest.mark.slow)])
def test_products_keep_their_tails_where_directions_are_equal_to_that_of_the_dominant_entry(schedule, monkeypatch):
    got = computed(monkeypatch, schedule)
    logsumexp = np.log1p([np.sum(np.delete(np.exp(np.float64(x)), np.argmax(x))) for x in X])
    got["log_softmax"] = got["log_softmax"] * np.exp(-logsumexp)[:, None].astype(np.float32)
    for name, product in got.items():
        assert_product(product, HESSIANS.get(name, (None, 1))[1])


def test_a_product_whose_mean_cancels_is_caught():
    x, v = jnp.asarray(X), jnp.asarray(V)
    s = jax.nn.softmax(x)
    top = jnp.argmax(x, -1, keepdims=True)
    others = jnp.where(jnp.arange(WIDTH) == top, 0, s)
    at_top = jnp.take_along_axis(v, top, -1)
    mean = jnp.sum(others * v, -1, keepdims=True) - at_top * jnp.sum(others, -1, keepdims=True)
    with pytest.raises(AssertionError):
        assert_product(s * ((v - at_top) - mean))
