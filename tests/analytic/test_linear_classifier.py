"""The linear softmax classifier: the closed forms against loops, matrix algebra, autodiff and finite differences."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsoftmax import analytic
from tests.analytic.judges import assert_close, exact, exact_row, finite_differences, textbook_cross_entropy

SAMPLES, EMBED, VOCAB = 6, 3, 4
PENALTIES = {"sum": 1.0, "half": 0.5}
L2 = 0.25


def problem(dtype=np.float64):
    rng = np.random.default_rng(0)
    hidden, kernel, bias = (rng.normal(size=shape) for shape in ((SAMPLES, EMBED), (EMBED, VOCAB), (VOCAB,)))
    return hidden.astype(dtype), kernel.astype(dtype), rng.integers(0, VOCAB, SAMPLES), bias.astype(dtype)


def textbook_loss(hidden, kernel, bias, targets, l2=0.0, convention="sum"):
    nll = textbook_cross_entropy(hidden @ kernel + bias, targets)
    return jnp.mean(nll) + PENALTIES[convention] * l2 * jnp.sum(kernel**2)


def naive_gradients(hidden, kernel, labels, bias, l2, convention):
    """Loops over samples and classes: column j gets x_i s_ij, and x_i (s_ij - 1) when j is the label."""
    hidden_bar, kernel_bar, bias_bar = np.zeros_like(hidden), np.zeros_like(kernel), np.zeros_like(bias)
    for i in range(SAMPLES):
        scores = hidden[i] @ kernel + bias
        weights = np.exp(scores - scores.max())
        for j in range(VOCAB):
            residual = weights[j] / weights.sum() - (j == labels[i])
            kernel_bar[:, j] += hidden[i] * residual / SAMPLES
            bias_bar[j] += residual / SAMPLES
            hidden_bar[i] += kernel[:, j] * residual / SAMPLES
    return hidden_bar, kernel_bar + 2 * PENALTIES[convention] * l2 * kernel, bias_bar


def vectorised_gradients(hidden, kernel, labels, bias, l2, convention):
    """The same in matrix algebra."""
    scores = hidden @ kernel + bias
    weights = np.exp(scores - scores.max(1, keepdims=True))
    residual = weights / weights.sum(1, keepdims=True)
    residual[np.arange(SAMPLES), labels] -= 1
    residual /= SAMPLES
    return residual @ kernel.T, hidden.T @ residual + 2 * PENALTIES[convention] * l2 * kernel, residual.sum(0)


@pytest.mark.parametrize("convention", PENALTIES)
@pytest.mark.parametrize("version", [naive_gradients, vectorised_gradients])
def test_gradients_are_those_of_the_loops_and_of_the_matrices(version, convention):  # (M16), (M17)
    hidden, kernel, labels, bias = problem()
    with jax.enable_x64(True):
        gradients = analytic.linear_cross_entropy_gradients(hidden, kernel, labels, bias, L2, convention)
        for actual, expected in zip(gradients, version(*problem(), L2, convention), strict=True):
            np.testing.assert_allclose(actual, expected, rtol=1e-13, atol=1e-15)


@pytest.mark.parametrize("convention", PENALTIES)
def test_gradients_are_autodiff_of_the_textbook_loss(convention):  # (M16), (M17)
    hidden, kernel, labels, bias = problem()
    with jax.enable_x64(True):
        targets = np.eye(VOCAB)[labels]
        expected = jax.grad(textbook_loss, (0, 1, 2))(hidden, kernel, bias, targets, L2, convention)
        gradients = analytic.linear_cross_entropy_gradients(hidden, kernel, labels, bias, L2, convention)
        for actual, judge in zip(gradients, expected, strict=True):
            np.testing.assert_allclose(actual, judge, rtol=1e-13, atol=1e-15)


def test_gradients_for_float_targets_of_any_sum_are_autodiff_of_the_textbook_loss():  # (M16) with (M11)
    hidden, kernel, _, bias = problem()
    targets = np.random.default_rng(1).normal(size=(SAMPLES, VOCAB))
    with jax.enable_x64(True):
        expected = jax.grad(textbook_loss, (0, 1, 2))(hidden, kernel, bias, targets)
        gradients = analytic.linear_cross_entropy_gradients(hidden, kernel, targets, bias)
        for actual, judge in zip(gradients, expected, strict=True):
            np.testing.assert_allclose(actual, judge, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("convention", PENALTIES)
def test_kernel_gradient_is_finite_differences(convention):  # (M16), (M17)
    hidden, kernel, labels, bias = problem()
    targets = np.eye(VOCAB)[labels]

    def loss_of_flat(flat):
        return textbook_loss(hidden, flat.reshape(EMBED, VOCAB), bias, targets, L2, convention)

    with jax.enable_x64(True):
        expected = finite_differences(loss_of_flat, kernel.reshape(-1)).reshape(EMBED, VOCAB)
        gradients = analytic.linear_cross_entropy_gradients(hidden, kernel, labels, bias, L2, convention)
        np.testing.assert_allclose(gradients.kernel, expected, atol=1e-8)


def test_the_two_penalties_differ_by_a_factor_of_two():  # (M17)
    hidden, kernel, labels, _ = problem(np.float32)
    as_sum = analytic.linear_cross_entropy_gradients(hidden, kernel, labels, l2=L2, l2_convention="sum")
    as_half = analytic.linear_cross_entropy_gradients(hidden, kernel, labels, l2=2 * L2, l2_convention="half")
    without = analytic.linear_cross_entropy_gradients(hidden, kernel, labels)
    np.testing.assert_array_equal(as_sum.kernel, as_half.kernel)
    np.testing.assert_allclose(as_sum.kernel - without.kernel, 2 * L2 * kernel, rtol=1e-5)
    np.testing.assert_array_equal(as_sum.hidden, without.hidden)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float32, jnp.float64])
def test_a_confident_classifier_keeps_its_tail_gradient(dtype):  # (M16), (M20), jax#40344
    hidden, kernel = np.ones((1, 1), dtype), np.array([[20.0, 0.0, 0.5, -1.0]], dtype)
    with jax.enable_x64(dtype == jnp.float64):
        gradients = analytic.linear_cross_entropy_gradients(hidden, kernel, np.array([0]), np.zeros(4, dtype))
    probs, complement = exact_row(kernel)
    residual = np.where(np.arange(4) == 0, -complement, probs)
    assert_close(gradients.kernel, residual)
    assert_close(gradients.bias, residual[0])
    assert_close(gradients.hidden, residual @ exact(kernel).T, complement[:, :1] * 20)
    assert {leaf.dtype for leaf in gradients} == {jnp.dtype(dtype)}


def test_leading_axes_are_samples():
    hidden, kernel, labels, bias = problem(np.float32)
    flat = analytic.linear_cross_entropy_gradients(hidden, kernel, labels, bias)
    shaped = analytic.linear_cross_entropy_gradients(hidden.reshape(2, 3, EMBED), kernel, labels.reshape(2, 3), bias)
    single = analytic.linear_cross_entropy_gradients(hidden[0], kernel, labels[0], bias)
    np.testing.assert_allclose(shaped.hidden.reshape(SAMPLES, EMBED), flat.hidden, rtol=1e-6)
    np.testing.assert_allclose(shaped.kernel, flat.kernel, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(single.hidden, SAMPLES * flat.hidden[0], rtol=1e-5)
    assert single.kernel.shape == kernel.shape


def test_each_gradient_has_its_arguments_dtype_and_an_absent_bias_none():
    hidden, kernel, labels, _ = problem()
    gradients = analytic.linear_cross_entropy_gradients(hidden.astype(jnp.bfloat16), kernel.astype(np.float32), labels)
    assert (gradients.hidden.dtype, gradients.kernel.dtype) == (jnp.bfloat16, jnp.float32)
    assert gradients.bias is None


def test_no_samples_leave_the_penalty_alone():  # (M27)
    kernel = np.ones((EMBED, VOCAB), np.float32)
    gradients = analytic.linear_cross_entropy_gradients(
        np.zeros((0, EMBED), np.float32), kernel, np.zeros(0, np.int32), np.zeros(VOCAB, np.float32), L2
    )
    assert gradients.hidden.shape == (0, EMBED)
    np.testing.assert_array_equal(gradients.kernel, 2 * L2 * kernel)
    np.testing.assert_array_equal(gradients.bias, np.zeros(VOCAB))


def test_a_label_out_of_range_gives_nan_to_its_sample_and_to_the_parameters():
    hidden, kernel, labels, bias = problem(np.float32)
    labels[2] = VOCAB
    gradients = analytic.linear_cross_entropy_gradients(hidden, kernel, labels, bias)
    np.testing.assert_array_equal(np.isnan(gradients.hidden).all(1), np.arange(SAMPLES) == 2)
    assert np.isnan(gradients.kernel).all()
    assert np.isnan(gradients.bias).all()


def test_a_wrong_argument_is_named():
    hidden, kernel, labels, bias = problem(np.float32)
    gradients = analytic.linear_cross_entropy_gradients
    with pytest.raises(ValueError, match=r"kernel: expected shape \(3, 4\).*got \(4, 4\)"):
        gradients(hidden, np.zeros((4, 4), np.float32), labels)
    with pytest.raises(ValueError, match=r"kernel: expected shape \[embed, vocab\], got \(3,\)"):
        gradients(hidden, np.zeros(3, np.float32), labels)
    with pytest.raises(ValueError, match=r"bias: expected shape \(4,\).*got \(3,\)"):
        gradients(hidden, kernel, labels, bias[:3])
    with pytest.raises(ValueError, match=r"labels: expected shape \(6,\).*got \(5,\)"):
        gradients(hidden, kernel, labels[:5])
    with pytest.raises(ValueError, match=r"l2_convention: expected 'sum' or 'half', got 'mean'"):
        gradients(hidden, kernel, labels, l2_convention="mean")
    with pytest.raises(TypeError, match=r"hidden: expected a floating dtype, got int32"):
        gradients(labels.astype(np.int32)[:, None], kernel, labels)
