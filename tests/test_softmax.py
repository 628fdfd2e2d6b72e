"""Softmax and log-softmax: the values, and the Jacobian that their rules spell out (M4-M7, M10, M21)."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsoftmax import log_softmax, softmax
from tests.tolerances import (
    FINITE_DIFFERENCE,
    FINITE_ROWS,
    ORDINARY_ROWS,
    ROWS,
    array,
    assert_close,
    exact,
    exact_softmax,
    exact_softmax_jacobian,
    finite_differences,
    in_every_dtype,
    log,
    precision,
)

FUNCTIONS = {"softmax": softmax, "log_softmax": log_softmax}
JAX_NN = {name: getattr(jax.nn, name) for name in FUNCTIONS}
INF, NAN = np.inf, np.nan
TWO_LOGITS = [[gap, 0.0] for gap in (0.0, 1.0, 10.0, 40.0, 80.0, 300.0, 700.0)]
NOT_NUMBERS = [[NAN, 0.0, -INF, 0.0, 0.0], [INF, 0.0, -INF, 0.0, 0.0], [INF, INF, 0.0, 0.0, 0.0]]
FOUR_EQUAL, NONE = [0.0, 0.0, 0.0, 0.0, -INF], [-INF] * 5
EVERY_ROW = [*ROWS, *NOT_NUMBERS, FOUR_EQUAL, NONE]

in_both_modes = pytest.mark.parametrize("mode", ["forward", "reverse"])
of_both = pytest.mark.parametrize("name", FUNCTIONS)


@jax.jit
def evaluate(rows):
    """Values and both Jacobians of both functions, compiled together."""
    return {
        name: {"values": f(rows), "forward": jax.vmap(jax.jacfwd(f))(rows), "reverse": jax.vmap(jax.jacrev(f))(rows)}
        for name, f in FUNCTIONS.items()
    }


@cache
def outcomes(dtype):
    with precision(dtype):
        return jax.tree.map(np.asarray, evaluate(array(EVERY_ROW, dtype)))


def outcome(dtype, name, kind, rows):
    """What came of some of the rows."""
    return outcomes(dtype)[name][kind][[EVERY_ROW.index(row) for row in rows]]


def textbook_softmax(x):
    e = jnp.exp(x)
    return e / jnp.sum(e, -1, keepdims=True)


def textbook_log_softmax(x):
    return jnp.log(textbook_softmax(x))


TEXTBOOK = {"softmax": textbook_softmax, "log_softmax": textbook_log_softmax}


@cache
def judged():
    """Autodiff of the textbook formulas, once and twice, and second derivatives of the functions."""

    @jax.jit
    def derivatives(rows):
        return {
            name: {
                "first": jax.vmap(jax.jacfwd(TEXTBOOK[name]))(rows),
                "second": jax.jacfwd(jax.jacfwd(TEXTBOOK[name]))(rows[0]),
                "second of ours": jax.jacfwd(jax.jacrev(f))(rows[0]),
            }
            for name, f in FUNCTIONS.items()
        }

    with precision("float64"):
        return derivatives(np.array(ORDINARY_ROWS))


@in_every_dtype
def test_softmax_is_exponentials_over_their_sum(dtype):  # (M4)
    assert_close(outcome(dtype, "softmax", "values", ROWS), exact_softmax(array(ROWS, dtype)), dtype)


@in_every_dtype
def test_log_softmax_is_the_logarithm_of_softmax(dtype):  # (M10)
    probs = exact_softmax(array(ROWS, dtype))
    logarithms = np.where(probs == 0, exact(-np.inf), log(np.where(probs == 0, 1, probs)))
    assert_close(outcome(dtype, "log_softmax", "values", ROWS), logarithms, dtype)


@in_both_modes
@in_every_dtype
def test_softmax_jacobian_is_diag_s_minus_s_s_transposed(dtype, mode):  # (M5, jax#40344)
    assert_close(outcome(dtype, "softmax", mode, ROWS), exact_softmax_jacobian(array(ROWS, dtype)), dtype)


@in_both_modes
@pytest.mark.parametrize("dtype", ["bfloat16", "float32", "float64"])
def test_log_softmax_jacobian_is_the_identity_minus_1_s_transposed(dtype, mode):  # (M10)
    expected = exact(np.eye(5)) - exact_softmax(array(FINITE_ROWS, dtype))[:, None, :]
    assert_close(outcome(dtype, "log_softmax", mode, FINITE_ROWS), expected, dtype)


@of_both
def test_jacobian_is_autodiff_of_the_textbook_formula(name):
    got, judge = outcome("float64", name, "reverse", ORDINARY_ROWS), judged()[name]["first"]
    np.testing.assert_allclose(got, judge, rtol=1e-14, atol=1e-15)  # the judge's own rounding


@of_both
def test_second_derivative_is_that_of_the_textbook_formula(name):
    got, judge = judged()[name]["second of ours"], judged()[name]["second"]
    np.testing.assert_allclose(got, judge, rtol=1e-13, atol=1e-15)  # the judge's own rounding


def test_jacobians_are_limits_of_difference_quotients():
    with precision("float64"):
        quotients = finite_differences(lambda x: jnp.stack([softmax(x), log_softmax(x)]), np.array(ORDINARY_ROWS[0]))
    jacobians = [outcome("float64", name, "reverse", ORDINARY_ROWS[:1])[0] for name in FUNCTIONS]
    np.testing.assert_allclose(jacobians, quotients, rtol=0, atol=FINITE_DIFFERENCE)


@in_every_dtype
def test_softmax_sums_to_1_where_every_probability_is_a_power_of_2(dtype):
    assert np.sum(outcome(dtype, "softmax", "values", [FOUR_EQUAL]).astype(np.float64)) == 1


@pytest.mark.parametrize("jacobian_of", [jax.jacrev, pytest.param(jax.jacfwd, marks=pytest.mark.slow)])
def test_softmax_jacobian_of_two_logits_has_rows_that_sum_to_0_to_the_last_bit(jacobian_of):  # (M6, jax#40344)
    with precision("float64"):
        jacobian = np.asarray(jax.jit(jax.vmap(jacobian_of(softmax)))(np.array(TWO_LOGITS)))
    off = np.abs(jacobian.sum(-1)) / np.spacing(np.abs(jacobian).max(-1))
    assert (off <= 1).all()  # the exponential is formed twice, for the row's state and for the product
    assert (jacobian != 0).all()


def test_softmax_jacobian_is_symmetric():  # (M6)
    jacobian = outcome("float64", "softmax", "reverse", ROWS)
    assert_close(jacobian, jacobian.mT, "float64")


def test_softmax_jvp_equals_its_vjp():  # (M6)
    @jax.jit
    def products(x, v):
        return jax.jvp(softmax, (x,), (v,))[1], jax.vjp(softmax, x)[1](v)[0]

    with precision("float64"):
        v = np.broadcast_to([0.75, -1.5, 0.25, 2.0, -0.125], (len(ROWS), 5))
        by_jvp, by_vjp = products(np.array(ROWS), v)
        np.testing.assert_allclose(by_vjp, by_jvp, rtol=1e-14, atol=0)


@of_both
def test_adding_a_constant_to_every_logit_changes_no_bit(name):  # (M7)
    shifted = np.array(ORDINARY_ROWS[0]) + np.array([[0.0], [-1e4], [1e4], [2.0**40]])
    with precision("float64"):
        shifts = evaluate(np.resize(shifted, (len(EVERY_ROW), 5)))[name]  # in the shape that is compiled
    for result in map(np.asarray, (shifts["values"], shifts["reverse"])):
        np.testing.assert_array_equal(result, np.broadcast_to(result[0], result.shape))


@of_both
def test_row_with_nan_or_plus_infinity_is_nan_throughout(name):
    theirs = jax.jit(JAX_NN[name])(array(NOT_NUMBERS, "float32"))
    for values in (outcome("float32", name, "values", NOT_NUMBERS), theirs):
        np.testing.assert_array_equal(values, np.full((3, 5), np.nan))


@in_every_dtype
def test_softmax_of_minus_infinities_is_0_with_gradient_0(dtype):  # (jax#6811)
    for kind in ("values", "forward", "reverse"):
        np.testing.assert_array_equal(outcome(dtype, "softmax", kind, [NONE]), 0)


@in_every_dtype
def test_log_softmax_of_minus_infinities_is_minus_infinity(dtype):
    np.testing.assert_array_equal(outcome(dtype, "log_softmax", "values", [NONE]), -np.inf)


def test_scaling_inside_the_same_jit_keeps_the_tail_of_log_softmax():
    def scaled(h):
        return 1.1 * h

    h = array(np.random.default_rng(0).normal(size=(256, 8)) + 30 * np.eye(8)[0], "float32")
    logits = np.asarray(jax.jit(scaled)(h), np.float64)
    tail = -np.log1p(np.sum(np.exp(logits[:, 1:] - logits[:, :1]), -1))
    got = np.asarray(jax.jit(lambda h: log_softmax(scaled(h)))(h))[:, 0]
    # XLA rounds 1.1 h - m once, not twice: a difference of 30 to 64 moves by 2^-19, 32 ulps of its exponential.
    assert_close(got, tail, "float32", 32)


@of_both
def test_multiplying_to_bfloat16_inside_the_same_jit_rounds_once(name):
    """XLA may skip the rounding of an intermediate, but not in one place and not in another."""
    rng = np.random.default_rng(0)
    hidden, kernel = array(4 * rng.normal(size=(64, 32)), "bfloat16"), array(rng.normal(size=(32, 16)), "bfloat16")
    probs = exact_softmax(jax.jit(jnp.matmul)(hidden, kernel))
    expected = {"softmax": probs, "log_softmax": log(probs)}[name]
    got = jax.jit(lambda hidden, kernel: FUNCTIONS[name](hidden @ kernel))(hidden, kernel)
    assert_close(got, expected, "bfloat16")
