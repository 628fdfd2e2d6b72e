"""Cross-entropy over logits: the closed forms against autodiff, 50 digits and finite differences."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsoftmax import analytic
from tests.analytic.judges import (
    DTYPES,
    REGIMES,
    assert_close,
    exact,
    exact_row,
    finite_differences,
    log,
    logits_of,
    precision,
    sum_of_others,
    textbook_cross_entropy,
    textbook_softmax,
)

WHERE_AUTODIFF_IS_EXACT = ["ordinary", "low_scale", "shifted", "ties"]
TARGETS = {
    "one_hot": [[0.0, 0.0, 1.0, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0, 0.0]],
    "nearly_one_hot": [[2.0**-60, 2.0**-60, 1.0, 2.0**-60, 0.0], [0.0, 1.0, 2.0**-60, 0.0, 2.0**-60]],
    "smoothed": [[0.0625, 0.0625, 0.75, 0.0625, 0.0625], [0.0625, 0.75, 0.0625, 0.0625, 0.0625]],
    "sum_of_three": [[1.0, 0.5, 0.0, 1.0, 0.5], [0.0, 0.25, 2.0, 0.25, 0.5]],
    "signed": [[1.0, -0.5, 2.0, 0.0, -1.0], [-1.0, 1.0, 0.5, -0.5, 0.0]],
}
TANGENT = np.array([0.75, -1.5, 0.25, 2.0, -0.125])


def on_every_row(test):
    return pytest.mark.parametrize("regime", REGIMES)(pytest.mark.parametrize("dtype", DTYPES)(test))


def with_every_label(x):
    """Each row once per class, and that class."""
    vocab = x.shape[-1]
    rows = np.broadcast_to(x[..., None, :], (*x.shape, vocab))
    return rows, np.broadcast_to(np.arange(vocab), rows.shape[:-1])


@on_every_row
def test_gradient_for_an_integer_label_is_exact(regime, dtype):  # (M11), (M20)
    rows, labels = with_every_label(logits_of(regime, dtype))
    with precision(dtype):
        gradient = jax.jit(analytic.cross_entropy_gradient)(rows, labels)
    probs, complement = exact_row(rows)
    assert gradient.dtype == rows.dtype
    assert_close(gradient, np.where(labels[..., None] == np.arange(5), -complement, probs))


@on_every_row
@pytest.mark.parametrize("targets", TARGETS)
def test_gradient_for_float_targets_of_any_sum_is_exact(targets, regime, dtype):  # (M11)
    x, t = logits_of(regime, dtype), np.asarray(TARGETS[targets], dtype)
    with precision(dtype):
        gradient = jax.jit(analytic.cross_entropy_gradient)(x, t)
    (probs, complement), t = exact_row(x), exact(t)
    expected = probs * sum_of_others(t) - complement * t
    assert_close(gradient, expected, probs * sum_of_others(abs(t)) + complement * abs(t))


@on_every_row
def test_one_hot_targets_give_the_bits_of_their_integer_label(regime, dtype):
    rows, labels = with_every_label(logits_of(regime, dtype))
    with precision(dtype):
        from_label = jax.jit(analytic.cross_entropy_gradient)(rows, labels)
        from_target = jax.jit(analytic.cross_entropy_gradient)(rows, np.eye(5, dtype=dtype)[labels])
    np.testing.assert_array_equal(np.asarray(from_label), np.asarray(from_target))


@pytest.mark.parametrize("regime", WHERE_AUTODIFF_IS_EXACT)
@pytest.mark.parametrize("targets", TARGETS)
def test_gradient_is_autodiff_of_the_textbook_formula(targets, regime):  # (M11)
    x, t = logits_of(regime, np.float64), np.asarray(TARGETS[targets])
    with jax.enable_x64(True):
        expected = jax.vmap(jax.grad(textbook_cross_entropy))(x, t)
        np.testing.assert_allclose(analytic.cross_entropy_gradient(x, t), expected, rtol=1e-14, atol=2e-15)


@pytest.mark.parametrize("targets", TARGETS)
def test_gradient_and_label_gradient_are_finite_differences(targets):  # (M11), (M12)
    x, t = logits_of("ordinary", np.float64)[0], np.asarray(TARGETS[targets])[0]
    with jax.enable_x64(True):
        in_logits = finite_differences(lambda row: textbook_cross_entropy(row, t), x)
        in_targets = finite_differences(lambda row: textbook_cross_entropy(x, row), t)
        np.testing.assert_allclose(analytic.cross_entropy_gradient(x, t), in_logits, atol=1e-8)
        np.testing.assert_allclose(analytic.cross_entropy_label_gradient(x), in_targets, atol=1e-8)


@pytest.mark.parametrize("targets", TARGETS)
def test_both_routes_of_the_chain_rule_reach_the_gradient(targets):  # (M13)
    x, t = logits_of("ordinary", np.float64), np.asarray(TARGETS[targets])
    with jax.enable_x64(True):
        through_softmax = analytic.softmax_vjp(x, -t / textbook_softmax(x))
        through_log_softmax = analytic.log_softmax_vjp(x, -t)
        gradient = analytic.cross_entropy_gradient(x, t)
        np.testing.assert_allclose(through_softmax, gradient, rtol=1e-13, atol=1e-15)
        np.testing.assert_allclose(through_log_softmax, gradient, rtol=1e-13, atol=1e-15)


@on_every_row
def test_label_gradient_is_the_exact_negative_log_probability(regime, dtype):  # (M12)
    x = logits_of(regime, dtype)
    with precision(dtype):
        gradient = np.asarray(jax.jit(analytic.cross_entropy_label_gradient)(x))
    weights = np.vectorize(abs)(exact_row(x).probs)
    possible = np.isfinite(x.astype(np.float64))
    gradient_there, expected = gradient[possible], -log(weights[possible])
    assert gradient.dtype == x.dtype
    assert np.all(np.isposinf(gradient[~possible].astype(np.float64)))
    assert_close(gradient_there, expected)


@pytest.mark.parametrize("targets", TARGETS)
def test_label_gradient_is_autodiff_in_the_targets_and_free_of_them(targets):  # (M12)
    x, t = logits_of("ordinary", np.float64), np.asarray(TARGETS[targets])
    with jax.enable_x64(True):
        expected = jax.vmap(jax.grad(textbook_cross_entropy, 1))(x, t)
        np.testing.assert_allclose(analytic.cross_entropy_label_gradient(x), expected, rtol=1e-13)


def test_mean_gradient_has_a_row_per_sample_and_its_sum_is_the_shared_bias_gradient():  # (M14)
    x, labels = logits_of("ordinary", np.float64), np.array([2, 4])

    def mean(x, b):
        return jnp.mean(textbook_cross_entropy(x + b, jnp.eye(5)[labels]))

    with jax.enable_x64(True):
        in_logits, in_bias = jax.grad(mean, (0, 1))(x, jnp.zeros(5))
        rows = analytic.cross_entropy_gradient(x, labels) / 2
        np.testing.assert_allclose(rows, in_logits, rtol=1e-13)
        np.testing.assert_allclose(rows.sum(0), in_bias, rtol=1e-13)


@pytest.mark.parametrize("regime", WHERE_AUTODIFF_IS_EXACT)
@pytest.mark.parametrize("targets", TARGETS)
def test_hessian_is_autodiff_of_the_textbook_formula(targets, regime):  # (M15)
    x, t = logits_of(regime, np.float64), np.asarray(TARGETS[targets])
    with jax.enable_x64(True):
        expected = jax.vmap(jax.hessian(textbook_cross_entropy))(x, t)
        np.testing.assert_allclose(analytic.cross_entropy_hessian(x, t), expected, rtol=1e-13, atol=3e-15)


@on_every_row
def test_hessian_for_integer_labels_is_the_exact_softmax_jacobian(regime, dtype):  # (M15)
    x = logits_of(regime, dtype)
    with precision(dtype):
        hessian = jax.jit(analytic.cross_entropy_hessian)(x, np.array([0, 3]))
    probs, complement = exact_row(x)
    outer = probs[..., :, None] * probs[..., None, :]
    assert hessian.dtype == x.dtype
    assert_close(hessian, np.where(np.eye(5, dtype=bool), (probs * complement)[..., None], -outer))


@on_every_row
@pytest.mark.parametrize("targets", ["sum_of_three", "signed"])
def test_hvp_is_the_hessian_times_the_vector(targets, regime, dtype):  # (M15)
    x, t = logits_of(regime, dtype), np.asarray(TARGETS[targets], dtype)
    v = np.broadcast_to(TANGENT, x.shape).astype(dtype)
    with precision(dtype):
        product = jax.jit(analytic.cross_entropy_hvp)(x, t, v)
    probs, v, total = exact_row(x).probs, exact(v), exact(t).sum(-1, keepdims=True)
    differences = v[..., :, None] - v[..., None, :]
    expected = probs * (probs[..., None, :] * differences).sum(-1) * total
    scale = probs * (probs[..., None, :] * abs(differences)).sum(-1) * abs(total)
    assert product.dtype == x.dtype
    assert_close(product, expected, scale)


def test_hvp_never_holds_the_matrix():
    x, labels = jnp.zeros((2, 1237)), jnp.array([0, 5])
    assert "1237,1237" not in str(jax.make_jaxpr(analytic.cross_entropy_hvp)(x, labels, x))


@pytest.mark.parametrize("label", [-1, -5, 5, 2**30])
def test_a_label_out_of_range_gives_nan_in_its_row_alone(label):
    x, labels = logits_of("ordinary", np.float32), np.array([label, 1], np.int32)
    for derivative in (
        analytic.cross_entropy_gradient(x, labels),
        analytic.cross_entropy_hessian(x, labels),
        analytic.cross_entropy_hvp(x, labels, jnp.ones_like(x)),
    ):
        assert np.all(np.isnan(derivative[0]))
        assert np.all(np.isfinite(derivative[1]))


def test_narrow_and_unsigned_labels_are_not_wrapped():
    x = jnp.zeros(300)
    for label in (jnp.uint8(255), jnp.int8(127), jnp.uint32(299)):
        assert analytic.cross_entropy_gradient(x, label)[int(label)] < 0
    assert np.all(np.isnan(analytic.cross_entropy_gradient(x, jnp.int8(-1))))
    assert np.all(np.isnan(analytic.cross_entropy_gradient(x, jnp.uint32(2**32 - 1))))


def test_masked_classes_have_gradient_minus_their_target():  # (M11) at s = 0
    x, t = jnp.array([0.0, -jnp.inf, 0.0]), jnp.array([0.5, 0.25, 0.25])
    np.testing.assert_allclose(analytic.cross_entropy_gradient(x, t), [0.0, -0.25, 0.25], atol=1e-7)
    np.testing.assert_allclose(analytic.cross_entropy_gradient(x, 1), [0.5, -1.0, 0.5], rtol=1e-7)


def test_a_row_of_minus_infinity_has_gradient_minus_the_targets():  # (M11) at s = 0
    gradient = analytic.cross_entropy_gradient(jnp.full(3, -jnp.inf), jnp.array([0.5, 0.0, 0.5]))
    np.testing.assert_array_equal(gradient, [-0.5, 0.0, -0.5])


def test_a_wrong_dtype_or_shape_names_the_argument():
    x = jnp.zeros((2, 3))
    with pytest.raises(TypeError, match=r"labels: expected an integer dtype, got bool; or floating targets"):
        analytic.cross_entropy_gradient(x, jnp.array([True, False]))
    with pytest.raises(ValueError, match=r"labels: expected shape \(2,\) .*integer labels.*got \(2, 1\)"):
        analytic.cross_entropy_gradient(x, jnp.zeros((2, 1), jnp.int32))
    with pytest.raises(ValueError, match=r"labels: expected shape \(2, 3\) .*float targets.*got \(2,\)"):
        analytic.cross_entropy_hessian(x, jnp.zeros(2))
    with pytest.raises(ValueError, match=r"logits_dot: expected shape \(2, 3\).*got \(3,\)"):
        analytic.cross_entropy_hvp(x, jnp.array([0, 1]), jnp.zeros(3))
    with pytest.raises(TypeError, match=r"logits: expected a floating dtype, got int32"):
        analytic.cross_entropy_label_gradient(jnp.arange(3))
