"""Cross-entropy over logits: the closed forms against autodiff, mpmath and finite differences."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsoftmax import analytic
from tests.tolerances import (
    CONFIDENT_ROWS,
    FINITE_DIFFERENCE,
    ORDINARY_ROWS,
    ROWS,
    array,
    assert_close,
    exact,
    exact_softmax,
    exact_softmax_jacobian,
    finite_differences,
    in_every_dtype,
    log,
    precision,
)

ALL_ROWS = [*ROWS, *CONFIDENT_ROWS]
WHERE_AUTODIFF_IS_EXACT = [0, 1, 2, 3, 4, len(ROWS)]  # ordinary rows, a shift of 1e4, and a confident tie
TARGETS = [
    [0.0, 0.0, 1.0, 0.0, 0.0],  # one-hot
    [1.0, 0.0, 0.0, 0.0, 0.0],
    [2.0**-60, 2.0**-60, 1.0, 2.0**-60, 0.0],  # nearly one-hot
    [0.0, 1.0, 2.0**-60, 0.0, 2.0**-60],
    [0.0625, 0.0625, 0.75, 0.0625, 0.0625],  # smoothed
    [0.0625, 0.75, 0.0625, 0.0625, 0.0625],
    [1.0, 0.5, 0.0, 1.0, 0.5],  # a sum of three
    [0.0, 0.25, 2.0, 0.25, 0.5],
    [1.0, -0.5, 2.0, 0.0, -1.0],  # signed
    [-1.0, 1.0, 0.5, -0.5, 0.0],
]
VECTOR = np.array([0.75, -1.5, 0.25, 2.0, -0.125])


@jax.jit
def for_labels(rows, labels):
    """The closed forms for integer labels."""
    return {
        "gradient": analytic.cross_entropy_gradient(rows, labels),
        "gradient for one-hot": analytic.cross_entropy_gradient(rows, jnp.eye(5, dtype=rows.dtype)[labels]),
        "hessian": analytic.cross_entropy_hessian(rows, labels),
        "hvp": analytic.cross_entropy_hvp(rows, labels, jnp.ones_like(rows)),
    }


@jax.jit
def for_targets(rows, targets, v):
    """The closed forms of every row `[rows, 1, 5]` for every target `[targets, 5]`."""
    rows, targets = jnp.broadcast_arrays(rows, targets)
    return {
        "gradient": analytic.cross_entropy_gradient(rows, targets),
        "label gradient": analytic.cross_entropy_label_gradient(rows[..., 0, :]),
        "hessian": analytic.cross_entropy_hessian(rows, targets),
        "hvp": analytic.cross_entropy_hvp(rows, targets, jnp.broadcast_to(v, rows.shape)),
        "gradient through softmax": analytic.softmax_vjp(rows, -targets / textbook_softmax(rows)),
        "gradient through log_softmax": analytic.log_softmax_vjp(rows, -targets),
    }


def with_every_label(x):
    """Each row once per class, and that class."""
    rows = np.repeat(x, 5, 0)
    return rows, np.resize(np.arange(5, dtype=np.int32), len(rows))


@functools.cache
def for_every_label(dtype):
    with precision(dtype):
        return jax.tree.map(np.asarray, for_labels(*with_every_label(array(ALL_ROWS, dtype))))


@functools.cache
def for_every_target(dtype):
    with precision(dtype):
        arguments = (array(values, dtype) for values in (np.array(ALL_ROWS)[:, None], TARGETS, VECTOR))
        return jax.tree.map(np.asarray, for_targets(*arguments))


def textbook_softmax(x):
    e = jnp.exp(x - jax.lax.stop_gradient(jnp.max(x, -1, keepdims=True)))
    return e / jnp.sum(e, -1, keepdims=True)


def textbook_cross_entropy(x, t):
    return -jnp.sum(t * jnp.log(textbook_softmax(x)), -1)


@functools.cache
def by_autodiff():
    """Derivatives of the textbook formula for every target, where these are exact."""

    def derivatives(x, t):
        by_logits, by_targets = jax.grad(textbook_cross_entropy, (0, 1))(x, t)
        return {
            "gradient": by_logits,
            "label gradient": by_targets,
            "hessian": jax.hessian(textbook_cross_entropy)(x, t),
        }

    with precision("float64"):
        of_all = jax.jit(jax.vmap(jax.vmap(derivatives, (None, 0)), (0, None)))
        return jax.tree.map(np.asarray, of_all(np.array(ALL_ROWS)[WHERE_AUTODIFF_IS_EXACT], np.array(TARGETS)))


def exact_softmax_and_targets(dtype):
    """As mpmath numbers, [rows, 1, 5] and [targets, 5]."""
    return exact_softmax(array(ALL_ROWS, dtype))[:, None], exact(array(TARGETS, dtype))


@in_every_dtype
def test_gradient_for_an_integer_label_is_exact(dtype):  # (M11), (M20)
    rows, labels = with_every_label(array(ALL_ROWS, dtype))
    assert_close(for_every_label(dtype)["gradient"], exact_softmax(rows) - exact(np.eye(5)[labels]), dtype)


@in_every_dtype
def test_gradient_for_float_targets_of_any_sum_is_exact(dtype):  # (M11)
    s, t = exact_softmax_and_targets(dtype)
    expected = s * t.sum(-1, keepdims=True) - t
    terms = (1 - s) * abs(t) + s * (abs(t).sum(-1, keepdims=True) - abs(t))
    assert_close(for_every_target(dtype)["gradient"], expected, dtype, size=terms)


@in_every_dtype
def test_one_hot_targets_give_the_bits_of_their_integer_label(dtype):
    got = for_every_label(dtype)
    np.testing.assert_array_equal(got["gradient"], got["gradient for one-hot"])


def test_gradient_is_autodiff_of_the_textbook_formula():  # (M11)
    gradient = for_every_target("float64")["gradient"][WHERE_AUTODIFF_IS_EXACT]
    np.testing.assert_allclose(gradient, by_autodiff()["gradient"], rtol=1e-14, atol=2e-15)


def test_gradient_and_label_gradient_are_finite_differences():  # (M11), (M12)
    x, t = np.array(ORDINARY_ROWS[0]), np.array(TARGETS)
    with precision("float64"):
        in_logits = finite_differences(lambda row: textbook_cross_entropy(row, t), x)
        in_targets = finite_differences(lambda target: textbook_cross_entropy(x, target), t)
    got = for_every_target("float64")
    np.testing.assert_allclose(got["gradient"][0], in_logits, atol=FINITE_DIFFERENCE)
    np.testing.assert_allclose(np.broadcast_to(got["label gradient"][0], t.shape), in_targets, atol=FINITE_DIFFERENCE)


@pytest.mark.parametrize("route", ["softmax", "log_softmax"])
def test_both_routes_of_the_chain_rule_reach_the_gradient(route):  # (M13)
    got = for_every_target("float64")
    ordinary = slice(len(ORDINARY_ROWS))
    by_route = got[f"gradient through {route}"][ordinary]
    np.testing.assert_allclose(by_route, got["gradient"][ordinary], rtol=1e-13, atol=1e-15)


@in_every_dtype
def test_label_gradient_is_the_exact_negative_log_probability(dtype):  # (M12)
    s = exact_softmax(array(ALL_ROWS, dtype))
    expected = np.where(s == 0, exact(np.inf), -log(np.where(s == 0, 1, s)))
    assert_close(for_every_target(dtype)["label gradient"], expected, dtype)


def test_label_gradient_is_autodiff_in_the_targets_and_free_of_them():  # (M12)
    expected = by_autodiff()["label gradient"][: len(ORDINARY_ROWS)]
    gradient = for_every_target("float64")["label gradient"][: len(ORDINARY_ROWS), None]
    np.testing.assert_allclose(np.broadcast_to(gradient, expected.shape), expected, rtol=1e-13)


def test_mean_gradient_has_a_row_per_sample_and_its_sum_is_the_shared_bias_gradient():  # (M14)
    x, targets = np.array(ORDINARY_ROWS[:2]), np.eye(5)[[2, 4]]

    def mean(x, b):
        return jnp.mean(textbook_cross_entropy(x + b, targets))

    with precision("float64"):
        in_logits, in_bias = jax.jit(jax.grad(mean, (0, 1)))(x, np.zeros(5))
    rows = for_every_label("float64")["gradient"][[2, 5 + 4]] / 2
    np.testing.assert_allclose(rows, in_logits, rtol=1e-13)
    np.testing.assert_allclose(rows.sum(0), in_bias, rtol=1e-13)


def test_hessian_is_autodiff_of_the_textbook_formula():  # (M15)
    hessian = for_every_target("float64")["hessian"][WHERE_AUTODIFF_IS_EXACT]
    np.testing.assert_allclose(hessian, by_autodiff()["hessian"], rtol=1e-13, atol=3e-15)


@in_every_dtype
def test_hessian_for_integer_labels_is_the_exact_softmax_jacobian(dtype):  # (M15)
    expected = exact_softmax_jacobian(with_every_label(array(ALL_ROWS, dtype))[0])
    assert_close(for_every_label(dtype)["hessian"], expected, dtype)


@in_every_dtype
def test_hvp_is_the_hessian_times_the_vector(dtype):  # (M15)
    (s, t), v = exact_softmax_and_targets(dtype), exact(array(VECTOR, dtype))
    total = t.sum(-1, keepdims=True)
    expected = s * (v - (s * v).sum(-1, keepdims=True)) * total
    terms = s * (s[..., None, :] * abs(v[:, None] - v)).sum(-1) * abs(total)
    assert_close(for_every_target(dtype)["hvp"], expected, dtype, size=terms)


def test_closed_forms_vmapped_over_rows_are_those_of_the_batch():
    x, targets = np.array(ALL_ROWS), np.array(TARGETS)

    @jax.jit
    def vmapped(x, rows, labels):
        return jax.vmap(for_labels)(rows, labels), jax.vmap(for_targets, (0, None, None))(x[:, None], targets, VECTOR)

    with precision("float64"):
        got = vmapped(x, *with_every_label(x))
    expected = for_every_label("float64"), for_every_target("float64")
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-13, atol=1e-15), got, expected)


def test_hvp_never_holds_the_matrix():
    x, labels = np.zeros((2, 1237), np.float32), np.array([0, 5], np.int32)
    assert "1237,1237" not in str(jax.make_jaxpr(analytic.cross_entropy_hvp)(x, labels, x))


def test_a_label_out_of_range_gives_nan_in_its_row_alone():
    rows, labels = with_every_label(array(np.resize(ORDINARY_ROWS, np.shape(ALL_ROWS)), "float32"))
    out_of_range = np.arange(len(labels)) % 2 == 0
    labels[out_of_range] = np.resize([-1, -5, 5, 2**30], out_of_range.sum())
    derivatives = for_labels(rows, labels)
    for name in ("gradient", "hessian", "hvp"):
        of_row = np.reshape(derivatives[name], (len(rows), -1))
        assert np.isnan(of_row[out_of_range]).all()
        assert np.isfinite(of_row[~out_of_range]).all()


def test_narrow_and_unsigned_labels_are_not_wrapped():
    right = [np.uint8(255), np.int8(127), np.uint32(299)]
    wrong = [np.int8(-1), np.uint32(2**32 - 1)]
    gradients = jax.jit(lambda x, labels: [analytic.cross_entropy_gradient(x, label) for label in labels])
    got = gradients(np.zeros(300, np.float32), [*right, *wrong])
    assert all(gradient[int(label)] < 0 for gradient, label in zip(got, right, strict=False))
    assert np.isnan(got[len(right) :]).all()


def test_masked_classes_have_gradient_minus_their_target():  # (M11) at s = 0
    x, t = array([0.0, -np.inf, 0.0], "float32"), array([0.5, 0.25, 0.25], "float32")
    gradient = jax.jit(analytic.cross_entropy_gradient)
    np.testing.assert_allclose(gradient(x, t), [0.0, -0.25, 0.25], atol=1e-7)
    np.testing.assert_allclose(gradient(x, np.int32(1)), [0.5, -1.0, 0.5], rtol=1e-7)


def test_a_row_of_minus_infinity_has_gradient_minus_the_targets():  # (M11) at s = 0
    x, t = np.full(3, -np.inf, np.float32), array([0.5, 0.0, 0.5], "float32")
    np.testing.assert_array_equal(jax.jit(analytic.cross_entropy_gradient)(x, t), [-0.5, 0.0, -0.5])


def test_a_wrong_dtype_or_shape_names_the_argument():
    x = np.zeros((2, 3), np.float32)
    with pytest.raises(TypeError, match=r"labels: expected an integer dtype, got bool; or floating targets"):
        analytic.cross_entropy_gradient(x, np.array([True, False]))
    with pytest.raises(ValueError, match=r"labels: expected shape \(2,\) .*integer labels.*got \(2, 1\)"):
        analytic.cross_entropy_gradient(x, np.zeros((2, 1), np.int32))
    with pytest.raises(ValueError, match=r"labels: expected shape \(2, 3\) .*float targets.*got \(2,\)"):
        analytic.cross_entropy_hessian(x, np.zeros(2, np.float32))
    with pytest.raises(ValueError, match=r"logits_dot: expected shape \(2, 3\).*got \(3,\)"):
        analytic.cross_entropy_hvp(x, np.array([0, 1]), np.zeros(3, np.float32))
    with pytest.raises(TypeError, match=r"logits: expected a floating dtype, got int32"):
        analytic.cross_entropy_label_gradient(np.arange(3, dtype=np.int32))
