"""Softmax, log-softmax and log-sum-exp: the closed forms against autodiff, 50 digits and finite differences."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsoftmax import analytic
from tests.analytic.judges import (
    DTYPES,
    REGIMES,
    assert_close,
    exact,
    exact_row,
    finite_differences,
    logits_of,
    precision,
    sum_of_others,
    textbook_softmax,
)

WHERE_AUTODIFF_IS_EXACT = ["ordinary", "low_scale", "shifted", "ties"]
TANGENT = np.array([0.75, -1.5, 0.25, 2.0, -0.125])


def on_every_row(test):
    return pytest.mark.parametrize("regime", REGIMES)(pytest.mark.parametrize("dtype", DTYPES)(test))


def with_unit_vectors(x):
    """Each row once per unit vector: products with all of them are the matrix."""
    vocab = x.shape[-1]
    rows = np.broadcast_to(x[..., None, :], (*x.shape, vocab))
    return rows, np.broadcast_to(np.eye(vocab, dtype=x.dtype), rows.shape)


def exact_softmax_jacobian(x):
    probs, complement = exact_row(x)
    on_diagonal = np.eye(x.shape[-1], dtype=bool)
    return np.where(on_diagonal, (probs * complement)[..., None], -probs[..., :, None] * probs[..., None, :])


def exact_log_softmax_jacobian(x):
    probs, complement = exact_row(x)
    on_diagonal = np.eye(x.shape[-1], dtype=bool)
    return np.where(on_diagonal, complement[..., None, :], -probs[..., None, :])


@on_every_row
def test_softmax_jacobian_is_the_exact_one(regime, dtype):  # (M5)
    x = logits_of(regime, dtype)
    with precision(dtype):
        jacobian = jax.jit(analytic.softmax_jacobian)(x)
    assert jacobian.dtype == x.dtype
    assert_close(jacobian, exact_softmax_jacobian(x))


@on_every_row
@pytest.mark.parametrize("product", [analytic.softmax_jvp, analytic.softmax_vjp, analytic.logsumexp_hvp])
def test_softmax_products_with_unit_vectors_are_the_exact_jacobian(product, regime, dtype):  # (M6)
    x = logits_of(regime, dtype)
    with precision(dtype):
        columns = jax.jit(product)(*with_unit_vectors(x))
    assert columns.dtype == x.dtype
    assert_close(columns, exact_softmax_jacobian(x))


@on_every_row
def test_softmax_jvp_is_exact_for_any_tangent(regime, dtype):  # (M6), (M21)
    x, v = logits_of(regime, dtype), np.broadcast_to(TANGENT, (2, 5)).astype(dtype)
    with precision(dtype):
        tangent = jax.jit(analytic.softmax_jvp)(x, v)
    jacobian = exact_softmax_jacobian(x)
    probs, vector = exact_row(x).probs, exact(v)
    scale = probs * (probs[..., None, :] * abs(vector[..., :, None] - vector[..., None, :])).sum(-1)
    assert_close(tangent, (jacobian @ vector[..., None])[..., 0], scale)


def test_a_confident_row_keeps_its_tail_gradient():  # jax#40344
    with jax.enable_x64(True):
        cotangent = np.asarray(analytic.softmax_vjp(jnp.array([40.0, 0.0]), jnp.array([1.0, 0.0])))
    np.testing.assert_allclose(cotangent, [4.248354255291589e-18, -4.248354255291589e-18], rtol=1e-15)
    assert cotangent.sum() == 0


@pytest.mark.parametrize("regime", REGIMES)
def test_softmax_jacobian_is_symmetric_semidefinite_with_null_vector_one(regime):  # (M6)
    with jax.enable_x64(True):
        jacobian = np.asarray(analytic.softmax_jacobian(logits_of(regime, np.float64)))
    np.testing.assert_array_equal(jacobian, np.swapaxes(jacobian, -1, -2))
    assert np.all(np.abs(jacobian.sum(-1)) <= 4e-16 * np.abs(jacobian).sum(-1))
    assert np.all(np.linalg.eigvalsh(jacobian) > -1e-15)


def test_softmax_jacobian_has_rank_one_less_than_the_vocabulary():  # (M6)
    with jax.enable_x64(True):
        assert np.linalg.matrix_rank(analytic.softmax_jacobian(logits_of("ordinary", np.float64))).tolist() == [4, 4]


@pytest.mark.parametrize("regime", WHERE_AUTODIFF_IS_EXACT)
@pytest.mark.parametrize("transform", [jax.jacfwd, jax.jacrev])
def test_softmax_jacobian_is_autodiff_of_the_textbook_softmax(transform, regime):  # (M5)
    x = logits_of(regime, np.float64)
    with jax.enable_x64(True):
        expected = jax.vmap(transform(textbook_softmax))(x)
        np.testing.assert_allclose(analytic.softmax_jacobian(x), expected, rtol=1e-14, atol=1e-15)


@pytest.mark.parametrize("regime", WHERE_AUTODIFF_IS_EXACT)
def test_softmax_and_log_softmax_jacobians_are_finite_differences(regime):  # (M5), (M10)
    x = logits_of(regime, np.float64)[0]
    with jax.enable_x64(True):
        expected = finite_differences(textbook_softmax, x)
        expected_log = finite_differences(lambda row: jnp.log(textbook_softmax(row)), x)
        np.testing.assert_allclose(analytic.softmax_jacobian(x), expected, atol=1e-9)
        np.testing.assert_allclose(analytic.log_softmax_jacobian(x), expected_log, atol=1e-9)


@on_every_row
def test_log_softmax_jacobian_is_the_exact_one(regime, dtype):  # (M10)
    x = logits_of(regime, dtype)
    with precision(dtype):
        jacobian = jax.jit(analytic.log_softmax_jacobian)(x)
    assert jacobian.dtype == x.dtype
    assert_close(jacobian, exact_log_softmax_jacobian(x))


@on_every_row
def test_log_softmax_jvp_and_vjp_with_unit_vectors_are_columns_and_rows(regime, dtype):  # (M10)
    x = logits_of(regime, dtype)
    rows, unit_vectors = with_unit_vectors(x)
    with precision(dtype):
        columns = jax.jit(analytic.log_softmax_jvp)(rows, unit_vectors)
        jacobian_rows = jax.jit(analytic.log_softmax_vjp)(rows, unit_vectors)
    expected = exact_log_softmax_jacobian(x)
    assert_close(columns, np.swapaxes(expected, -1, -2))
    assert_close(jacobian_rows, expected)


@on_every_row
def test_log_softmax_vjp_is_exact_for_any_cotangent(regime, dtype):  # (M10)
    x, g = logits_of(regime, dtype), np.broadcast_to(TANGENT, (2, 5)).astype(dtype)
    with precision(dtype):
        cotangent = jax.jit(analytic.log_softmax_vjp)(x, g)
    (probs, complement), g = exact_row(x), exact(g)
    expected = complement * g - probs * sum_of_others(g)
    assert_close(cotangent, expected, complement * abs(g) + probs * sum_of_others(abs(g)))


@pytest.mark.parametrize("regime", WHERE_AUTODIFF_IS_EXACT)
def test_logsumexp_gradient_and_hessian_are_autodiff_of_the_textbook_formula(regime):  # (M8), (M9)
    def textbook_logsumexp(row):
        return jnp.log(jnp.sum(jnp.exp(row - 1e4 * (regime == "shifted"))))

    x = logits_of(regime, np.float64)
    with jax.enable_x64(True):
        gradient, hessian = jax.vmap(jax.grad(textbook_logsumexp))(x), jax.vmap(jax.hessian(textbook_logsumexp))(x)
        np.testing.assert_allclose(analytic.logsumexp_gradient(x), gradient, rtol=1e-14)
        np.testing.assert_allclose(analytic.logsumexp_hessian(x), hessian, rtol=1e-14, atol=1e-15)


@on_every_row
def test_logsumexp_gradient_is_the_exact_softmax(regime, dtype):  # (M8)
    x = logits_of(regime, dtype)
    with precision(dtype):
        gradient = jax.jit(analytic.logsumexp_gradient)(x)
    assert gradient.dtype == x.dtype
    assert_close(gradient, exact_row(x).probs)


def test_a_row_of_minus_infinity_has_zero_derivatives_and_no_nan():  # jax#6811
    x, v = jnp.full((2, 3), -jnp.inf), jnp.ones((2, 3))
    for derivative in (
        analytic.softmax_jacobian(x),
        analytic.logsumexp_gradient(x),
        analytic.logsumexp_hessian(x),
        analytic.softmax_jvp(x, v),
        analytic.softmax_vjp(x, v),
        analytic.logsumexp_hvp(x, v),
    ):
        np.testing.assert_array_equal(derivative, np.zeros_like(derivative))


def test_log_softmax_of_minus_infinity_has_the_derivative_of_its_limit():  # (M10)
    x = jnp.array([[0.0, 0.0, -jnp.inf], [-jnp.inf] * 3])
    jacobian = analytic.log_softmax_jacobian(x)
    np.testing.assert_allclose(jacobian[0], [[0.5, -0.5, 0], [-0.5, 0.5, 0], [-0.5, -0.5, 1]], rtol=2e-7)
    np.testing.assert_array_equal(jacobian[1], np.eye(3))


@pytest.mark.parametrize("regime", ["ordinary", "ties", "masked"])
def test_the_closed_forms_are_themselves_differentiable(regime):
    x, v = logits_of(regime, np.float32), np.broadcast_to(TANGENT, (2, 5)).astype(np.float32)

    def total(x, v):
        return jnp.sum(analytic.softmax_jvp(x, v) ** 2) + jnp.sum(analytic.softmax_jacobian(x) ** 2)

    assert all(np.all(np.isfinite(gradient)) for gradient in jax.grad(total, (0, 1))(x, v))
    assert np.isfinite(jax.jvp(total, (x, v), (v, v))[1])


@pytest.mark.parametrize("product", [analytic.softmax_jvp, analytic.log_softmax_jvp, analytic.log_softmax_vjp])
def test_products_never_hold_the_matrix(product):
    x = jnp.zeros(1237)
    assert "1237,1237" not in str(jax.make_jaxpr(product)(x, x))


def test_a_wrong_dtype_or_shape_names_the_argument():
    with pytest.raises(TypeError, match=r"x: expected a floating dtype, got int32"):
        analytic.softmax_jacobian(jnp.arange(3))
    with pytest.raises(ValueError, match=r"x: expected shape \[\*batch, vocab\], got \(\)"):
        analytic.logsumexp_gradient(1.0)
    with pytest.raises(ValueError, match=r"x_dot: expected shape \(3,\).*got \(2,\)"):
        analytic.softmax_jvp(jnp.zeros(3), jnp.zeros(2))
    with pytest.raises(ValueError, match=r"s_bar: expected shape \(3,\).*got \(2,\)"):
        analytic.softmax_vjp(jnp.zeros(3), jnp.zeros(2))
