"""The linear softmax classifier: the closed forms against loops, matrix algebra, autodiff and finite differences."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsoftmax import analytic
from tests.tolerances import (
    FINITE_DIFFERENCE,
    array,
    assert_close,
    exact,
    exact_softmax,
    finite_differences,
    in_every_dtype,
    precision,
)

SAMPLES, EMBED, VOCAB = 6, 3, 4
PENALTIES = {"sum": 1.0, "half": 0.5}
L2 = 0.25
FLOAT_TARGETS = np.random.default_rng(1).normal(size=(SAMPLES, VOCAB))


def problem(dtype=np.float64):
    rng = np.random.default_rng(0)
    hidden, kernel, bias = (rng.normal(size=shape) for shape in ((SAMPLES, EMBED), (EMBED, VOCAB), (VOCAB,)))
    return hidden.astype(dtype), kernel.astype(dtype), rng.integers(0, VOCAB, SAMPLES), bias.astype(dtype)


def textbook_loss(hidden, kernel, bias, targets, l2=0.0, convention="sum"):
    scores = hidden @ kernel + bias
    nll = jnp.sum(targets * (jnp.log(jnp.sum(jnp.exp(scores), -1, keepdims=True)) - scores), -1)
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
    """The gradients of the mean loss by the formulas of matrix algebra."""
    scores = hidden @ kernel + bias
    weights = np.exp(scores - scores.max(1, keepdims=True))
    residual = weights / weights.sum(1, keepdims=True)
    residual[np.arange(SAMPLES), labels] -= 1
    residual /= SAMPLES
    return residual @ kernel.T, hidden.T @ residual + 2 * PENALTIES[convention] * l2 * kernel, residual.sum(0)


@jax.jit
def closed_forms(hidden, kernel, labels, bias, targets):
    gradients = analytic.linear_cross_entropy_gradients
    shaped = hidden.reshape(2, 3, EMBED), kernel, labels.reshape(2, 3)
    return {
        "sum": gradients(hidden, kernel, labels, bias, L2, "sum"),
        "half": gradients(hidden, kernel, labels, bias, L2, "half"),
        "half of twice": gradients(hidden, kernel, labels, bias, 2 * L2, "half"),
        "no penalty": gradients(hidden, kernel, labels, bias),
        "float targets": gradients(hidden, kernel, targets, bias),
        "samples in two axes": gradients(*shaped, bias),
        "one sample": gradients(hidden[0], kernel, labels[0], bias),
        "each sample": jax.vmap(gradients, (0, None, 0, None))(hidden, kernel, labels, bias),
    }


@functools.cache
def gradients_in(dtype):
    with precision(dtype):
        return jax.tree.map(np.asarray, closed_forms(*problem(dtype), FLOAT_TARGETS.astype(dtype)))


@functools.cache
def by_autodiff():
    hidden, kernel, labels, bias = problem()
    one_hot = np.eye(VOCAB)[labels]

    @jax.jit
    def gradients(hidden, kernel, bias):
        of = jax.grad(textbook_loss, (0, 1, 2))
        penalised = {kind: of(hidden, kernel, bias, one_hot, L2, kind) for kind in PENALTIES}
        return {**penalised, "float targets": of(hidden, kernel, bias, FLOAT_TARGETS)}

    with precision("float64"):
        return jax.tree.map(np.asarray, gradients(hidden, kernel, bias))


@pytest.mark.parametrize("convention", PENALTIES)
@pytest.mark.parametrize("version", [naive_gradients, vectorised_gradients])
def test_gradients_are_those_of_the_loops_and_of_the_matrices(version, convention):  # (M16), (M17)
    gradients = gradients_in("float64")[convention]
    for actual, expected in zip(gradients, version(*problem(), L2, convention), strict=True):
        np.testing.assert_allclose(actual, expected, rtol=1e-13, atol=1e-15)


@pytest.mark.parametrize("convention", PENALTIES)
def test_gradients_are_autodiff_of_the_textbook_loss(convention):  # (M16), (M17)
    for actual, expected in zip(gradients_in("float64")[convention], by_autodiff()[convention], strict=True):
        np.testing.assert_allclose(actual, expected, rtol=1e-13, atol=1e-15)


def test_gradients_for_float_targets_of_any_sum_are_autodiff_of_the_textbook_loss():  # (M16) with (M11)
    for actual, expected in zip(gradients_in("float64")["float targets"], by_autodiff()["float targets"], strict=True):
        np.testing.assert_allclose(actual, expected, rtol=1e-12, atol=1e-15)


def test_kernel_gradient_is_finite_differences():  # (M16), (M17)
    hidden, kernel, labels, bias = problem()

    def loss_under_each_penalty(flat):
        targets, weights = np.eye(VOCAB)[labels], flat.reshape(EMBED, VOCAB)
        return jnp.stack([textbook_loss(hidden, weights, bias, targets, L2, convention) for convention in PENALTIES])

    with precision("float64"):
        expected = finite_differences(loss_under_each_penalty, kernel.reshape(-1))
    for convention, of_convention in zip(PENALTIES, expected, strict=True):
        got = gradients_in("float64")[convention].kernel
        np.testing.assert_allclose(got, of_convention.reshape(EMBED, VOCAB), atol=FINITE_DIFFERENCE)


def test_the_two_penalties_differ_by_a_factor_of_two():  # (M17)
    gradients, kernel = gradients_in("float32"), problem("float32")[1]
    as_sum, as_half, without = (gradients[name] for name in ("sum", "half of twice", "no penalty"))
    np.testing.assert_array_equal(as_sum.kernel, as_half.kernel)
    np.testing.assert_allclose(as_sum.kernel - without.kernel, 2 * L2 * kernel, rtol=1e-5)
    np.testing.assert_array_equal(as_sum.hidden, without.hidden)


@in_every_dtype
def test_a_confident_classifier_keeps_its_tail_gradient(dtype):  # (M16), (M20), jax#40344
    hidden, kernel, bias = (array(values, dtype) for values in ([[1.0]], [[20.0, 0.0, 0.5, -1.0]], [0.0] * 4))
    with precision(dtype):
        gradients = jax.jit(analytic.linear_cross_entropy_gradients)(hidden, kernel, np.array([0]), bias)
    s = exact_softmax(kernel)
    residual = s - exact([1, 0, 0, 0])
    assert_close(gradients.kernel, residual, dtype)
    assert_close(gradients.bias, residual[0], dtype)
    assert_close(gradients.hidden, residual @ exact(kernel).T, dtype, size=-20 * residual[:, :1])


def test_leading_axes_are_samples():
    gradients, kernel = gradients_in("float32"), problem("float32")[1]
    flat, shaped, single = (gradients[name] for name in ("no penalty", "samples in two axes", "one sample"))
    np.testing.assert_allclose(shaped.hidden.reshape(SAMPLES, EMBED), flat.hidden, rtol=1e-6)
    np.testing.assert_allclose(shaped.kernel, flat.kernel, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(single.hidden, SAMPLES * flat.hidden[0], rtol=1e-5)
    assert single.kernel.shape == kernel.shape


def test_gradients_vmapped_over_samples_are_each_sample_s_own():
    of_batch, each = (gradients_in("float64")[name] for name in ("no penalty", "each sample"))
    np.testing.assert_allclose(each.hidden / SAMPLES, of_batch.hidden, rtol=1e-13, atol=1e-15)
    np.testing.assert_allclose(each.kernel.mean(0), of_batch.kernel, rtol=1e-13, atol=1e-15)
    np.testing.assert_allclose(each.bias.mean(0), of_batch.bias, rtol=1e-13, atol=1e-15)


def test_each_gradient_has_its_arguments_dtype_and_an_absent_bias_none():
    hidden, kernel, labels, _ = problem("float32")
    gradients = jax.eval_shape(
        analytic.linear_cross_entropy_gradients, hidden.astype(jnp.bfloat16), kernel, labels.astype(np.int32)
    )
    assert (gradients.hidden.dtype, gradients.kernel.dtype) == (jnp.bfloat16, jnp.float32)
    assert gradients.bias is None


def test_no_samples_leave_the_penalty_alone():  # (M27)
    kernel = np.ones((EMBED, VOCAB), np.float32)
    gradients = jax.jit(lambda *arguments: analytic.linear_cross_entropy_gradients(*arguments, L2))(
        np.zeros((0, EMBED), np.float32), kernel, np.zeros(0, np.int32), np.zeros(VOCAB, np.float32)
    )
    assert gradients.hidden.shape == (0, EMBED)
    np.testing.assert_array_equal(gradients.kernel, 2 * L2 * kernel)
    np.testing.assert_array_equal(gradients.bias, np.zeros(VOCAB))


def test_a_label_out_of_range_gives_nan_to_its_sample_and_to_the_parameters():
    hidden, kernel, labels, bias = problem("float32")
    labels[2] = VOCAB
    gradients = closed_forms(hidden, kernel, labels, bias, FLOAT_TARGETS.astype(np.float32))["no penalty"]
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
