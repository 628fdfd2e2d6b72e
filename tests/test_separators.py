"""The inputs on which other libraries differ from the truth, and sweeps of confident rows: each to 50 digits and more.

Source of the rows: jax#40344, jax#6811, optax, torch and Liger, as the project's comparison of its peers records them.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxsoftmax
from jaxsoftmax import forward_mode
from tests.tolerances import DTYPES, array, assert_close, exact, exact_softmax, log, loss_dtype, precision

INF = np.inf
CONFIDENT = [0.0, -20.0, -INF]
SHIFTED = [1e4, 9990.0, 9980.0]
LARGE = [1e6, 1e6 - 0.5, 1e6 - 0.9375]
GAP_40 = [40.0, 0.0, -INF]
MASKED = [0.0, -INF, 1.0]
ROWS = [CONFIDENT, SHIFTED, GAP_40, MASKED]
MANY = [0.0] + [-17.0] * 4095

in_every_dtype = pytest.mark.parametrize("dtype", DTYPES)


def one_hot_of(logits):
    return (jnp.arange(logits.shape[-1]) == 0).astype(logits.dtype) * jnp.ones_like(logits[..., :1])


def zeros_of(logits):
    return jnp.zeros(logits.shape[:-1], int)


def losses_of(library):
    """Every loss of `library`, for label 0."""
    return {
        "integer labels": lambda x: library.softmax_cross_entropy_with_integer_labels(x, zeros_of(x)),
        "one-hot labels": lambda x: library.softmax_cross_entropy(x, one_hot_of(x)),
        "training, integer": lambda x: library.cross_entropy(x, zeros_of(x), reduction="none"),
        "training, one-hot": lambda x: library.cross_entropy(x, one_hot_of(x), reduction="none"),
    }


def with_gradient(loss):
    return lambda x: (loss(x), jax.grad(lambda x: jnp.sum(loss(x)))(x))


@jax.jit
def every_loss(logits):
    return {
        (library.__name__, name): with_gradient(loss)(logits)
        for library in (jaxsoftmax, forward_mode)
        for name, loss in losses_of(library).items()
    }


@jax.jit
def every_primitive(logits):
    """logsumexp and its gradient, softmax, log-softmax."""
    log_sum, gradient = with_gradient(lambda x: jaxsoftmax.logsumexp(x, -1))(logits)
    return log_sum, gradient, jaxsoftmax.softmax(logits), jaxsoftmax.log_softmax(logits)


def assert_every_loss_is_exact(logits, dtype):
    probs = exact_softmax(logits)
    for losses, gradients in every_loss(logits).values():
        assert_close(losses, -log(probs[:, 0]), loss_dtype(dtype))
        assert_close(gradients, probs - exact(np.eye(probs.shape[1])[0]), dtype)


def assert_every_primitive_is_exact(logits, dtype):
    probs = exact_softmax(logits)
    log_sum, gradient, softmax, log_softmax = every_primitive(logits)
    assert_close(log_sum, exact(logits)[:, 0] - log(probs[:, 0]), dtype)
    assert_close(gradient, probs, dtype)
    assert_close(softmax, probs, dtype)
    finite = probs != 0
    logarithms = np.where(finite, log(np.where(finite, probs, 1)), exact(-INF))
    assert_close(log_softmax, logarithms, dtype)


@in_every_dtype
def test_every_loss_and_gradient_is_exact_on_every_separator(dtype):
    with precision(dtype):
        assert_every_loss_is_exact(array(ROWS, dtype), dtype)


@in_every_dtype
def test_every_primitive_is_exact_on_every_separator(dtype):
    with precision(dtype):
        assert_every_primitive_is_exact(array(ROWS, dtype), dtype)


@in_every_dtype
def test_4095_tails_of_minus_17_add_up_exactly(dtype):
    with precision(dtype):
        logits = array([MANY], dtype)
        share = exact_softmax([[0.0, -17.0]])[0]
        remainder = 4095 * share[1] / share[0]
        loss, gradient = jax.jit(with_gradient(losses_of(jaxsoftmax)["integer labels"]))(logits)
        assert_close(loss, log(1 + exact([remainder])), loss_dtype(dtype))
        assert_close(gradient[0, :2], np.array([-remainder, remainder / 4095]) / (1 + remainder), dtype)


@pytest.mark.parametrize("dtype", ["bfloat16", "float32", "float64"])  # float16 ends at 65504
def test_softmax_at_a_million_is_exact(dtype):
    with precision(dtype):
        logits = array([LARGE] * 4, dtype)
        assert_every_loss_is_exact(logits, dtype)
        assert_every_primitive_is_exact(logits, dtype)


PUBLISHED = {
    "a gap of 20": (CONFIDENT, 2.06115362e-9),
    "4095 tails": (MANY, 1.69516081e-4),
    "a shift of 1e4": (SHIFTED, 4.54009603e-5),
    "a masked class": (MASKED, 1.31326169),
}


@pytest.mark.parametrize("separator", PUBLISHED)
def test_float32_loss_is_the_published_number(separator):
    logits, loss = PUBLISHED[separator]
    got = jaxsoftmax.softmax_cross_entropy_with_integer_labels(array(logits, "float32"), 0)
    # XLA's exp(-17) is wrong by half an ulp, and 4095 equal terms are rounded the same way wherever they are added.
    np.testing.assert_allclose(got, loss, rtol=2 * 2.0**-23)


def test_float32_softmax_at_a_million_is_the_published_triple():
    got = jaxsoftmax.softmax(array(LARGE, "float32"))
    np.testing.assert_allclose(got, [0.500466363, 0.303548193, 0.195985444], rtol=2.0**-23)


def test_softmax_vjp_at_a_gap_of_40_is_the_published_pair_of_sum_0():  # (jax#40344)
    with precision("float64"):
        gradient = jax.grad(lambda x: jaxsoftmax.softmax(x)[0])(np.array([40.0, 0.0]))
        np.testing.assert_allclose(gradient, [4.248354255e-18, -4.248354255e-18], rtol=1e-9)
        assert np.sum(gradient) == 0


@in_every_dtype
def test_row_of_minus_infinities_has_log_sum_minus_infinity_and_gradient_0(dtype):  # (jax#6811)
    with precision(dtype):
        log_sum, gradient, softmax, _ = every_primitive(array([[-INF] * 3] * 4, dtype))
        np.testing.assert_array_equal(np.asarray(log_sum), -INF)
        np.testing.assert_array_equal(np.asarray(gradient), 0)
        np.testing.assert_array_equal(np.asarray(softmax), 0)


@in_every_dtype
def test_row_of_minus_infinities_costs_infinity_with_gradient_0(dtype):  # (jax#6811)
    with precision(dtype):
        for losses, gradients in every_loss(array([[-INF] * 3] * 4, dtype)).values():
            np.testing.assert_array_equal(losses, INF)
            np.testing.assert_array_equal(np.asarray(gradients), 0)


@pytest.mark.parametrize("library", [jaxsoftmax, forward_mode], ids=["reverse", "forward"])
@in_every_dtype
def test_label_outside_the_vocabulary_is_nan_throughout_and_never_wraps(dtype, library):
    with precision(dtype):
        logits, labels = array([[0.0, 1.0, 2.0]] * 4, dtype), np.array([-1, 3, -4, 100])
        loss = with_gradient(lambda x: library.cross_entropy(x, labels, reduction="none"))
        drop_in = with_gradient(lambda x: library.softmax_cross_entropy_with_integer_labels(x, labels))
        for outcome in jax.tree.leaves(jax.jit(lambda x: (loss(x), drop_in(x)))(logits)):
            assert np.isnan(np.asarray(outcome)).all()


def test_262144_zeros_of_bfloat16_are_all_counted():
    zeros = array(np.zeros((1, 262144)), "bfloat16")
    assert_close(jax.jit(losses_of(jaxsoftmax)["integer labels"])(zeros), log(exact([262144])), "float32")
    assert_close(jax.jit(lambda x: jaxsoftmax.logsumexp(x, -1))(zeros), log(exact([262144])), "bfloat16")


SWEEPS = {"float32": np.linspace(1, 85, 169), "float64": np.linspace(1, 700, 234)}


@pytest.mark.parametrize("label", [0, 1], ids=["the maximum", "the other"])
@pytest.mark.parametrize("dtype", SWEEPS)
def test_sweep_of_gaps_is_exact_where_differences_are(dtype, label):
    with precision(dtype):
        gaps = np.round(SWEEPS[dtype] * 64) / 64  # exact in either dtype, as is their difference from 0
        logits = array(np.stack([0 * gaps, -gaps], -1), dtype)
        loss, gradient = jax.jit(
            with_gradient(lambda x: jaxsoftmax.softmax_cross_entropy_with_integer_labels(x, zeros_of(x) + label))
        )(logits)
        probs = exact_softmax(logits)
        assert_close(loss, -log(probs[:, label]), dtype)
        assert_close(gradient, probs - exact(np.eye(2)[label]), dtype)


@pytest.mark.parametrize("dtype", SWEEPS)
def test_sweep_of_gaps_has_only_the_error_of_rounding_differences(dtype):
    """A difference d, rounded by half an ulp, moves its exponential by d / 2 ulps."""
    with precision(dtype):
        gaps = SWEEPS[dtype]
        logits = array(np.stack([np.full_like(gaps, np.pi), np.pi - gaps], -1), dtype)
        loss, gradient = jax.jit(with_gradient(losses_of(jaxsoftmax)["integer labels"]))(logits)
        probs = exact_softmax(logits)
        for got, expected in ((loss, -log(probs[:, 0])), (-gradient[:, 0], probs[:, 1]), (gradient[:, 1], probs[:, 1])):
            relative = abs(exact(got) / expected - 1).astype(float)
            assert np.all(relative <= (4 + gaps / 2) * jnp.finfo(dtype).eps)
