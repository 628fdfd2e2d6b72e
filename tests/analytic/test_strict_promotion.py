"""JAX can be set to refuse implicit promotion of dtypes and ranks; the closed forms work there too."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsoftmax import analytic

NARROW = np.array([[0, 2, 1], [1, 0, 2]], np.int8)
TARGETS = np.full((2, 3, 3), 0.25, np.float32)
KERNEL, BIAS = jnp.ones((3, 3)), jnp.arange(3.0)
CALLS = {
    "softmax_jacobian": analytic.softmax_jacobian,
    "softmax_vjp": lambda x: analytic.softmax_vjp(x, 2 * x),
    "log_softmax_jacobian": analytic.log_softmax_jacobian,
    "log_softmax_jvp": lambda x: analytic.log_softmax_jvp(x, 2 * x),
    "log_softmax_vjp": lambda x: analytic.log_softmax_vjp(x, 2 * x),
    "logsumexp_gradient": analytic.logsumexp_gradient,
    "logsumexp_hvp": lambda x: analytic.logsumexp_hvp(x, 2 * x),
    "gradient, narrow labels": lambda x: analytic.cross_entropy_gradient(x, NARROW),
    "gradient, float labels": lambda x: analytic.cross_entropy_gradient(x, TARGETS),
    "label gradient": analytic.cross_entropy_label_gradient,
    "Hessian, narrow labels": lambda x: analytic.cross_entropy_hessian(x, NARROW),
    "HVP, narrow labels": lambda x: analytic.cross_entropy_hvp(x, NARROW, 2 * x),
    "linear classifier, narrow labels": lambda x: analytic.linear_cross_entropy_gradients(x, KERNEL, NARROW, bias=BIAS),
}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", CALLS)
def test_the_closed_forms_promote_nothing_implicitly(name, dtype):
    x = jnp.asarray(np.arange(18.0).reshape(2, 3, 3) % 5, dtype)
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        strict = CALLS[name](x)
    jax.tree.map(np.testing.assert_array_equal, strict, CALLS[name](x))


@pytest.mark.parametrize(("label", "dtype"), [(200, "uint8"), (127, "int8"), (299, "int16"), (299, "uint32")])
def test_a_narrow_label_is_counted_among_more_classes_than_its_dtype_holds(label, dtype):
    gradient = analytic.cross_entropy_gradient(jnp.zeros((1, 300)), np.array([label], dtype))
    assert np.flatnonzero(np.asarray(gradient[0]) < 0).tolist() == [label]


@pytest.mark.parametrize(("label", "dtype"), [(-1, "int8"), (255, "uint8"), (2**32 - 1, "uint32")])
def test_a_label_that_is_no_class_gives_nan_whatever_its_dtype(label, dtype):
    gradient = analytic.cross_entropy_gradient(jnp.zeros((1, 200)), np.array([label], dtype))
    assert np.isnan(np.asarray(gradient)).all()
