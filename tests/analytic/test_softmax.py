"""Softmax, log-softmax and log-sum-exp: the closed forms against autodiff, mpmath and finite differences."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsoftmax import analytic
from tests.tolerances import (
    CONFIDENT_ROWS,
    FINITE_DIFFERENCE,
    ORDINARY_ROWS,
    ROWS,
    array,
    assert_close,
    exact,
    exact_softmax,
    exact_softmax_jacobian,
    finite_differences,
    in_every_dtype,
    precision,
)

ALL_ROWS = [*ROWS, *CONFIDENT_ROWS]
WHERE_AUTODIFF_IS_EXACT = [0, 1, 2, 3, 4, len(ROWS)]  # ordinary rows, a shift of 1e4, and a confident tie
VECTOR = np.array([0.75, -1.5, 0.25, 2.0, -0.125])
OF_A_ROW = [
    analytic.softmax_jacobian,
    analytic.logsumexp_gradient,
    analytic.logsumexp_hessian,
    analytic.log_softmax_jacobian,
]
PRODUCTS = [
    analytic.softmax_jvp,
    analytic.softmax_vjp,
    analytic.logsumexp_hvp,
    analytic.log_softmax_jvp,
    analytic.log_softmax_vjp,
]


@jax.jit
def closed_forms(x, v):
    """Every closed form, by name; products with `v`, and with every unit vector, which together are the matrix."""
    unit_vectors = jnp.broadcast_to(jnp.eye(x.shape[-1], dtype=x.dtype), (*x.shape, x.shape[-1]))
    return {
        **{form.__name__: form(x) for form in OF_A_ROW},
        **{f"{product.__name__} with v": product(x, v) for product in PRODUCTS},
        **{
            f"{product.__name__} with unit vectors": product(
                jnp.broadcast_to(x[..., None, :], unit_vectors.shape), unit_vectors
            )
            for product in PRODUCTS
        },
    }


@functools.cache
def on_all_rows(dtype):
    x = array(ALL_ROWS, dtype)
    with precision(dtype):
        return jax.tree.map(np.asarray, closed_forms(x, np.broadcast_to(array(VECTOR, dtype), x.shape)))


def textbook_softmax(x):
    e = jnp.exp(x - jax.lax.stop_gradient(jnp.max(x, -1, keepdims=True)))
    return e / jnp.sum(e, -1, keepdims=True)


def textbook_logsumexp(x):
    return jnp.log(jnp.sum(jnp.exp(x - jax.lax.stop_gradient(jnp.max(x)))))


@functools.cache
def by_autodiff():
    """Derivatives of the textbook formulas, where these are exact."""
    with precision("float64"):
        derivatives = {
            "forward": jax.jacfwd(textbook_softmax),
            "reverse": jax.jacrev(textbook_softmax),
            "gradient": jax.grad(textbook_logsumexp),
            "hessian": jax.hessian(textbook_logsumexp),
        }
        of_rows = jax.jit(jax.vmap(lambda row: {name: derivative(row) for name, derivative in derivatives.items()}))
        return jax.tree.map(np.asarray, of_rows(np.array(ALL_ROWS)[WHERE_AUTODIFF_IS_EXACT]))


def exact_log_softmax_jacobian(x):
    return exact(np.eye(5)) - exact_softmax(x)[..., None, :]


@in_every_dtype
@pytest.mark.parametrize("matrix", ["softmax_jacobian", "logsumexp_hessian"])
def test_softmax_jacobian_is_the_exact_one(matrix, dtype):  # (M5), (M9)
    assert_close(on_all_rows(dtype)[matrix], exact_softmax_jacobian(array(ALL_ROWS, dtype)), dtype)


@in_every_dtype
@pytest.mark.parametrize("product", ["softmax_jvp", "softmax_vjp", "logsumexp_hvp"])
def test_softmax_products_with_unit_vectors_are_the_exact_jacobian(product, dtype):  # (M6)
    columns = on_all_rows(dtype)[f"{product} with unit vectors"]
    assert_close(columns, exact_softmax_jacobian(array(ALL_ROWS, dtype)), dtype)


@in_every_dtype
@pytest.mark.parametrize("product", ["softmax_jvp", "softmax_vjp", "logsumexp_hvp"])
def test_softmax_products_are_exact_for_any_vector(product, dtype):  # (M6), (M21)
    s, v = exact_softmax(array(ALL_ROWS, dtype)), exact(array(VECTOR, dtype))
    expected = s * (v - (s * v).sum(-1, keepdims=True))
    terms = s * (s[..., None, :] * abs(v[:, None] - v)).sum(-1)
    assert_close(on_all_rows(dtype)[f"{product} with v"], expected, dtype, size=terms)


def test_a_confident_row_keeps_its_tail_gradient():  # jax#40344
    with precision("float64"):
        cotangent = np.asarray(jax.jit(analytic.softmax_vjp)(np.array([40.0, 0.0]), np.array([1.0, 0.0])))
    np.testing.assert_allclose(cotangent, [4.248354255291589e-18, -4.248354255291589e-18], rtol=1e-15)
    assert cotangent.sum() == 0


def test_softmax_jacobian_is_symmetric_semidefinite_with_null_vector_one():  # (M6)
    jacobian = on_all_rows("float64")["softmax_jacobian"]
    np.testing.assert_array_equal(jacobian, jacobian.mT)
    assert np.all(np.abs(jacobian.sum(-1)) <= 4e-16 * np.abs(jacobian).sum(-1))
    assert np.all(np.linalg.eigvalsh(jacobian) > -1e-15)


def test_softmax_jacobian_has_rank_one_less_than_the_vocabulary():  # (M6)
    ordinary = on_all_rows("float64")["softmax_jacobian"][: len(ORDINARY_ROWS)]
    assert np.linalg.matrix_rank(ordinary).tolist() == [4] * len(ORDINARY_ROWS)


@pytest.mark.parametrize("mode", ["forward", "reverse"])
def test_softmax_jacobian_is_autodiff_of_the_textbook_softmax(mode):  # (M5)
    jacobian = on_all_rows("float64")["softmax_jacobian"][WHERE_AUTODIFF_IS_EXACT]
    np.testing.assert_allclose(jacobian, by_autodiff()[mode], rtol=1e-14, atol=1e-15)


def test_softmax_and_log_softmax_jacobians_are_finite_differences():  # (M5), (M10)
    with precision("float64"):
        softmax_and_its_logarithm = finite_differences(
            lambda row: jnp.stack([textbook_softmax(row), jnp.log(textbook_softmax(row))]),
            np.array(ALL_ROWS)[WHERE_AUTODIFF_IS_EXACT],
        )
    for i, jacobian in enumerate(["softmax_jacobian", "log_softmax_jacobian"]):
        got = on_all_rows("float64")[jacobian][WHERE_AUTODIFF_IS_EXACT]
        np.testing.assert_allclose(got, softmax_and_its_logarithm[:, i], atol=FINITE_DIFFERENCE)


@in_every_dtype
def test_log_softmax_jacobian_is_the_exact_one(dtype):  # (M10)
    expected = exact_log_softmax_jacobian(array(ALL_ROWS, dtype))
    assert_close(on_all_rows(dtype)["log_softmax_jacobian"], expected, dtype)


@in_every_dtype
def test_log_softmax_jvp_and_vjp_with_unit_vectors_are_columns_and_rows(dtype):  # (M10)
    expected, got = exact_log_softmax_jacobian(array(ALL_ROWS, dtype)), on_all_rows(dtype)
    assert_close(got["log_softmax_jvp with unit vectors"], np.swapaxes(expected, -1, -2), dtype)
    assert_close(got["log_softmax_vjp with unit vectors"], expected, dtype)


@in_every_dtype
def test_log_softmax_vjp_is_exact_for_any_cotangent(dtype):  # (M10)
    s, g = exact_softmax(array(ALL_ROWS, dtype)), exact(array(VECTOR, dtype))
    terms = (1 - s) * abs(g) + s * (abs(g).sum() - abs(g))
    assert_close(on_all_rows(dtype)["log_softmax_vjp with v"], g - s * g.sum(), dtype, size=terms)


@in_every_dtype
def test_log_softmax_jvp_is_exact_for_any_tangent(dtype):  # (M10), (M21)
    s, v = exact_softmax(array(ALL_ROWS, dtype)), exact(array(VECTOR, dtype))
    terms = (s[..., None, :] * abs(v[:, None] - v)).sum(-1)
    expected = v - (s * v).sum(-1, keepdims=True)
    assert_close(on_all_rows(dtype)["log_softmax_jvp with v"], expected, dtype, size=terms)


def test_logsumexp_gradient_and_hessian_are_autodiff_of_the_textbook_formula():  # (M8), (M9)
    got, expected = on_all_rows("float64"), by_autodiff()
    gradient, hessian = (got[name][WHERE_AUTODIFF_IS_EXACT] for name in ("logsumexp_gradient", "logsumexp_hessian"))
    np.testing.assert_allclose(gradient, expected["gradient"], rtol=1e-14)
    np.testing.assert_allclose(hessian, expected["hessian"], rtol=1e-14, atol=1e-15)


@in_every_dtype
def test_logsumexp_gradient_is_the_exact_softmax(dtype):  # (M8)
    assert_close(on_all_rows(dtype)["logsumexp_gradient"], exact_softmax(array(ALL_ROWS, dtype)), dtype)


def test_a_row_of_minus_infinity_has_zero_derivatives_and_no_nan():  # jax#6811
    x = array(np.full_like(ALL_ROWS, -np.inf), "float32")
    derivatives = closed_forms(x, np.ones_like(x))
    for name in ("softmax_jacobian", "logsumexp_gradient", "logsumexp_hessian"):
        np.testing.assert_array_equal(derivatives[name], np.zeros_like(derivatives[name]))
    for product in ("softmax_jvp", "softmax_vjp", "logsumexp_hvp"):
        np.testing.assert_array_equal(derivatives[f"{product} with v"], np.zeros_like(x))


def test_log_softmax_of_minus_infinity_has_the_derivative_of_its_limit():  # (M10)
    x = array([[0.0, 0.0, *[-np.inf] * 3], [-np.inf] * 5] * 7, "float32")
    jacobian = closed_forms(x, np.ones_like(x))["log_softmax_jacobian"]
    expected = np.eye(5) - [[0.5, 0.5, 0, 0, 0]]
    np.testing.assert_allclose(jacobian[0], expected, rtol=2e-7)
    np.testing.assert_array_equal(jacobian[1], np.eye(5))


def test_the_closed_forms_are_themselves_differentiable():
    def total(x, v):
        return jnp.sum(analytic.softmax_jvp(x, v) ** 2) + jnp.sum(analytic.softmax_jacobian(x) ** 2)

    x = array(ALL_ROWS, "float32")
    v = np.broadcast_to(array(VECTOR, "float32"), x.shape)
    derivatives = jax.jit(lambda x, v: (jax.grad(total, (0, 1))(x, v), jax.jvp(total, (x, v), (v, v))[1]))(x, v)
    assert all(np.all(np.isfinite(derivative)) for derivative in jax.tree.leaves(derivatives))


@pytest.mark.parametrize("product", [analytic.softmax_jvp, analytic.log_softmax_jvp, analytic.log_softmax_vjp])
def test_products_never_hold_the_matrix(product):
    x = np.zeros(1237, np.float32)
    assert "1237,1237" not in str(jax.make_jaxpr(product)(x, x))


def test_closed_forms_vmapped_over_rows_are_those_of_the_batch():
    x = np.array(ALL_ROWS)
    with precision("float64"):
        vmapped = jax.jit(jax.vmap(closed_forms, (0, None)))(x, VECTOR)
    for name, got in vmapped.items():
        np.testing.assert_allclose(got, on_all_rows("float64")[name], rtol=1e-13, atol=1e-15, err_msg=name)


def test_a_wrong_dtype_or_shape_names_the_argument():
    of_2, of_3, integers = np.zeros(2, np.float32), np.zeros(3, np.float32), np.arange(3, dtype=np.int32)
    for form in OF_A_ROW:
        with pytest.raises(TypeError, match=r"^x: expected a floating dtype, got int32"):
            form(integers)
        with pytest.raises(ValueError, match=r"^x: expected shape \[\*batch, vocab\], got \(\)"):
            form(1.0)
    for product, vector in zip(PRODUCTS, ("x_dot", "s_bar", "x_dot", "x_dot", "log_s_bar"), strict=True):
        with pytest.raises(TypeError, match=r"^x: expected a floating dtype, got int32"):
            product(integers, of_3)
        with pytest.raises(TypeError, match=rf"^{vector}: expected a floating dtype, got int32"):
            product(of_3, integers)
        with pytest.raises(ValueError, match=rf"^{vector}: expected shape \(3,\).*got \(2,\)"):
            product(of_3, of_2)
