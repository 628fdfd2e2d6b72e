"""The training loss at its edges: what has no say in it, labels outside the vocabulary, infinities, dtypes (M27)."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsoftmax import SparseLabels, cross_entropy, linear_cross_entropy
from tests.test_cross_entropy import (
    CLASS_WEIGHTS,
    LABELS,
    LOGITS,
    LOGITS_32,
    TOGETHER,
    TOKEN_WEIGHTS,
    WEIGHTS_32,
    evaluate,
    evaluate_all,
    gradient_of,
    loss_of,
    of_both,
)
from tests.tolerances import DTYPES, array, loss_dtype, precision

NAN, INF = np.nan, np.inf


@pytest.mark.parametrize("reduction", ["mean", pytest.param("none", marks=pytest.mark.slow)])
@pytest.mark.parametrize("hidden", [NAN, INF, -INF])
def test_ignored_token_has_no_say_whatever_its_logits(hidden, reduction):
    logits = np.where(np.arange(4)[:, None] == 1, hidden, LOGITS).astype(np.float32)
    labels = np.where(np.arange(4) == 1, -100, LABELS["integer"])
    kept = np.array([0, 2, 3])
    losses, gradient = evaluate(logits, labels, ignore_index=-100, reduction=reduction)
    expected_losses, expected = evaluate(logits[kept], labels[kept], ignore_index=-100, reduction=reduction)
    np.testing.assert_allclose(np.sum(losses), np.sum(expected_losses), rtol=1e-6)
    np.testing.assert_array_equal(gradient[1], 0)
    np.testing.assert_allclose(gradient[kept], expected, rtol=1e-6)


NOTHING = {
    "all ignored": {"labels": np.full(4, -100), "ignore_index": -100},
    "token weights 0": {"token_weights": np.zeros(4, np.float32)},
    "token weights that cancel": {"token_weights": array([1, -1, 2, -2], "float32")},
    "label weights 0": {"class_weights": array([0, 0, 0], "float32")},
    "smoothed label weights 0": {"labels": np.zeros(4, int), "class_weights": np.arange(3.0), "label_smoothing": 0.5},
    "ignored and weight 0": {"ignore_index": 2, "token_weights": array([3, 0, 0, 1], "float32")},
    "float labels": {"labels": LABELS["float"], "token_weights": np.zeros(4, np.float32)},
}


@cache
def of_nothing():
    return evaluate_all({case: {"logits": LOGITS_32, "labels": LABELS["integer"]} | NOTHING[case] for case in NOTHING})


@pytest.mark.parametrize("case", NOTHING)
def test_mean_over_nothing_is_0_with_gradient_0(case):  # (M27)
    loss, gradient = of_nothing()[case]
    assert loss == 0
    np.testing.assert_array_equal(gradient, 0)


@of_both
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_empty_batch_costs_0(reduction, kind):
    logits = np.zeros((0, 3), np.float32)
    labels = {"integer": np.zeros(0, np.int32), "float": logits}[kind]
    assert np.sum(loss_of(logits, labels, reduction=reduction)) == 0
    assert gradient_of(logits, labels, reduction=reduction).shape == (0, 3)


@pytest.mark.parametrize("options", [{}, {"label_smoothing": 0.1}, {"logit_softcap": 2.0}], ids=str)
def test_float_labels_of_no_classes_cost_0(options):
    logits = np.zeros((2, 0), np.float32)
    assert loss_of(logits, logits, **options) == 0


@pytest.mark.parametrize("options", [{}, pytest.param(TOGETHER["all"], marks=pytest.mark.slow)], ids=["plain", "all"])
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_label_outside_the_vocabulary_makes_its_own_token_nan(reduction, options):
    labels = np.array([0, -1, 3, 2])
    logits, outside = LOGITS_32, np.array([False, True, True, False])
    losses = loss_of(logits, labels, ignore_index=-100, reduction=reduction, **options)
    np.testing.assert_array_equal(np.isnan(losses), {"none": outside}.get(reduction, True))
    gradient = gradient_of(logits, labels, ignore_index=-100, reduction=reduction, **options)
    np.testing.assert_array_equal(np.isnan(gradient), np.broadcast_to(outside[:, None], (4, 3)))


def test_label_outside_the_vocabulary_is_nan_even_at_weight_0():
    labels = np.array([0, -1, 3, 2])
    losses = loss_of(LOGITS_32, labels, token_weights=0 * WEIGHTS_32, reduction="none")
    np.testing.assert_array_equal(np.isnan(losses), [False, True, True, False])


def test_ignore_index_outside_the_labels_dtype_ignores_nothing():
    given = {"logits": LOGITS_32, "ignore_index": -100}
    labels = {dtype: LABELS["integer"].astype(dtype) for dtype in ("uint32", "int32")}
    losses = evaluate_all({dtype: given | {"labels": y} for dtype, y in labels.items()})
    assert losses["uint32"][0] == losses["int32"][0]


OPTIONS = {
    "label_smoothing": {"label_smoothing": 0.1},
    "z_loss": {"z_loss": 0.1},
    "class_weights": {"class_weights": CLASS_WEIGHTS},
}


@cache
def of_minus_infinities():
    """Where the second row is -inf, by labels and options."""
    logits = np.where(np.arange(4)[:, None] == 1, -INF, LOGITS).astype(np.float32)
    labels = {"integer": LABELS["integer"], "float": abs(LABELS["float"])}
    given = {"logits": logits, "reduction": "none"}
    return evaluate_all(
        {f"{kind}, {name}": given | {"labels": labels[kind]} | OPTIONS[name] for kind in labels for name in OPTIONS}
    )


@pytest.mark.parametrize("name", OPTIONS)
@of_both
def test_row_of_minus_infinities_costs_infinity_with_gradient_0(kind, name):  # (jax#6811)
    losses, gradient = of_minus_infinities()[f"{kind}, {name}"]
    assert losses[1] == np.inf
    np.testing.assert_array_equal(gradient[1], 0)
    assert np.isfinite(gradient).all()


@pytest.mark.parametrize("labels", [np.array([1]), np.array([[0.0, 1.0, 0.0]])], ids=["integer", "float"])
@pytest.mark.parametrize("smoothing", [0.0, 1.0])
def test_class_of_weight_0_costs_nothing_even_at_minus_infinity(labels, smoothing):
    logits, weights = (array(row, "float32") for row in ([[0.0, -INF, 1.0]], [1, 0, 1]))
    loss = loss_of(logits, labels, class_weights=weights, label_smoothing=smoothing, reduction="sum")
    expected = smoothing * (2 * np.log1p(np.e) - 1) / 3
    np.testing.assert_allclose(loss, expected, rtol=1e-6)


@pytest.mark.parametrize(("weights", "smoothing"), [([1, 0, 1], 0.0), ([1, 1, 1], 1.0)])
def test_a_float_label_that_costs_nothing_has_gradient_0_even_at_minus_infinity(weights, smoothing):
    logits, labels = (array(row, "float32") for row in ([[0.0, -INF, 1.0]], [[0.5, 0.0, 0.5]]))
    weights = array(weights, "float32")

    def loss(labels):
        return cross_entropy(logits, labels, class_weights=weights, label_smoothing=smoothing, reduction="sum")

    gradient = jax.grad(loss)(labels)[0]
    np.testing.assert_array_equal(gradient[1], 0)
    assert np.isfinite(gradient).all()


def test_mean_over_nothing_is_0_even_of_an_infinite_loss():  # (M27)
    logits, weights = array([[0.0, -INF, 1.0]], "float32"), array([0, 1, 1], "float32")
    options = dict(class_weights=weights, label_smoothing=0.5)
    assert loss_of(logits, np.array([0]), **options, reduction="sum") == INF
    assert loss_of(logits, np.array([0]), **options) == 0
    assert linear_cross_entropy(jnp.eye(1), jnp.maximum(logits, -3e38), np.array([0]), **options) == 0


@pytest.mark.parametrize("dtype", ["bool", pytest.param("bfloat16", marks=pytest.mark.slow)])
def test_weights_of_every_real_dtype_are_numbers(dtype):
    logits, ones = LOGITS_32, np.ones(4, jnp.dtype(dtype))
    got = loss_of(logits, LABELS["integer"], token_weights=ones, class_weights=ones[:3])
    assert got.dtype == jnp.float32
    np.testing.assert_allclose(got, loss_of(logits, LABELS["integer"]), rtol=1e-6)


@pytest.mark.parametrize("dtype", DTYPES)
@of_both
def test_loss_is_at_least_float32_and_gradients_have_the_dtypes_of_their_arguments(kind, dtype):
    with precision(dtype):
        logits, weights = array(LOGITS, dtype), array(TOKEN_WEIGHTS, "bfloat16")
        labels = {"integer": LABELS["integer"], "float": array(LABELS["float"], "float16")}[kind]

        def loss(logits, weights):
            return cross_entropy(logits, labels, token_weights=weights, **TOGETHER["all"])

        value, gradients = jax.eval_shape(jax.value_and_grad(loss, (0, 1)), logits, weights)
        assert value.dtype == loss_dtype(dtype)
        assert [g.dtype for g in gradients] == [dtype, "bfloat16"]


def test_infinite_penalty_of_a_class_of_weight_0_adds_nothing():
    empty, weights = array([[-INF, -INF]], "float32"), array([0, 1], "float32")
    assert loss_of(empty, np.array([0]), z_loss=1.0, class_weights=weights) == 0


def test_token_weight_of_an_ignored_token_has_no_part_in_the_mean():
    x, labels, u = np.zeros((2, 3), np.float32), np.array([0, -100]), array([1, NAN], "float32")

    @jax.jit
    @jax.value_and_grad
    def loss_and_gradient(u):
        return cross_entropy(x, labels, ignore_index=-100, token_weights=u, reduction="sum")

    value, gradient = loss_and_gradient(u)
    np.testing.assert_allclose(value, np.log(3), rtol=1e-6)
    np.testing.assert_allclose(gradient, [np.log(3), 0], rtol=1e-6)


def test_weights_may_be_lists():
    def loss(x, labels):
        return cross_entropy(x, labels, class_weights=[1, 2], token_weights=[1.0, 1.0])

    value = jax.jit(loss)(np.zeros((2, 2), np.float32), np.array([0, 1]))
    np.testing.assert_allclose(value, np.log(2), rtol=1e-6)


RULED_OUT = np.float32([[0.0, 1.0, -INF]])
OF_RULED_OUT = {
    "integer": lambda x, **o: cross_entropy(x, np.array([0]), **o),
    "float": lambda x, **o: cross_entropy(x, np.float32([[1, 0, 0]]), **o),
    "sparse": lambda x, **o: cross_entropy(x, SparseLabels(np.array([[0]]), np.ones((1, 1), np.float32)), **o),
    "head": lambda x, **o: linear_cross_entropy(np.ones((1, 1), "f"), np.zeros((1, 3), "f"), [0], bias=x[0], **o),
    "an empty row of weight 0": lambda x, **o: cross_entropy(
        jnp.stack([x[0], x[0] - INF]), np.float32([[1, 0, 0]] * 2), token_weights=np.float32([1, 0]), **o
    ),
}


@pytest.mark.parametrize("option", ["label_smoothing", "z_loss"])
@pytest.mark.parametrize("name", OF_RULED_OUT)
def test_an_option_that_is_traced_and_0_is_none(name, option):
    loss = OF_RULED_OUT[name]

    @jax.jit
    def both(x, zero):
        return [jax.value_and_grad(partial(loss, **{option: number}))(x) for number in (zero, 0.0)]

    (value, gradient), (expected, expected_gradient) = both(RULED_OUT, 0.0)
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    np.testing.assert_allclose(value, 1.31326169, rtol=1e-6)
    np.testing.assert_allclose(gradient, expected_gradient, rtol=1e-6, atol=1e-7)
