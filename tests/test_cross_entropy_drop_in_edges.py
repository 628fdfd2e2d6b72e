"""The drop-ins for optax at their edges: infinities, labels outside the vocabulary, empty arrays, dtypes."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxsoftmax import softmax_cross_entropy, softmax_cross_entropy_with_integer_labels
from tests.test_cross_entropy_drop_ins import (
    EVALUATE,
    FLOAT,
    INF,
    INTEGER,
    INTEGER_LABELS,
    NAN,
    OPTAX_FLOAT,
    OPTAX_INTEGER,
    TARGETS,
    labels_for,
    of_both,
    results,
)
from tests.tiers import in_tiers
from tests.tolerances import (
    DTYPES,
    ORDINARY_ROWS,
    array,
    assert_close,
    exact,
    exact_softmax,
    log,
    loss_dtype,
    precision,
)


@of_both
@pytest.mark.parametrize("bad", [NAN, INF])
def test_nan_or_plus_infinity_makes_its_own_row_nan(function, bad):
    logits = array([[0.0, bad, 1.0], [0.0, 1.0, 2.0]], "float32")
    losses, gradients = results(EVALUATE[function], logits, labels_for(function, logits))
    assert not np.isfinite(losses[0])
    assert np.isnan(gradients[0]).any()
    assert np.isfinite(losses[1])
    assert np.isfinite(gradients[1]).all()


def test_labels_of_every_integer_dtype_name_their_class():
    labels = {dtype: np.array([3, 127], dtype) for dtype in ("int8", "uint32", "uint64", "int32")}
    with jax.enable_x64(True):
        logits = np.random.default_rng(0).normal(size=(2, 300))
        losses = results(
            jax.jit(lambda logits, labels: {k: INTEGER(logits, y) for k, y in labels.items()}), logits, labels
        )
    for dtype in labels:
        jax.tree.map(np.testing.assert_array_equal, losses[dtype], losses["int32"])


@pytest.mark.parametrize("dtype", ["int8", "int64"])
def test_label_outside_the_vocabulary_makes_its_own_row_nan(dtype):
    with jax.enable_x64(True):
        labels = np.array([-1, 0, 3, -128, 127], dtype)
        losses, gradients = INTEGER(np.zeros((5, 3), np.float32), labels)
        outside = np.array([True, False, True, True, True])
        np.testing.assert_array_equal(np.isnan(losses), outside)
        np.testing.assert_array_equal(np.isnan(gradients), np.broadcast_to(outside[:, None], (5, 3)))


def test_labels_past_the_range_of_int32_do_not_wrap():
    with jax.enable_x64(True):
        labels = np.array([2**32, 2**32 + 1, -(2**32), 2**40 + 2, -(2**40) + 1])
        losses, gradients = INTEGER(np.zeros((5, 3), np.float32), labels)
        assert np.isnan(losses).all()
        assert np.isnan(gradients).all()


@of_both
def test_empty_batch_gives_no_losses(function):
    logits = np.zeros((0, 3), np.float32)
    losses, gradients = results(EVALUATE[function], logits, labels_for(function, logits))
    assert (losses.shape, gradients.shape) == ((0,), (0, 3))


def test_float_labels_of_no_classes_cost_0_as_in_optax():
    logits = np.zeros((3, 0), np.float32)
    (got, *gradients), (expected, *_) = (f(logits, logits) for f in (FLOAT, OPTAX_FLOAT))
    np.testing.assert_array_equal(got, expected)
    assert [gradient.shape for gradient in gradients] == [(3, 0), (3, 0)]


def test_integer_labels_of_no_classes_raise():
    with pytest.raises(ValueError, match=r"logits: expected at least one class, got vocab = 0"):
        INTEGER_LABELS(np.zeros((3, 0), np.float32), np.zeros(3, np.int32))


@of_both
@pytest.mark.parametrize("dtype", DTYPES)
def test_losses_are_at_least_float32_and_gradients_of_the_input_dtype(function, dtype):
    with precision(dtype):
        logits = array(np.zeros((2, 5)), dtype)
        labels = labels_for(function, logits)
        losses, gradients = jax.eval_shape(EVALUATE[function], logits, labels)
        assert (losses.dtype, gradients.dtype) == (loss_dtype(dtype), dtype)


def test_float64_labels_of_float32_logits_keep_their_precision():
    with jax.enable_x64(True):
        logits, labels = array([ORDINARY_ROWS[0]], "float32"), np.array([TARGETS["probabilities"]]) / 3
        losses, by_logits, by_labels = FLOAT(logits, labels)
        assert (losses.dtype, by_logits.dtype, by_labels.dtype) == ("float64", "float32", "float64")
        assert losses.dtype == jax.eval_shape(optax.softmax_cross_entropy, logits, labels).dtype
        assert_close(losses, np.sum(-exact(labels) * log(exact_softmax(logits)), -1), "float64")


def test_fully_masked_row_has_gradient_0_whatever_its_label():
    x, labels, rows = np.zeros((2, 3), np.float32), np.array([-1, 0]), np.array([False, True])
    for evaluate in (INTEGER, OPTAX_INTEGER):
        _, gradient = evaluate(x, labels, where=rows)
        np.testing.assert_allclose(gradient, [[0, 0, 0], [-2 / 3, 1 / 3, 1 / 3]], rtol=1e-6)


@in_tiers("logit", [1e3, np.inf], first=[np.inf])
def test_second_derivatives_know_nothing_of_a_masked_label_s_own_logit(logit):
    x, labels, where = np.float32([[0, 1, logit]]), np.array([2]), np.array([[True, True, False]])

    def loss(x):
        return jnp.sum(softmax_cross_entropy_with_integer_labels(x, labels, where=where))

    def slope(x):
        return jnp.sum(jax.grad(loss)(x) * np.float32([[1, 0, 0]]))

    s = 1 / (1 + np.e)
    np.testing.assert_allclose(jax.jit(jax.grad(slope))(x), [[s * (1 - s), -s * (1 - s), 0]], rtol=1e-6)


@pytest.mark.parametrize(("dtype", "weight"), [("bfloat16", 257), ("float16", 70_000)])
def test_integer_weights_of_narrow_logits_are_those_integers(dtype, weight):
    loss = softmax_cross_entropy(jnp.zeros(2, dtype), np.array([weight, 0]))
    np.testing.assert_allclose(loss, weight * np.log(2), rtol=1e-6)
