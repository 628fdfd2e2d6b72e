"""Second derivatives and beyond, in every mode, of every function that carries a rule (M9, M12, M15)."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxsoftmax
from jaxsoftmax import forward_mode
from tests import textbook
from tests.test_differentiation_modes import (
    EVERY_KEYWORD,
    LOSSES,
    ROW_FUNCTIONS,
    TARGETS,
    V,
    X,
    assert_equal,
    by_name,
    summed,
)
from tests.tiers import in_tiers
from tests.tolerances import FINITE_ROWS, array, assert_close, exact_softmax_jacobian, precision


@in_tiers("name", ["softmax", "weighted logsumexp", "training"], first=["softmax"])
def test_reverse_over_reverse_is_forward_over_reverse(name):
    f = summed(ROW_FUNCTIONS[name])
    with precision("float64"):
        reverse, forward = jax.jit(lambda x: [mode(jax.grad(f))(x) for mode in (jax.jacrev, jax.jacfwd)])(X[0])
        assert_equal(reverse, forward)


TOTALS = {"logsumexp": 1.0, "integer labels": 1.0, "float labels": 1.75}
FORWARD_ROWS = {
    "logsumexp": forward_mode.logsumexp,
    "integer labels": lambda x: forward_mode.softmax_cross_entropy_with_integer_labels(x, 2),
    "float labels": lambda x: forward_mode.softmax_cross_entropy(x, TARGETS[0].astype(x.dtype)),
}
OWN_ROWS = {**FORWARD_ROWS} | {
    "logsumexp": jaxsoftmax.logsumexp,
    "integer labels": lambda x: jaxsoftmax.softmax_cross_entropy_with_integer_labels(x, 2),
    "float labels": lambda x: jaxsoftmax.softmax_cross_entropy(x, TARGETS[0].astype(x.dtype)),
}


@pytest.mark.parametrize(
    "functions", [OWN_ROWS, pytest.param(FORWARD_ROWS, marks=pytest.mark.slow)], ids=["losses", "variants"]
)
@pytest.mark.parametrize("dtype", ["float32", pytest.param("float64", marks=pytest.mark.slow)])
def test_hessian_is_the_softmax_jacobian_times_the_sum_of_the_labels(dtype, functions):  # (M9, M15)
    with precision(dtype):
        x = array(FINITE_ROWS, dtype)
        hessians = by_name(lambda f: jax.vmap(jax.hessian(f)), functions)(x)
        jacobian = exact_softmax_jacobian(x)
        for name, total in TOTALS.items():
            assert_close(hessians[name], jacobian * total, dtype)


def test_hessian_of_every_keyword_is_autodiff_of_the_textbook():
    def formula(x):
        return textbook.loss(x, np.array(2), **EVERY_KEYWORD)

    with precision("float64"):
        got, expected = jax.jit(lambda x: [jax.hessian(f)(x) for f in (ROW_FUNCTIONS["training"], formula)])(X[0])
        np.testing.assert_allclose(got, expected, rtol=1e-12, atol=1e-14)


@pytest.mark.slow
def test_third_derivative_under_a_soft_cap_far_above_the_logits():
    def third(library_loss, x):
        return jax.grad(jax.grad(jax.grad(lambda x: library_loss(jnp.stack([x, jnp.full_like(x, 1e-3)])))))(x)

    def textbook(x):
        z = 30 * jnp.tanh(x / 30)
        return jax.nn.logsumexp(z) - z[0]

    def loss(x):
        return jaxsoftmax.cross_entropy(x, 0, logit_softcap=30.0)

    with precision("float64"):
        right = jax.jit(lambda x: third(textbook, x))(0.0049)
    np.testing.assert_allclose(jax.jit(lambda x: third(loss, x))(np.float32(0.0049)), right, rtol=3e-4)


@in_tiers("name", ["integer labels", "logsumexp", "float labels"], first=["integer labels"])
def test_third_derivative_is_autodiff_of_the_textbook(name):
    def textbook(x):
        return jnp.log(jnp.sum(jnp.exp(x)))

    with precision("float64"):
        functions = OWN_ROWS[name], textbook
        got, expected = jax.jit(lambda x: [jax.jacfwd(jax.hessian(f))(x) for f in functions])(X[0])
        np.testing.assert_allclose(got, TOTALS[name] * expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize(
    "library", [jaxsoftmax, pytest.param(forward_mode, marks=pytest.mark.slow)], ids=["losses", "variants"]
)
def test_mixed_derivative_in_logits_and_labels_is_s_1_transposed_less_the_identity(library):  # (M12)
    with precision("float64"):
        by_labels = jax.grad(library.softmax_cross_entropy, 1)
        mixed = jax.jit(jax.jacfwd(by_labels, 0))(X[0], TARGETS[0].astype(np.float64))
        assert_equal(mixed, np.exp(X[0]) / np.sum(np.exp(X[0])) - np.eye(5))


@in_tiers("name", ["weighted logsumexp", "training, float"], first=["weighted logsumexp"])
def test_hessian_vector_product_of_one_direction_is_that_of_all(name):
    f = summed(LOSSES[name])
    with precision("float64"):
        product, hessian = jax.jit(lambda x, v: (jax.jvp(jax.grad(f), (x,), (v,))[1], jax.hessian(f)(x)))(X, V)
        assert_equal(product, np.tensordot(np.asarray(hessian), V, 2))


def test_hessian_of_minus_infinities_is_0():  # (jax#6811)
    x = array([[-np.inf] * 5, [0.0, -np.inf, 0.0, -np.inf, -np.inf]], "float32")
    functions = {**OWN_ROWS, "variant": FORWARD_ROWS["integer labels"]}
    labelled = {name: f for name, f in functions.items() if name != "float labels"}
    for hessian in map(np.asarray, by_name(lambda f: jax.vmap(jax.hessian(f)), labelled)(x).values()):
        np.testing.assert_array_equal(hessian[0], 0)
        quarter = np.array([[0.25, -0.25], [-0.25, 0.25]])
        np.testing.assert_array_equal(hessian[1][::2, ::2][:2, :2], quarter)
        np.testing.assert_array_equal(hessian[1][1::2], 0)


def test_ignored_token_with_nan_logits_has_hessian_0():
    def loss(x):
        return jaxsoftmax.cross_entropy(x, np.array([-1, 2]), ignore_index=-1, **EVERY_KEYWORD)

    x = np.stack([np.full(5, np.nan), X[0]])
    hessian = np.asarray(jax.jit(jax.hessian(loss))(x.astype(np.float32)))
    np.testing.assert_array_equal(hessian[0], 0)
    np.testing.assert_array_equal(hessian[:, :, 0], 0)
    assert np.isfinite(hessian).all()
