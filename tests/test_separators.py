"""The inputs on which other libraries differ from the truth, and sweeps of confident rows: each against mpmath.

Source of the rows: jax#40344, jax#6811, optax, torch and Liger, as the project's comparison of its peers records them.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxsoftmax
from jaxsoftmax import forward_mode
from tests.tiers import in_tiers
from tests.tolerances import DTYPES, array, assert_close, exact, exact_softmax, log, loss_dtype, precision

INF = np.inf
CONFIDENT = [0.0, -20.0, -INF]
SHIFTED = [1e4, 9990.0, 9980.0]
LARGE = [1e6, 1e6 - 0.5, 1e6 - 0.9375]
GAP_40 = [40.0, 0.0, -INF]
MASKED = [0.0, -INF, 1.0]
ROWS = [CONFIDENT, SHIFTED, GAP_40, MASKED]
MANY = [0.0] + [-17.0] * 4095
in_each_dtype = in_tiers("dtype", DTYPES, first=["float32"])


def losses_of(library, labels):
    """Every loss of `library`, for integer labels and for the same as one-hot labels."""

    def one_hot(x):
        return (jnp.arange(x.shape[-1]) == labels[..., None]).astype(x.dtype)

    return {
        "integer labels": lambda x: library.softmax_cross_entropy_with_integer_labels(x, labels),
        "one-hot labels": lambda x: library.softmax_cross_entropy(x, one_hot(x)),
        "training, integer": lambda x: library.cross_entropy(x, labels, reduction="none"),
        "training, one-hot": lambda x: library.cross_entropy(x, one_hot(x), reduction="none"),
    }


def with_gradient(loss):
    return lambda x: (loss(x), jax.grad(lambda x: jnp.sum(loss(x)))(x))


@jax.jit
def every_loss(logits, labels):
    return {
        (library.__name__, name): with_gradient(loss)(logits)
        for library in (jaxsoftmax, forward_mode)
        for name, loss in losses_of(library, labels).items()
    }


@jax.jit
def drop_in(logits, labels):
    return with_gradient(losses_of(jaxsoftmax, labels)["integer labels"])(logits)


@jax.jit
def every_primitive(logits):
    """logsumexp and its gradient, softmax, log-softmax."""
    log_sum, gradient = with_gradient(lambda x: jaxsoftmax.logsumexp(x, -1))(logits)
    return log_sum, gradient, jaxsoftmax.softmax(logits), jaxsoftmax.log_softmax(logits)


def zeros_of(logits):
    return np.zeros(len(logits), np.int32)


def assert_every_loss_is_exact(logits, dtype):
    probs = exact_softmax(logits)
    for losses, gradients in every_loss(logits, zeros_of(logits)).values():
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


@in_each_dtype
def test_every_loss_and_gradient_is_exact_on_every_separator(dtype):
    with precision(dtype):
        assert_every_loss_is_exact(array(ROWS, dtype), dtype)


@in_each_dtype
def test_every_primitive_is_exact_on_every_separator(dtype):
    with precision(dtype):
        assert_every_primitive_is_exact(array(ROWS, dtype), dtype)


@in_each_dtype
def test_4095_tails_of_minus_17_add_up_exactly(dtype):
    with precision(dtype):
        logits = array([MANY], dtype)
        share = exact_softmax([[0.0, -17.0]])[0]
        remainder = 4095 * share[1] / share[0]
        loss, gradient = drop_in(logits, zeros_of(logits))
        assert_close(loss, log(1 + exact([remainder])), loss_dtype(dtype))
        assert_close(gradient[0, :2], np.array([-remainder, remainder / 4095]) / (1 + remainder), dtype)


@in_tiers("dtype", ["float32", "bfloat16", "float64"], first=["float32"])  # float16 ends at 65504
def test_softmax_at_a_million_is_exact(dtype):
    with precision(dtype):
        logits = array([LARGE] * 4, dtype)
        assert_every_loss_is_exact(logits, dtype)
        assert_every_primitive_is_exact(logits, dtype)


def test_float32_softmax_at_a_million_is_the_published_triple():
    _, _, got, _ = every_primitive(array([LARGE] * 4, "float32"))
    np.testing.assert_allclose(got[0], [0.500466363, 0.303548193, 0.195985444], rtol=2.0**-23)


def test_softmax_vjp_at_a_gap_of_40_is_the_published_pair_of_sum_0():  # (jax#40344)
    with precision("float64"):
        gradient = jax.jit(jax.grad(lambda x: jaxsoftmax.softmax(x)[0]))(np.array([40.0, 0.0]))
        np.testing.assert_allclose(gradient, [4.248354255e-18, -4.248354255e-18], rtol=1e-9)
        assert np.sum(gradient) == 0


@in_each_dtype
def test_row_of_minus_infinities_costs_infinity_with_gradient_0(dtype):  # (jax#6811)
    with precision(dtype):
        logits = array([[-INF] * 3] * 4, dtype)
        for losses, gradients in every_loss(logits, zeros_of(logits)).values():
            np.testing.assert_array_equal(losses, INF)
            np.testing.assert_array_equal(np.asarray(gradients), 0)


@pytest.mark.parametrize("loss", ["integer labels", "training, integer"])
@pytest.mark.parametrize("library", [jaxsoftmax, forward_mode], ids=["reverse", "forward"])
@in_each_dtype
def test_label_outside_the_vocabulary_is_nan_throughout_and_never_wraps(dtype, library, loss):
    with precision(dtype):
        outcomes = every_loss(array([[0.0, 1.0, 2.0]] * 4, dtype), np.array([-1, 3, -4, 100], np.int32))
        losses, gradients = outcomes[library.__name__, loss]
        assert np.isnan(np.asarray(losses)).all()
        assert np.isnan(np.asarray(gradients)).all()


def test_262144_zeros_of_bfloat16_are_all_counted():
    loss = losses_of(jaxsoftmax, jnp.zeros(1, int))["integer labels"]
    assert_close(jax.jit(loss)(array(np.zeros((1, 262144)), "bfloat16")), log(exact([262144])), "float32")


SWEEPS = {"float32": np.linspace(1, 85, 169), "float64": np.linspace(1, 700, 234)}
of_either_dtype = pytest.mark.parametrize("dtype", ["float32", pytest.param("float64", marks=pytest.mark.slow)])


@pytest.mark.parametrize("label", [0, 1], ids=["the maximum", "the other"])
@of_either_dtype
def test_sweep_of_gaps_is_exact_where_differences_are(dtype, label):
    with precision(dtype):
        gaps = np.round(SWEEPS[dtype] * 64) / 64  # exact in either dtype, as is their difference from 0
        logits = array(np.stack([0 * gaps, -gaps], -1), dtype)
        loss, gradient = drop_in(logits, zeros_of(logits) + label)
        probs = exact_softmax(logits)
        assert_close(loss, -log(probs[:, label]), dtype)
        assert_close(gradient, probs - exact(np.eye(2)[label]), dtype)


@of_either_dtype
def test_sweep_of_gaps_has_only_the_error_of_rounding_differences(dtype):
    with precision(dtype):
        gaps = SWEEPS[dtype]
        logits = array(np.stack([np.full_like(gaps, np.pi), np.pi - gaps], -1), dtype)
        loss, gradient = drop_in(logits, zeros_of(logits))
        probs = exact_softmax(logits - logits[:, :1])  # of the differences that NumPy rounds to `dtype`
        assert_close(loss, -log(probs[:, 0]), dtype)
        assert_close(gradient, probs - exact([1, 0]), dtype)
