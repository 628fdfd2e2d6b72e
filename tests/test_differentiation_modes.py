"""Every mode and transformation, to second order and beyond, on every function that carries a rule (M9, M15, M21)."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import jaxsoftmax
from jaxsoftmax import _float_labels, _integer_labels, _logsumexp, forward_mode
from tests.tolerances import FINITE_ROWS, ORDINARY_ROWS, array, assert_close, exact, exact_softmax, precision

# Constants of 32 bits serve in either precision.
LABELS, TARGETS = np.array([2, 0, 1, 4], np.int32), array([[0.5, -1.0, 2.0, 0.25, 0.0]] * 4, "float32")
B = array([1.0, -0.125, 2.0, 0.75, 0.5], "float32")
EVERY_KEYWORD = {
    "class_weights": array([0.5, 2.0, 1.25, 1.0, 0.75], "float32"),
    "label_smoothing": 0.2,
    "z_loss": 0.1,
    "logit_softcap": 3.0,
}
TOKEN_WEIGHTS = array([1.0, 0.0, 3.0, 0.5], "float32")


def functions_of(library):
    """Functions of logits [4, 5], on each of the rules that `library` attaches."""
    return {
        "logsumexp": lambda x: library.logsumexp(x, -1),
        "weighted logsumexp": lambda x: library.logsumexp(x, -1, B),
        "integer labels": lambda x: library.softmax_cross_entropy_with_integer_labels(x, LABELS),
        "float labels": lambda x: library.softmax_cross_entropy(x, TARGETS.astype(x.dtype)),
        "training, integer": lambda x: library.cross_entropy(
            x, LABELS, token_weights=TOKEN_WEIGHTS, ignore_index=0, **EVERY_KEYWORD
        ),
        "training, float": lambda x: library.cross_entropy(
            x, TARGETS, token_weights=TOKEN_WEIGHTS, reduction="none", **EVERY_KEYWORD
        ),
    }


LOSSES, TWINS = functions_of(jaxsoftmax), functions_of(forward_mode)
SOFTMAXES = {name: getattr(jaxsoftmax, name) for name in ("softmax", "log_softmax")}
X, V = np.array(ORDINARY_ROWS), np.random.default_rng(0).normal(size=(4, 5))

on_every_loss = pytest.mark.parametrize("name", LOSSES)


def summed(function):
    return lambda x: jnp.sum(function(x))


def assert_equal(got, expected):
    np.testing.assert_allclose(got, expected, rtol=1e-13, atol=1e-15)  # sums in another order


def by_name(transform, functions):
    """One compilation for all."""
    return jax.jit(lambda *arrays: {name: transform(f)(*arrays) for name, f in functions.items()})


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_twins_have_the_same_values_and_gradients_bit_for_bit(dtype):
    x = array(ORDINARY_ROWS, dtype)
    losses, twins = (by_name(lambda f: jax.value_and_grad(summed(f)), functions)(x) for functions in (LOSSES, TWINS))
    jax.tree.map(np.testing.assert_array_equal, losses, twins)


@on_every_loss
def test_loss_refuses_pure_forward_mode_as_its_rule_is_a_custom_vjp(name):
    x = array(ORDINARY_ROWS, "float32")
    with pytest.raises(TypeError, match="custom_vjp"):
        jax.jit(lambda x: jax.jvp(LOSSES[name], (x,), (x,)))(x)


@on_every_loss
def test_loss_calls_a_custom_vjp_and_its_twin_a_custom_jvp(name):
    loss, twin = (str(jax.make_jaxpr(f[name])(array(ORDINARY_ROWS, "float32"))) for f in (LOSSES, TWINS))
    assert "custom_vjp_call" in loss
    assert "custom_vjp_call" not in twin
    assert "custom_jvp_call" in twin


@pytest.mark.parametrize("name", SOFTMAXES)
def test_softmax_calls_a_custom_jvp(name):
    assert "custom_jvp_call" in str(jax.make_jaxpr(SOFTMAXES[name])(array(ORDINARY_ROWS, "float32")))


RULES = {
    "logsumexp": (_logsumexp, "plain_gradient", 1),
    "weighted logsumexp": (_logsumexp, "weighted_gradients", 2),
    "integer labels": (_integer_labels, "gradient", 1),
    "float labels": (_float_labels, "gradients", 2),
}


@pytest.mark.parametrize("functions", [LOSSES, TWINS], ids=["losses", "twins"])
@pytest.mark.parametrize("name", RULES)
def test_rule_runs_as_replacing_its_equation_replaces_the_gradient(name, functions, monkeypatch):
    module, equation, count = RULES[name]
    x = array(ORDINARY_ROWS, "float32")
    replaced = (np.full_like(x, 7),) * count
    monkeypatch.setattr(module, equation, lambda *_: replaced if count > 1 else replaced[0])
    np.testing.assert_array_equal(jax.jit(jax.grad(summed(functions[name])))(x), 7)


def test_training_loss_is_the_same_with_and_without_jit():
    x = jnp.asarray(array(ORDINARY_ROWS, "float32"))
    derivative = jax.value_and_grad(summed(LOSSES["training, integer"]))
    for got, expected in zip(jax.jit(derivative)(x), derivative(x), strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-6, atol=1e-7)


ROW_FUNCTIONS = {
    "logsumexp": jaxsoftmax.logsumexp,
    "weighted logsumexp": lambda x: jaxsoftmax.logsumexp(x, b=B),
    "integer labels": lambda x: jaxsoftmax.softmax_cross_entropy_with_integer_labels(x, 2),
    "float labels": lambda x: jaxsoftmax.softmax_cross_entropy(x, TARGETS[0]),
    "training": lambda x: jaxsoftmax.cross_entropy(x, 2, **EVERY_KEYWORD),
    **SOFTMAXES,
}


@cache
def row_gradients():
    return by_name(lambda f: jax.vmap(jax.grad(summed(f))), ROW_FUNCTIONS)(X)


@cache
def loss_gradients():
    return by_name(lambda f: jax.grad(summed(f)), LOSSES)(X)


def test_vmap_of_a_gradient_is_the_gradient_of_the_batch():
    with precision("float64"):
        looped = by_name(lambda f: lambda x: lax.map(jax.grad(summed(f)), x), ROW_FUNCTIONS)(X)
        jax.tree.map(assert_equal, row_gradients(), looped)


def test_gradient_of_a_vmap_is_the_vmap_of_a_gradient():
    with precision("float64"):
        outer = by_name(lambda f: jax.grad(summed(jax.vmap(f))), ROW_FUNCTIONS)(X)
        jax.tree.map(assert_equal, outer, row_gradients())


def test_vmap_over_labels_alone_repeats_the_logits():
    def loss(x, label):
        return jaxsoftmax.cross_entropy(x, label, class_weights=EVERY_KEYWORD["class_weights"], label_smoothing=0.1)

    with precision("float64"):
        derivative = jax.value_and_grad(loss)
        one = jax.jit(jax.vmap(derivative, (None, 0)))(X[0], LABELS)
        each = jax.jit(jax.vmap(derivative))(np.broadcast_to(X[0], (4, 5)), LABELS)
        jax.tree.map(assert_equal, one, each)


def test_gradient_through_scan_is_the_sum_of_the_steps():
    def scanned(f):
        return lambda x: lax.scan(lambda total, row: (total + jnp.sum(f(row)), None), 0.0, x)[0]

    with precision("float64"):
        through_scan = by_name(lambda f: jax.grad(scanned(f)), ROW_FUNCTIONS)(X)
        jax.tree.map(assert_equal, through_scan, row_gradients())


def test_gradient_through_checkpoint_is_the_same():
    with precision("float64"):
        recomputed = by_name(lambda f: jax.grad(summed(jax.checkpoint(f))), LOSSES)(X)
        jax.tree.map(assert_equal, recomputed, loss_gradients())


def test_jvp_of_a_twin_is_the_gradient_of_the_loss_times_the_tangent():
    with precision("float64"):
        forward = jax.jit(lambda x, v: {n: jax.jvp(summed(f), (x,), (v,))[1] for n, f in TWINS.items()})(X, V)
        expected = jax.tree.map(lambda gradient: np.sum(gradient * V), loss_gradients())
        jax.tree.map(assert_equal, forward, expected)


def test_linearized_twin_is_the_gradient_of_the_loss_times_the_tangent():
    with precision("float64"):
        linear = jax.jit(lambda x, v: {n: jax.linearize(summed(f), x)[1](v) for n, f in TWINS.items()})(X, V)
        expected = jax.tree.map(lambda gradient: np.sum(gradient * V), loss_gradients())
        jax.tree.map(assert_equal, linear, expected)


def test_jacfwd_of_a_twin_is_jacrev_of_the_loss():
    with precision("float64"):
        jax.tree.map(assert_equal, by_name(jax.jacfwd, TWINS)(X), by_name(jax.jacrev, LOSSES)(X))


def test_jvp_of_a_twin_is_exact_beside_minus_infinity():
    x, labels = array([0.0, -np.inf, 1.0], "float32"), array([1.0, 0.0, 0.0], "float32")
    tangent = array([1.0, 1.0, 0.0], "float32")
    of_labels, of_integer = (
        jax.jit(lambda x, v, f=f, y=y: jax.jvp(lambda x: f(x, y), (x,), (v,))[1])(x, tangent)
        for f, y in (
            (forward_mode.softmax_cross_entropy, labels),
            (forward_mode.softmax_cross_entropy_with_integer_labels, 0),
        )
    )
    assert_close(of_labels, exact_softmax([0.0, 1.0])[0] - 1, "float32")
    assert_close(of_integer, exact_softmax([0.0, 1.0])[0] - 1, "float32")


def test_reverse_over_reverse_is_forward_over_reverse():
    with precision("float64"):
        functions = {name: summed(ROW_FUNCTIONS[name]) for name in ("weighted logsumexp", "training", "softmax")}
        reverse = by_name(lambda f: jax.jacrev(jax.grad(f)), functions)(X[0])
        forward = by_name(lambda f: jax.jacfwd(jax.grad(f)), functions)(X[0])
        jax.tree.map(assert_equal, reverse, forward)


TOTALS = {"logsumexp": 1.0, "integer labels": 1.0, "float labels": 1.75}
TWIN_ROWS = {
    "logsumexp": forward_mode.logsumexp,
    "integer labels": lambda x: forward_mode.softmax_cross_entropy_with_integer_labels(x, 2),
    "float labels": lambda x: forward_mode.softmax_cross_entropy(x, TARGETS[0].astype(x.dtype)),
}
OWN_ROWS = {**TWIN_ROWS} | {
    "logsumexp": jaxsoftmax.logsumexp,
    "integer labels": lambda x: jaxsoftmax.softmax_cross_entropy_with_integer_labels(x, 2),
    "float labels": lambda x: jaxsoftmax.softmax_cross_entropy(x, TARGETS[0].astype(x.dtype)),
}


@pytest.mark.parametrize("functions", [OWN_ROWS, TWIN_ROWS], ids=["losses", "twins"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_hessian_is_the_softmax_jacobian_times_the_sum_of_the_labels(dtype, functions):  # (M9, M15)
    with precision(dtype):
        x = array(FINITE_ROWS, dtype)
        hessians = by_name(lambda f: jax.vmap(jax.hessian(f)), functions)(x)
        s = exact_softmax(x)
        jacobian = s[:, :, None] * exact(np.eye(5)) - s[:, :, None] * s[:, None, :]
        for name, total in TOTALS.items():
            assert_close(hessians[name], jacobian * total, dtype)


def test_hessian_of_every_keyword_is_autodiff_of_the_textbook():
    keywords = EVERY_KEYWORD

    def textbook(x):
        z = keywords["logit_softcap"] * jnp.tanh(x / keywords["logit_softcap"])
        lse = jnp.log(jnp.sum(jnp.exp(z)))
        w, eps = keywords["class_weights"], keywords["label_smoothing"]
        losses = (1 - eps) * w[2] * (lse - z[2]) + eps / 5 * jnp.sum(w * (lse - z))
        return (losses + keywords["z_loss"] * w[2] * lse**2) / w[2]

    with precision("float64"):
        got, expected = (jax.jit(jax.hessian(f))(X[0]) for f in (ROW_FUNCTIONS["training"], textbook))
        np.testing.assert_allclose(got, expected, rtol=1e-12, atol=1e-14)


def test_third_derivative_is_autodiff_of_the_textbook():
    def textbook(x):
        return jnp.log(jnp.sum(jnp.exp(x)))

    with precision("float64"):
        expected = jax.jit(jax.jacfwd(jax.hessian(textbook)))(X[0])
        for name in OWN_ROWS:
            third = jax.jit(jax.jacfwd(jax.hessian(OWN_ROWS[name])))(X[0])
            np.testing.assert_allclose(third, TOTALS[name] * expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("library", [jaxsoftmax, forward_mode], ids=["losses", "twins"])
def test_mixed_derivative_in_logits_and_labels_is_s_1_transposed_less_the_identity(library):  # (M12)
    with precision("float64"):
        by_labels = jax.grad(library.softmax_cross_entropy, 1)
        mixed = jax.jit(jax.jacfwd(by_labels, 0))(X[0], TARGETS[0].astype(np.float64))
        assert_equal(mixed, np.broadcast_to(jaxsoftmax.softmax(X[0]), (5, 5)) - np.eye(5))


def test_hessian_vector_product_is_a_jvp_of_the_gradient():
    with precision("float64"):
        functions = {name: summed(LOSSES[name]) for name in ("weighted logsumexp", "training, float")}
        product = jax.jit(lambda x, v: {n: jax.jvp(jax.grad(f), (x,), (v,))[1] for n, f in functions.items()})(X, V)
        hessian = by_name(jax.hessian, functions)(X)
        for name in functions:
            assert_equal(product[name], np.tensordot(hessian[name], V, 2))


def test_hessian_of_minus_infinities_is_0():  # (jax#6811)
    x = array([[-np.inf] * 5, [0.0, -np.inf, 0.0, -np.inf, -np.inf]], "float32")
    functions = {**OWN_ROWS, "twin": TWIN_ROWS["integer labels"]}
    labelled = {name: f for name, f in functions.items() if name != "float labels"}
    for hessian in by_name(lambda f: jax.vmap(jax.hessian(f)), labelled)(x).values():
        np.testing.assert_array_equal(hessian[0], 0)
        quarter = np.array([[0.25, -0.25], [-0.25, 0.25]])
        np.testing.assert_array_equal(hessian[1][::2, ::2][:2, :2], quarter)
        np.testing.assert_array_equal(hessian[1][1::2], 0)


def test_ignored_token_with_nan_logits_has_hessian_0():
    def loss(x):
        return jaxsoftmax.cross_entropy(x, np.array([-1, 2]), ignore_index=-1, **EVERY_KEYWORD)

    x = np.stack([np.full(5, np.nan), X[0]])
    hessian = jax.jit(jax.hessian(loss))(x.astype(np.float32))
    np.testing.assert_array_equal(hessian[0], 0)
    np.testing.assert_array_equal(hessian[:, :, 0], 0)
    assert np.isfinite(hessian).all()
