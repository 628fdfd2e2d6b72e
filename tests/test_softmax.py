"""Softmax and log-softmax: the values, and the Jacobian that their rules spell out (M4-M7, M10, M21)."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsoftmax import log_softmax, softmax
from tests.tolerances import (
    DTYPES,
    FINITE_DIFFERENCE,
    FINITE_ROWS,
    ORDINARY_ROWS,
    ROWS,
    array,
    assert_close,
    exact,
    exact_softmax,
    finite_differences,
    log,
    precision,
    ulps,
)

VALUES = {f: jax.jit(f, static_argnames="axis") for f in (softmax, log_softmax)}
JAX_NN = {f: jax.jit(getattr(jax.nn, f.__name__), static_argnames="axis") for f in (softmax, log_softmax)}
MODES = {"forward": jax.jacfwd, "reverse": jax.jacrev}
JACOBIANS = {
    (f, mode): jax.jit(jax.vmap(jac(f), (0, None, None)), static_argnums=1)
    for f in (softmax, log_softmax)
    for mode, jac in MODES.items()
}
X = np.random.default_rng(0).normal(size=(2, 3, 5))
MASK = np.random.default_rng(1).random((2, 3, 5)) < 0.7

in_every_dtype = pytest.mark.parametrize("dtype", DTYPES)
in_both_modes = pytest.mark.parametrize("mode", MODES)
of_both = pytest.mark.parametrize("function", [softmax, log_softmax])


def jacobians(function, rows, mode="reverse", where=None):
    return JACOBIANS[function, mode](rows, -1, where)


def textbook_softmax(x):
    e = jnp.exp(x)
    return e / jnp.sum(e, -1, keepdims=True)


def textbook_log_softmax(x):
    return jnp.log(textbook_softmax(x))


TEXTBOOK = {softmax: textbook_softmax, log_softmax: textbook_log_softmax}


def exact_softmax_jacobians(x):
    s = exact_softmax(x)
    return s[..., :, None] * exact(np.eye(s.shape[-1])) - s[..., :, None] * s[..., None, :]


@in_every_dtype
def test_softmax_is_exponentials_over_their_sum(dtype):  # (M4)
    with precision(dtype):
        x = array(ROWS, dtype)
        assert_close(VALUES[softmax](x), exact_softmax(x), dtype)


@in_every_dtype
def test_log_softmax_is_the_logarithm_of_softmax(dtype):  # (M10)
    with precision(dtype):
        x = array(ROWS, dtype)
        probs = exact_softmax(x)
        logarithms = np.where(probs == 0, exact(-np.inf), log(np.where(probs == 0, 1, probs)))
        assert_close(VALUES[log_softmax](x), logarithms, dtype)


@in_both_modes
@in_every_dtype
def test_softmax_jacobian_is_diag_s_minus_s_s_transposed(dtype, mode):  # (M5, jax#40344)
    with precision(dtype):
        x = array(ROWS, dtype)
        assert_close(jacobians(softmax, x, mode), exact_softmax_jacobians(x), dtype)


@in_both_modes
@pytest.mark.parametrize("dtype", ["bfloat16", "float32", "float64"])
def test_log_softmax_jacobian_is_the_identity_minus_1_s_transposed(dtype, mode):  # (M10)
    with precision(dtype):
        x = array(FINITE_ROWS, dtype)
        expected = exact(np.eye(5)) - exact_softmax(x)[:, None, :]
        assert_close(jacobians(log_softmax, x, mode), expected, dtype)


@of_both
def test_jacobian_is_autodiff_of_the_textbook_formula(function):
    with precision("float64"):
        x = np.array(ORDINARY_ROWS)
        judge = jax.jit(jax.vmap(jax.jacfwd(TEXTBOOK[function])))(x)
        np.testing.assert_allclose(jacobians(function, x), judge, rtol=1e-14, atol=1e-15)  # the judge's own rounding


@of_both
def test_jacobian_is_the_limit_of_difference_quotients(function):
    with precision("float64"):
        x = np.array(ORDINARY_ROWS[:1])
        quotients = finite_differences(function, x[0])
        np.testing.assert_allclose(jacobians(function, x)[0], quotients, rtol=0, atol=FINITE_DIFFERENCE)


@in_every_dtype
def test_softmax_sums_to_1_where_every_probability_is_a_power_of_2(dtype):
    with precision(dtype):
        assert np.sum(np.asarray(VALUES[softmax](array([[0, 0, 0, 0, -np.inf]] * 10, dtype)), np.float64)) == 10


@in_both_modes
def test_softmax_jacobian_of_two_logits_has_rows_that_sum_to_exactly_0(mode):  # (M6, jax#40344)
    gaps = np.array([0.0, 1.0, 10.0, 40.0, 80.0, 300.0, 700.0])
    with precision("float64"):
        jacobian = np.asarray(jacobians(softmax, np.stack([gaps, 0 * gaps], -1), mode))
        assert (jacobian[:, :, 0] == -jacobian[:, :, 1]).all()
        assert (jacobian != 0).all()


def test_softmax_jacobian_is_symmetric():  # (M6)
    with precision("float64"):
        jacobian = jacobians(softmax, np.array(ROWS))
        assert ulps(jacobian, jacobian.mT, "float64") <= 4


def test_softmax_jvp_equals_its_vjp():  # (M6)
    with precision("float64"):
        x, v = np.array(ROWS), np.array([0.75, -1.5, 0.25, 2.0, -0.125])
        by_jvp = jax.jit(lambda x: jax.jvp(softmax, (x,), (jnp.broadcast_to(v, x.shape),))[1])(x)
        by_vjp = jax.jit(lambda x: jax.vjp(softmax, x)[1](jnp.broadcast_to(v, x.shape))[0])(x)
        np.testing.assert_allclose(by_vjp, by_jvp, rtol=1e-14, atol=0)


@of_both
def test_adding_a_constant_to_every_logit_changes_no_bit(function):  # (M7)
    with precision("float64"):
        shifted = np.array(ORDINARY_ROWS[:1]) + np.array([[0.0], [-1e4], [1e4], [2.0**40]])
        values, derivatives = VALUES[function](shifted), jacobians(function, shifted)
        np.testing.assert_array_equal(values, np.broadcast_to(values[0], values.shape))
        np.testing.assert_array_equal(derivatives, np.broadcast_to(derivatives[0], derivatives.shape))


@pytest.mark.parametrize(
    ("axis", "where"),
    [(0, None), ((0, 2), MASK[0, 0]), ((2, 1), MASK[:, :1]), (None, MASK), (-1, MASK.astype(np.float64))],
)
@of_both
def test_equals_jax_nn_on_its_whole_signature(function, axis, where):
    with precision("float64"):
        expected = JAX_NN[function](X, axis=axis, where=None if where is None else where != 0)
        np.testing.assert_allclose(VALUES[function](X, axis=axis, where=where), expected, rtol=1e-14)


@of_both
def test_list_of_axes_is_a_tuple_of_axes(function):
    of_list = jax.jit(lambda x: function(x, [0, 1]))(X)
    np.testing.assert_array_equal(of_list, VALUES[function](X, axis=(0, 1)))


@of_both
def test_logits_broadcast_with_a_larger_mask(function):
    repeated = np.broadcast_to(X[0, 0], X.shape)
    got, expected = (VALUES[function](x, where=MASK) for x in (X[0, 0], repeated))
    np.testing.assert_array_equal(got, expected)


@of_both
def test_row_with_nan_or_plus_infinity_is_nan_throughout(function):
    x = np.array([[np.nan, 0.0, -np.inf], [np.inf, 0.0, -np.inf], [np.inf, np.inf, 0.0]])
    np.testing.assert_array_equal(VALUES[function](x), np.full((3, 3), np.nan))
    np.testing.assert_array_equal(JAX_NN[function](x), np.full((3, 3), np.nan))


@in_every_dtype
def test_softmax_of_minus_infinities_is_0_with_gradient_0(dtype):  # (jax#6811)
    with precision(dtype):
        x = array(np.full((10, 5), -np.inf), dtype)
        np.testing.assert_array_equal(np.asarray(VALUES[softmax](x)), 0)
        np.testing.assert_array_equal(np.asarray(jacobians(softmax, x)), 0)


@in_every_dtype
def test_log_softmax_of_minus_infinities_is_minus_infinity(dtype):
    with precision(dtype):
        np.testing.assert_array_equal(np.asarray(VALUES[log_softmax](array(np.full((10, 5), -np.inf), dtype))), -np.inf)


@pytest.mark.parametrize(("function", "outside"), [(softmax, 0.0), (log_softmax, -np.inf)])
def test_masked_entry_counts_for_nothing_whatever_it_holds(function, outside):
    x = np.array([[0.5, hidden, -1.0] for hidden in (0.0, 1e30, np.inf, -np.inf, np.nan)])
    where = np.array([True, False, True])
    kept = VALUES[function](array([0.5, -1.0], "float32"))
    expected = np.broadcast_to([kept[0], outside, kept[1]], x.shape)
    np.testing.assert_array_equal(VALUES[function](x, where=where), expected)
    jacobian = np.asarray(jacobians(function, x, where=where))
    assert (jacobian[:, 1] == 0).all()
    assert (jacobian[:, :, 1] == 0).all()


@of_both
def test_fully_masked_row_is_empty_with_gradient_0(function):
    x, where = array([[1.0, np.nan]], "float32"), np.array([False, False])
    theirs = JAX_NN[function](array([[1.0, 2.0]], "float32"), where=where)
    np.testing.assert_array_equal(VALUES[function](x, where=where), theirs)
    np.testing.assert_array_equal(jacobians(function, x, where=where), 0)


@of_both
@pytest.mark.parametrize("shape", [(3, 0), (0, 3)])
def test_empty_array_gives_an_empty_array(function, shape):
    assert VALUES[function](np.zeros(shape, np.float32)).shape == shape
    assert jax.jit(jax.grad(lambda x: jnp.sum(function(x))))(np.zeros(shape, np.float32)).shape == shape


@of_both
@pytest.mark.parametrize("dtype", ["int8", "uint32"])
def test_integers_are_promoted_as_jax_promotes_them(function, dtype):
    x = array([0, 1, 3], dtype)
    got, expected = VALUES[function](x), VALUES[function](array([0.0, 1.0, 3.0], "float32"))
    assert got.dtype == jax.eval_shape(jnp.exp, x).dtype
    np.testing.assert_array_equal(got, expected)


def test_scalar_over_no_axes_has_probability_1():
    assert float(softmax(3.0, axis=None)) == 1
    assert float(log_softmax(3.0, axis=None)) == 0


@of_both
def test_second_derivative_is_that_of_the_textbook_formula(function):
    with precision("float64"):
        x = np.array(ORDINARY_ROWS[0])
        second = jax.jit(jax.jacfwd(jax.jacrev(function)))(x)
        judge = jax.jit(jax.jacfwd(jax.jacfwd(TEXTBOOK[function])))(x)
        np.testing.assert_allclose(second, judge, rtol=1e-13, atol=1e-15)  # the judge's own rounding


def test_scaling_inside_the_same_jit_keeps_the_tail_of_log_softmax():
    def scaled(h):
        return 1.1 * h

    h = jnp.asarray(np.random.default_rng(0).normal(size=(256, 8)) + 30 * np.eye(8)[0], jnp.float32)
    logits = np.asarray(jax.jit(scaled)(h), np.float64)
    tail = -np.log1p(np.sum(np.exp(logits[:, 1:] - logits[:, :1]), -1))
    got = jax.jit(lambda h: log_softmax(scaled(h)))(h)[:, 0]
    # XLA rounds 1.1 h - m once, not twice: a difference of 30 to 64 moves by 2^-19, 32 ulps of its exponential.
    assert_close(got, tail, "float32", 32)


@of_both
def test_multiplying_to_bfloat16_inside_the_same_jit_rounds_once(function):
    """XLA may skip the rounding of an intermediate, but not in one place and not in another."""
    rng = np.random.default_rng(0)
    hidden, kernel = array(4 * rng.normal(size=(64, 32)), "bfloat16"), array(rng.normal(size=(32, 16)), "bfloat16")
    probs = exact_softmax(jax.jit(jnp.matmul)(hidden, kernel))
    expected = {softmax: probs, log_softmax: log(probs)}[function]
    got = jax.jit(lambda hidden, kernel: function(hidden @ kernel))(hidden, kernel)
    assert_close(got, expected, "bfloat16")
