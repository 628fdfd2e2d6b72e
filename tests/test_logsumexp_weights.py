"""Log-sum-exp of weighted elements: exact tails, signs, and gradients in elements and weights (M18)."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsoftmax import forward_mode, logsumexp
from tests.tolerances import (
    FINITE_DIFFERENCE,
    FINITE_ROWS,
    ORDINARY_ROWS,
    array,
    assert_close,
    exact,
    exp,
    finite_differences,
    log,
    precision,
)

WEIGHTED = jax.jit(lambda a, b, where=None: logsumexp(a, -1, b, return_sign=True, where=where))
WEIGHTED_GRADIENTS = jax.jit(
    jax.vmap(jax.grad(lambda a, b: logsumexp(a, b=b, return_sign=True)[0], argnums=(0, 1)), (0, 0))
)

# Summands far apart in size, in both their weights and their exponents.
TAILS = {  # a, b
    "weight 1e-9": ([0.0, 0.0], [1.0, 1e-9]),
    "weight 1e-9 on the maximum": ([0.0, 5.0], [1.0, 1e-9]),
    "weight 1e-30 on the maximum": ([0.0, 40.0], [1.0, 1e-30]),
    "weights that even the exponents out": ([0.0, 69.0], [1.0, 1e-30]),
    "weights of 1e-30": ([0.0, -40.0], [1e-30, 1e-30]),
    "weights 60 orders apart": ([0.0, 100.0], [1e30, 1e-30]),
    "a sum near 1": ([0.0, -20.0], [1.0, -1.0]),
    "a sum near -1": ([0.0, -20.0], [-1.0, 1.0]),
    "a sum of 1 and -1/2": ([0.0, 0.0], [1.0, -0.5]),
    "a tail under a weight 0": ([0.0, 90.0], [1.0, 0.0]),
    "weights whose sum overflows": ([0.0, 0.0], [1e38, 1e38]),
    "weights 68 orders apart": ([0.0, -200.0], [1e-30, 1e38]),
    "weights and exponents that cancel": ([0.0, -100.0], [1e-20, 1e20]),
    "a weight that the exponent makes the larger": ([0.0, 95.0], [1e12, 1e-30]),
    "exponents in the thousands": ([9000.25, 9100.5], [-1e15, 1e-30]),
}

on_every_tail = pytest.mark.parametrize("tail", TAILS)


def tail_in(dtype, tail):
    return tuple(array([values], dtype) for values in TAILS[tail])


def exact_weighted(a, b):
    return np.sum(exact(b) * exp(exact(a)), -1)


@on_every_tail
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_weighted_sum_keeps_its_tails(dtype, tail):  # (M18)
    with precision(dtype):
        a, b = tail_in(dtype, tail)
        total = exact_weighted(a, b)
        log_size, sign = WEIGHTED(a, b)
        assert_close(log_size, log(abs(total)), dtype)
        np.testing.assert_array_equal(sign, np.sign(total).astype(float))


@pytest.mark.parametrize("tail", [tail for tail in TAILS if "60 orders" not in tail])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_gradients_of_a_weighted_sum_are_its_summands_over_it(dtype, tail):
    with precision(dtype):
        a, b = tail_in(dtype, tail)
        total = exact_weighted(a, b)[..., None]
        by_a, by_b = WEIGHTED_GRADIENTS(a, b)
        assert_close(by_a, exact(b) * exp(exact(a)) / total, dtype)
        slopes = exp(exact(a)) / total
        overflows = abs(slopes) > float(jnp.finfo(dtype).max)
        assert_close(by_b, np.where(overflows, exact(np.inf), slopes), dtype)


@pytest.mark.parametrize("argument", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_gradients_are_the_limits_of_difference_quotients(argument):
    with precision("float64"):
        a, b = np.array(ORDINARY_ROWS[0]), np.array([1.0, -0.5, 2.0, 0.75, -1.5])

        def of_one(values):
            return logsumexp(values, b=b) if argument == 0 else logsumexp(a, b=values)

        quotients = finite_differences(of_one, (a, b)[argument])
        np.testing.assert_allclose(jax.jit(jax.grad(of_one))((a, b)[argument]), quotients, atol=FINITE_DIFFERENCE)


def test_gradients_are_autodiff_of_the_textbook_formula():
    def textbook(a, b):
        return jnp.log(jnp.sum(b * jnp.exp(a), -1))

    def gradients(function):
        return jax.jit(jax.grad(lambda a, b: jnp.sum(function(a, b)), (0, 1)))(np.array(ORDINARY_ROWS), weights)

    with precision("float64"):
        weights = np.array([1.0, -0.125, 2.0, 0.75, 0.5])
        expected = gradients(textbook)
        for got, judge in zip(gradients(lambda a, b: logsumexp(a, -1, b)), expected, strict=True):
            np.testing.assert_allclose(got, judge, rtol=1e-14)


def test_weight_0_has_a_gradient_though_its_element_has_none():
    with precision("float64"):
        by_a, by_b = WEIGHTED_GRADIENTS(np.array([[0.0, 1.0]]), np.array([[1.0, 0.0]]))
        np.testing.assert_array_equal(by_a, [[1.0, 0.0]])
        np.testing.assert_allclose(by_b, [[1.0, np.e]], rtol=1e-15)


def test_negative_sum_without_its_sign_is_nan_with_gradient_nan():
    summed = jax.jit(jax.value_and_grad(lambda a, b: logsumexp(a, b=b)))
    value, gradient = summed(array([0.0, 1.0], "float32"), array([1.0, -1.0], "float32"))
    assert np.isnan(value)
    assert np.isnan(gradient).all()


def test_weighted_hessian_is_that_of_the_textbook_formula():
    b = np.array([1.0, -0.125, 2.0, 0.75, 0.5])

    def textbook(a):
        return jnp.log(jnp.sum(b * jnp.exp(a)))

    with precision("float64"):
        a = np.array(FINITE_ROWS[0])
        ours = (lambda a: logsumexp(a, b=b), lambda a: forward_mode.logsumexp(a, b=b))
        expected = jax.jit(jax.hessian(textbook))(a)
        for function in ours:
            np.testing.assert_allclose(jax.jit(jax.hessian(function))(a), expected, rtol=1e-13, atol=1e-15)


@pytest.mark.parametrize(
    ("a", "b", "log_size", "sign"),
    [
        ([np.inf, np.inf], [-1.0, 1.0], np.nan, np.nan),
        ([0.0, 0.0], [-np.inf, np.inf], np.nan, np.nan),
        ([0.0, 1.0], [np.inf, 1.0], np.inf, 1.0),
        ([np.inf, 1.0], [-1.0, 1.0], np.inf, -1.0),
        ([np.inf, 1.0], [1.0, 0.0], np.inf, 1.0),
        ([np.nan, 2.0], [0.0, 1.0], 2.0, 1.0),
        ([np.nan, 2.0], [1.0, 1.0], np.nan, np.nan),
    ],
)
def test_infinite_summands_of_both_signs_are_nan_and_of_one_infinite(a, b, log_size, sign):
    got = WEIGHTED(array([a], "float32"), array([b], "float32"))
    np.testing.assert_array_equal(np.concatenate(got), [log_size, sign])


def test_second_derivatives_in_the_weights_see_a_weight_of_0():
    def gradient(b, a):
        return jax.grad(lambda b: logsumexp(a, b=b))(b)

    direction = np.float32([0, 1e20])
    hvp = jax.jit(lambda b: jax.jvp(lambda b: gradient(b, np.zeros(2, np.float32)), (b,), (direction,))[1])
    np.testing.assert_allclose(hvp(np.float32([1e15, 0])), [-1e-10, -1e-10], rtol=1e-6)
    hessian = jax.jit(jax.jacrev(gradient))(np.float32([1, 0]), np.float32([0, -50]))
    far = np.exp(np.float64(-50))
    np.testing.assert_allclose(hessian, [[-1, -far], [-far, -(far**2)]], rtol=1e-6, atol=1e-40)
