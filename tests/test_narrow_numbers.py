"""Numbers of narrow dtypes and subnormal ones are what they are: none is taken for 0 or NaN."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsoftmax import (
    SparseLabels,
    cross_entropy,
    distillation,
    forward_mode,
    linear_cross_entropy,
    linear_distillation,
    linear_token_stats,
    log_softmax,
    logsumexp,
    softmax,
    softmax_cross_entropy,
    token_stats,
)
from tests.tiers import in_tiers
from tests.tolerances import MP, exact, exact_softmax, exp

NARROW = ["float16", "bfloat16", "float8_e4m3fn", "float8_e5m2", "float8_e4m3b11fnuz"]


@pytest.mark.parametrize("dtype", NARROW)
def test_every_number_is_the_log_sum_exp_of_itself(dtype):
    dtype = jnp.dtype(dtype)
    numbers = np.arange(2 ** (8 * dtype.itemsize)).astype(f"uint{8 * dtype.itemsize}").view(dtype)
    got = np.asarray(jax.jit(lambda x: logsumexp(x[:, None], -1))(numbers))
    wide = numbers.astype(np.float32)
    # XLA takes the subnormals of bfloat16 for 0, as it does with those of float32.
    expected = np.where(abs(wide) < np.finfo(np.float32).tiny, 0, wide)
    np.testing.assert_array_equal(np.where(abs(wide) < np.finfo(np.float32).tiny, 0, got.astype(np.float32)), expected)


def test_losses_of_float16_see_logits_below_its_smallest_normal_number():
    row, label = np.array([6e-5, 0], np.float16), np.int32(0)
    first = np.array([1, 0], np.float16)
    kernel = np.array([[1.0, 0.0]], np.float16)

    def losses(row):
        return {
            "integer": cross_entropy(row, label),
            "float": softmax_cross_entropy(row, first),
            "forward mode": forward_mode.cross_entropy(row, label),
            "head": linear_cross_entropy(row[:1], kernel, label),
        }

    right = float(-MP.log(exact_softmax(row)[0]))
    for name, loss in jax.jit(losses)(row).items():
        np.testing.assert_allclose(loss, right, rtol=2e-7, err_msg=name)


def test_a_float16_weight_below_its_smallest_normal_number_counts():
    weight = np.array([3e-5], np.float16)
    got = jax.jit(lambda b: logsumexp(np.zeros(1, np.float16), b=b))(weight)
    np.testing.assert_array_equal(got, np.float16(np.log(np.float64(weight[0]))))


@pytest.mark.parametrize("dtype", ["float32", pytest.param("float64", marks=pytest.mark.slow)])
def test_a_subnormal_weight_counts(dtype):
    least = np.finfo(dtype).smallest_subnormal
    with jax.enable_x64(dtype == "float64"):
        a = np.array([[0, 1], [0, -np.log(least)], [2, 0]], dtype)
        b = np.array([[least, 0], [1, least], [-3 * least, 50 * least]], dtype)
        got, sign = jax.jit(lambda a, b: logsumexp(a, -1, b, return_sign=True))(a, b)
        sums = np.sum(exact(b) * exp(exact(a)), -1)
        np.testing.assert_allclose(got, np.float64([MP.log(abs(s)) for s in sums]), rtol=4 * np.finfo(dtype).eps)
        np.testing.assert_array_equal(sign, np.float64(np.sign(sums)))
        gradient = jax.jit(jax.grad(lambda a: logsumexp(a, b=b[2])))(a[2])
        terms = exact(b[2]) * exp(exact(a[2]))
        np.testing.assert_allclose(gradient, np.float64(terms / np.sum(terms)), rtol=8 * np.finfo(dtype).eps)


@in_tiers("cap", [1e39, 3e38, 1e30, 1e10], first=[1e39, 1e10])
def test_a_soft_cap_far_above_the_logits_changes_nothing(cap):
    row = np.float32([0.1, -3.0, 2.5])

    def both(**keywords):
        return jax.jit(jax.value_and_grad(lambda x: cross_entropy(x, np.int32(0), **keywords)))(row)

    for got, right in zip(both(logit_softcap=cap), both(), strict=True):
        np.testing.assert_allclose(got, right, rtol=4e-7)


@pytest.mark.parametrize(
    "function", [softmax, pytest.param(log_softmax, marks=pytest.mark.slow)], ids=lambda function: function.__name__
)
@pytest.mark.parametrize("dtype", ["float16", pytest.param("bfloat16", marks=pytest.mark.slow)])
def test_derivatives_of_narrow_logits_are_those_of_float32_rounded_once(dtype, function):
    def derivatives(x):
        return jax.jacrev(function)(x), jax.jacfwd(function)(x), jax.hessian(lambda x: function(x)[0])(x)

    row = np.array([0.5, -2, 1], jnp.dtype(dtype))
    got, right = jax.jit(lambda x: (derivatives(x), derivatives(x.astype(jnp.float32))))(row)
    for narrow, wide in zip(got, right, strict=True):
        assert narrow.dtype == row.dtype
        np.testing.assert_allclose(narrow.astype(np.float32), wide, rtol=jnp.finfo(dtype).eps, atol=1e-6)


HALF = jnp.ones((1, 1), "float16")
FLAT = SparseLabels(np.arange(256)[None], np.full((1, 256), 1 / 256, "float32"))  # each term small, their sum not
FAR = np.array([[0.0, 2000.0]], "float16")
# A kernel, the head of it, and the loss of its logits.
OF_LARGE_GRADIENT = {
    "many labels": (np.eye(1, 300, 299) * 20, lambda k, **o: linear_cross_entropy(HALF, k, FLAT, **o),
                    lambda z: cross_entropy(z, FLAT)),
    "z-loss": ([[3.0, 100.0]], lambda k, **o: linear_cross_entropy(HALF, k, np.array([0]), z_loss=1.0, **o),
               lambda z: cross_entropy(z, np.array([0]), z_loss=1.0)),
    "divergence": ([[0.0, 0.0]], lambda k: linear_distillation(HALF, k, HALF, FAR, divergence="reverse_kl"),
                   lambda z: distillation(z, FAR, divergence="reverse_kl")),
    "temperature": ([[0.0, 0.0]], lambda k: linear_token_stats(HALF, k, np.array([0]), temperature=0.003)[0][0],
                    lambda z: token_stats(z, np.array([0]), temperature=0.003)[0][0]),
}  # fmt: skip


@pytest.mark.parametrize("name", OF_LARGE_GRADIENT)
def test_a_float16_head_s_gradient_is_as_large_as_that_of_its_logits(name):
    kernel, head, loss = OF_LARGE_GRADIENT[name]
    kernel = jnp.asarray(kernel, "float16")
    got, expected = jax.jit(lambda k: (jax.grad(head)(k), jax.grad(loss)(k.astype(jnp.float32))))(kernel)
    assert np.all(np.isfinite(expected))
    np.testing.assert_allclose(np.float32(got), expected, rtol=2e-3, atol=1e-6)


def test_a_float16_head_in_blocks_of_classes_has_the_gradient_of_one_chunk():
    kernel, head, _ = OF_LARGE_GRADIENT["z-loss"]
    gradients = jax.jit(lambda k: [jax.grad(each)(k) for each in (partial(head, memory_budget=1), head)])
    blocks, whole = map(np.float32, gradients(jnp.asarray(kernel, "float16")))
    np.testing.assert_allclose(blocks, whole, rtol=1e-3)
