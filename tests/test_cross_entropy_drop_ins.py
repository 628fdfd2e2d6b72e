"""The drop-ins for optax: values, gradients of any labels, axes and masks (M11, M12, M15, M19, M20)."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxsoftmax import softmax_cross_entropy, softmax_cross_entropy_with_integer_labels
from tests.tiers import in_tiers
from tests.tolerances import (
    FINITE_DIFFERENCE,
    FINITE_ROWS,
    ORDINARY_ROWS,
    array,
    assert_close,
    exact,
    exact_softmax,
    finite_differences,
    in_every_dtype,
    log,
    loss_dtype,
    precision,
)

INTEGER_LABELS, FLOAT_LABELS = softmax_cross_entropy_with_integer_labels, softmax_cross_entropy


def with_gradients(function, argnums=0):
    """The losses of a batch, and the gradient of each row's own."""

    def losses_and_gradients(logits, labels, axis=-1, where=None):
        losses, vjp = jax.vjp(lambda *arrays: function(*arrays, axis, where), logits, labels)
        return losses, *(vjp(jnp.ones_like(losses))[i] for i in np.atleast_1d(argnums))

    return jax.jit(losses_and_gradients, static_argnames="axis")


INTEGER = with_gradients(INTEGER_LABELS)
FLOAT = with_gradients(FLOAT_LABELS, (0, 1))
EVALUATE = {INTEGER_LABELS: INTEGER, FLOAT_LABELS: with_gradients(FLOAT_LABELS)}
OPTAX_INTEGER = with_gradients(optax.softmax_cross_entropy_with_integer_labels)
OPTAX_FLOAT = with_gradients(optax.softmax_cross_entropy, (0, 1))

RNG = np.random.default_rng(0)
EVERY_LABEL = np.repeat(FINITE_ROWS, 5, 0), np.tile(np.arange(5), len(FINITE_ROWS))
TARGETS = {  # on a grid of 1/8, where their sums are exact
    "one-hot": [0.0, 1.0, 0.0, 0.0, 0.0],
    "probabilities": [0.5, 0.125, 0.125, 0.25, 0.0],
    "unnormalised": [2.0, 0.5, 1.0, 0.25, 3.0],
    "signed": [1.0, -0.5, 2.0, -1.0, 0.25],
    "of sum 0": [1.0, -0.5, 0.5, -1.0, 0.0],
    "zero": [0.0, 0.0, 0.0, 0.0, 0.0],
}
X = RNG.normal(size=(2, 3, 4))
T = RNG.uniform(-1, 2, size=(2, 3, 4))
MASK = RNG.random((2, 3, 4)) < 0.7
INF, NAN = np.inf, np.nan

of_both = pytest.mark.parametrize("function", [INTEGER_LABELS, FLOAT_LABELS], ids=["integer", "float"])


def textbook(logits, targets):
    return -jnp.sum(targets * jnp.log(jnp.exp(logits) / jnp.sum(jnp.exp(logits), -1, keepdims=True)), -1)


TEXTBOOK = with_gradients(lambda logits, labels, axis, where: textbook(logits, labels), (0, 1))


def results(evaluate, *arrays, **options):
    """Losses and gradients as NumPy's arrays, whose slices compile nothing."""
    return jax.tree.map(np.asarray, evaluate(*arrays, **options))


def labels_for(function, logits):
    """Class 0 throughout."""
    one_hot = np.broadcast_to(np.arange(logits.shape[-1]) == 0, logits.shape).astype(logits.dtype)
    return {INTEGER_LABELS: np.zeros(logits.shape[:-1], np.int32), FLOAT_LABELS: one_hot}[function]


def assert_within(got, expected, size):
    """4 ulps of float32 at the size of the terms, which may cancel."""
    assert np.all(abs(exact(got) - expected) <= 4 * 2.0**-24 * size)


@cache
def on_every_label(dtype):
    """Of integer and of one-hot labels, compiled together; and the probabilities."""
    rows, labels = EVERY_LABEL
    with precision(dtype):
        logits, one_hot = array(rows, dtype), array(np.eye(5)[labels], dtype)
        both = jax.jit(lambda logits, labels, one_hot: (INTEGER(logits, labels), FLOAT(logits, one_hot)))
        return *results(both, logits, labels, one_hot), exact_softmax(logits)


@in_every_dtype
def test_integer_label_loss_and_gradient_are_exact(dtype):  # (M11, M19, M20)
    (losses, gradients), _, probs = on_every_label(dtype)
    _, labels = EVERY_LABEL
    assert_close(losses, -log(probs[np.arange(len(labels)), labels]), loss_dtype(dtype))
    assert_close(gradients, probs - exact(np.eye(5)[labels]), dtype)


@in_every_dtype
def test_one_hot_labels_give_the_loss_and_gradient_of_integer_labels_exactly(dtype):  # (M11, M20)
    _, (losses, by_logits, by_labels), probs = on_every_label(dtype)
    _, labels = EVERY_LABEL
    assert_close(losses, -log(probs[np.arange(len(labels)), labels]), loss_dtype(dtype))
    assert_close(by_logits, probs - exact(np.eye(5)[labels]), dtype)
    assert_close(by_labels, -log(probs), dtype)  # (M12)


@pytest.mark.parametrize("kind", TARGETS)
def test_gradient_of_any_real_labels_is_s_times_their_sum_less_them(kind):  # (M11, M12)
    with precision("float32"):
        logits = array(ORDINARY_ROWS, "float32")
        labels = array(np.broadcast_to(TARGETS[kind], logits.shape), "float32")
        losses, by_logits, by_labels = FLOAT(logits, labels)
        probs, targets = exact_softmax(logits), exact(labels)
        terms = -targets * log(probs)
        assert_within(losses, terms.sum(-1), abs(terms).sum(-1))
        expected = probs * targets.sum(-1, keepdims=True) - targets
        assert_within(by_logits, expected, probs * abs(targets.sum(-1, keepdims=True)) + abs(targets))
        assert_close(by_labels, -log(probs), "float32")


@pytest.mark.parametrize("kind", TARGETS)
def test_float_label_derivatives_are_autodiff_of_the_textbook_formula(kind):
    with precision("float64"):
        logits = np.array(ORDINARY_ROWS)
        labels = np.broadcast_to(TARGETS[kind], logits.shape)
        for got, judge in zip(FLOAT(logits, labels), TEXTBOOK(logits, labels), strict=True):
            np.testing.assert_allclose(got, judge, rtol=1e-14, atol=1e-14)  # the judge's own rounding


@pytest.mark.parametrize("argument", [0, 1])
def test_float_label_derivatives_are_limits_of_difference_quotients(argument):
    with precision("float64"):
        arguments = [np.array(ORDINARY_ROWS), np.broadcast_to(TARGETS["signed"], (4, 5))]

        def of_one(values):
            return FLOAT_LABELS(*(values if i == argument else a[0] for i, a in enumerate(arguments)))

        quotients = finite_differences(of_one, arguments[argument][0])
        gradient = results(FLOAT, *arguments)[1 + argument][0]
        np.testing.assert_allclose(gradient, quotients, rtol=0, atol=FINITE_DIFFERENCE)


def test_integer_label_gradient_is_the_limit_of_difference_quotients():
    with precision("float64"):
        quotients = finite_differences(lambda x: INTEGER_LABELS(x, 2), np.array(ORDINARY_ROWS[0]))
        (_, gradients), *_ = on_every_label("float64")
        gradient = gradients[2]  # of the first row and label 2
        np.testing.assert_allclose(gradient, quotients, rtol=0, atol=FINITE_DIFFERENCE)


INTEGER_SIGNATURES = [(0, None), ((-1, -2, 0), None), (-1, MASK[:, :, 0]), ((2, 1), MASK)]
FLOAT_SIGNATURES = [((2, 0), None), (None, None), ((2, 1), MASK), (-1, MASK[:, :, 0])]


def integer_labels(axis):
    axes = np.atleast_1d(axis)
    return RNG.integers(0, np.prod(np.array(X.shape)[axes]), np.delete(X.shape, axes))


def of_both_on(functions, labels, axis, where):
    """Ours and optax's on a signature, compiled together."""
    with precision("float64"):
        return jax.jit(lambda logits, labels: [f(logits, labels, axis, where) for f in functions])(X, labels)


@in_tiers("at", range(4), first=[0, 3])
def test_integer_labels_equal_optax_on_its_whole_signature(at):
    axis, where = INTEGER_SIGNATURES[at]
    for got, expected in zip(*of_both_on((INTEGER, OPTAX_INTEGER), integer_labels(axis), axis, where), strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-13, atol=1e-15, strict=True)


@in_tiers("at", range(4), first=[0, 2])
def test_float_labels_equal_optax_on_its_whole_signature(at):
    ours, (losses, by_logits, by_labels) = of_both_on((FLOAT, OPTAX_FLOAT), T, *FLOAT_SIGNATURES[at])
    theirs = losses, by_logits, np.nan_to_num(by_labels)  # optax gives a masked label gradient nan, not 0
    for got, expected in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-12, atol=1e-14)


@of_both
def test_mask_of_the_batch_leaves_whole_rows_out(function):
    logits, rows = array([[1.0, 2.0, 4.0], [NAN, NAN, NAN]], "float32"), np.array([True, False])
    losses, gradients = results(EVALUATE[function], logits, labels_for(function, logits), where=rows)
    np.testing.assert_allclose(losses, [np.log(1 + np.e + np.e**3), 0], rtol=1e-6)
    np.testing.assert_array_equal(gradients[1], 0)


@of_both
def test_masked_logit_counts_for_nothing_whatever_it_holds(function):
    logits = array([[0.5, hidden, -1.0] for hidden in (0.0, 1e30, INF, -INF, NAN)], "float32")
    labels = labels_for(function, logits)
    losses, gradients = results(EVALUATE[function], logits, labels, where=np.array([[True, False, True]]))
    left = logits[:, ::2]
    expected, kept = results(EVALUATE[function], left, labels_for(function, left))
    np.testing.assert_array_equal(losses, expected)
    np.testing.assert_array_equal(gradients[:, ::2], kept)
    np.testing.assert_array_equal(gradients[:, 1], 0)


def test_label_on_a_masked_logit_still_names_it_as_in_optax():
    logits, labels, where = np.array([[1.0, 2.0, 4.0]]), np.array([1]), np.array([[True, False, True]])
    with precision("float64"):
        for got, expected in zip(*(f(logits, labels, where=where) for f in (INTEGER, OPTAX_INTEGER)), strict=True):
            np.testing.assert_allclose(got, expected, rtol=1e-15)


def test_labels_broadcast_with_the_logits_and_their_gradient_sums_over_the_copies():
    with precision("float64"):
        losses, by_logits, by_labels = FLOAT(X, T[0, 0])
        repeated = FLOAT(X, np.broadcast_to(T[0, 0], X.shape))
        np.testing.assert_array_equal(losses, repeated[0])
        np.testing.assert_array_equal(by_logits, repeated[1])
        np.testing.assert_allclose(by_labels, np.sum(repeated[2], (0, 1)), rtol=1e-14)


def test_integer_one_hot_labels_are_weights():
    logits, one_hot = array(ORDINARY_ROWS, "float32"), np.eye(5, dtype=np.int32)[[0, 1, 2, 3]]
    got, expected = (jax.jit(FLOAT_LABELS)(logits, labels) for labels in (one_hot, one_hot.astype(np.float32)))
    np.testing.assert_array_equal(got, expected)


PRODUCERS = {"scale": lambda h: 1.1 * h, "softcap": lambda h: 35 * jnp.tanh(h / 35)}


@pytest.mark.parametrize(
    ("producer", "function"),
    [
        pytest.param("scale", INTEGER_LABELS, id="scale, integer"),
        pytest.param("softcap", FLOAT_LABELS, id="softcap, float", marks=pytest.mark.slow),
        pytest.param("scale", FLOAT_LABELS, id="scale, float", marks=pytest.mark.slow),
        pytest.param("softcap", INTEGER_LABELS, id="softcap, integer", marks=pytest.mark.slow),
    ],
)
def test_producing_the_logits_inside_the_same_jit_keeps_the_tail(producer, function):
    h = np.random.default_rng(0).normal(size=(256, 8)) + 30 * np.eye(8)[0]
    h = np.asarray(h, np.float32)
    logits = np.asarray(jax.jit(PRODUCERS[producer])(h), np.float64)
    remainder = np.sum(np.exp(logits[:, 1:] - logits[:, :1]), -1)

    def loss(logits):
        return jnp.sum(function(logits, labels))

    labels, produce = labels_for(function, h), PRODUCERS[producer]
    losses = jax.jit(lambda h: function(produce(h), labels))(h)
    gradient = np.asarray(jax.jit(lambda h: jax.grad(loss)(produce(h)))(h))
    # XLA rounds 1.1 h - m once, not twice: a difference of 30 to 64 moves by 2^-19, 32 ulps of its exponential.
    assert_close(losses, np.log1p(remainder), "float32", 32)
    assert_close(gradient[:, 0], -remainder / (1 + remainder), "float32", 32)


@of_both
@pytest.mark.parametrize("dtype", ["bfloat16", pytest.param("float16", marks=pytest.mark.slow)])
def test_multiplying_to_16_bit_logits_inside_the_same_jit_rounds_them_once(dtype, function):
    """XLA may skip the rounding of an intermediate, but not in one place and not in another."""
    rng = np.random.default_rng(0)
    hidden, kernel = array(4 * rng.normal(size=(64, 32)), dtype), array(rng.normal(size=(32, 16)), dtype)
    logits = np.asarray(jax.jit(jnp.matmul)(hidden, kernel))
    classes = np.argmax(logits, -1)
    labels = {INTEGER_LABELS: classes, FLOAT_LABELS: array(np.eye(16)[classes], dtype)}[function]

    def loss(logits):
        return jnp.sum(function(logits, labels))

    losses = jax.jit(lambda hidden, kernel: function(hidden @ kernel, labels))(hidden, kernel)
    gradient = jax.jit(lambda hidden, kernel: jax.grad(loss)(hidden @ kernel))(hidden, kernel)
    probs = exact_softmax(logits)
    assert_close(losses, -log(probs[np.arange(64), classes]), "float32")
    assert_close(gradient, probs - exact(np.eye(16)[classes]), dtype)
