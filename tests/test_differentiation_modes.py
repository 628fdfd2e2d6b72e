"""Every mode and transformation, on every function that carries a rule (M9, M15, M21)."""

from functools import cache, partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import jaxsoftmax
from jaxsoftmax import _float_labels, _log_sums, _row_rules, forward_mode
from tests.tolerances import ORDINARY_ROWS, array, assert_close, exact_softmax, precision

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


LOSSES, FORWARD = functions_of(jaxsoftmax), functions_of(forward_mode)
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


@pytest.mark.parametrize("dtype", ["bfloat16", pytest.param("float32", marks=pytest.mark.slow)])
def test_forward_mode_variants_have_the_same_values_bit_for_bit_and_gradients_to_the_last_bits(dtype):
    x = array(ORDINARY_ROWS, dtype)
    losses, variants = (
        by_name(lambda f: jax.value_and_grad(summed(f)), functions)(x) for functions in (LOSSES, FORWARD)
    )
    # A loss multiplies the cotangent into each row's coefficients, where its variant multiplies it into every entry.
    for name, (value, gradient) in losses.items():
        np.testing.assert_array_equal(value, variants[name][0])
        assert_close(gradient, np.asarray(variants[name][1]), dtype, tolerance=2)


@on_every_loss
def test_loss_refuses_pure_forward_mode_as_its_rule_is_a_custom_vjp(name):
    x = array(ORDINARY_ROWS, "float32")
    with pytest.raises(TypeError, match="custom_vjp"):
        jax.jit(lambda x: jax.jvp(LOSSES[name], (x,), (x,)))(x)


@on_every_loss
def test_loss_calls_a_custom_vjp_and_its_forward_mode_variant_a_custom_jvp(name):
    loss, variant = (str(jax.make_jaxpr(f[name])(array(ORDINARY_ROWS, "float32"))) for f in (LOSSES, FORWARD))
    assert "custom_vjp_call" in loss
    assert "custom_vjp_call" not in variant
    assert "custom_jvp_call" in variant


@pytest.mark.parametrize("name", SOFTMAXES)
def test_softmax_calls_a_custom_jvp(name):
    assert "custom_jvp_call" in str(jax.make_jaxpr(SOFTMAXES[name])(array(ORDINARY_ROWS, "float32")))


RULES = {
    "logsumexp": (_log_sums, "plain_gradient", 1),
    "weighted logsumexp": (_log_sums, "weighted_gradients", 2),
    "integer labels": (_row_rules, "gradient", 1),
    "float labels": (_float_labels, "logits_gradient", 1),
}


@pytest.fixture
def traced_anew():
    """What JAX has traced before knows nothing of a replaced equation, and nothing traced with it may stay."""
    jax.clear_caches()
    yield
    jax.clear_caches()


@pytest.mark.usefixtures("traced_anew")
@pytest.mark.parametrize("functions", [LOSSES, FORWARD], ids=["losses", "variants"])
@pytest.mark.parametrize("name", RULES)
def test_rule_runs_as_replacing_its_equation_replaces_the_gradient(name, functions, monkeypatch):
    module, equation, count = RULES[name]
    x = array(ORDINARY_ROWS, "float32")
    replaced = (np.full_like(x, 7),) * count
    monkeypatch.setattr(module, equation, lambda *_, scale=1.0: replaced if count > 1 else replaced[0])
    np.testing.assert_array_equal(jax.jit(jax.grad(summed(functions[name])))(x), 7)


class LossOfEqualLogits(chex.TestCase):
    """ln(vocab), whose gradient is (1/vocab - 1 at the label)/tokens, with and without jit."""

    @chex.variants(with_jit=True, without_jit=True)
    def test_is_the_closed_form(self):
        derivative = self.variant(jax.value_and_grad(lambda x: jaxsoftmax.cross_entropy(x, LABELS)))
        expected = np.log(5), (0.2 - np.eye(5)[LABELS]) / 4
        chex.assert_trees_all_close(derivative(np.zeros((4, 5), np.float32)), expected, rtol=1e-6)

    @chex.variants(with_jit=True, without_jit=True)
    def test_is_the_closed_form_of_masked_rows_for_a_drop_in(self):
        where = np.arange(5)[None] != 3  # no label
        loss = partial(jaxsoftmax.softmax_cross_entropy_with_integer_labels, labels=LABELS, where=where)
        got = self.variant(jax.value_and_grad(summed(loss)))(np.zeros((4, 5), np.float32))
        chex.assert_trees_all_close(got, (4 * np.log(4), where / 4 - np.eye(5)[LABELS]), rtol=1e-6)

    @chex.variants(with_jit=True, without_jit=True)
    def test_is_the_closed_form_for_the_fused_head(self):
        hidden, kernel = np.array([[1, 0]], np.float32), np.array([[0, 0, 0], [1, 2, 3]], np.float32)
        derivative = jax.value_and_grad(jaxsoftmax.linear_cross_entropy, (0, 1))
        value, (by_hidden, by_kernel) = self.variant(derivative)(hidden, kernel, np.array([2], np.int32))
        np.testing.assert_allclose(value, np.log(3), rtol=1e-6)
        np.testing.assert_allclose(by_hidden, [[0, -1]], rtol=1e-6)
        np.testing.assert_allclose(by_kernel, np.array([[1, 1, -2], [0, 0, 0]]) / 3, rtol=1e-6)


@pytest.mark.slow
def test_training_loss_with_every_keyword_is_the_same_with_and_without_jit():
    x = array(ORDINARY_ROWS, "float32")
    derivative = jax.value_and_grad(summed(LOSSES["training, integer"]))
    chex.assert_trees_all_close(jax.jit(derivative)(x), derivative(x), rtol=1e-6, atol=1e-7)


def test_training_loss_of_other_numbers_in_the_same_shapes_is_not_traced_again():
    @jax.jit
    @chex.assert_max_traces(n=1)
    def loss(x, labels, token_weights):
        return jaxsoftmax.cross_entropy(x, labels, token_weights=token_weights, ignore_index=0, **EVERY_KEYWORD)

    x = array(ORDINARY_ROWS, "float32")
    first, second = loss(x, LABELS, TOKEN_WEIGHTS), loss(2 * x, LABELS[::-1].copy(), TOKEN_WEIGHTS + 1)
    assert float(first) != float(second)


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


@pytest.mark.slow
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
        chex.assert_trees_all_close(one, each, rtol=1e-13, atol=1e-15)


def test_gradient_through_scan_is_the_sum_of_the_steps():
    def scanned(f):
        return lambda x: lax.scan(lambda total, row: (total + jnp.sum(f(row)), None), 0.0, x)[0]

    with precision("float64"):
        through_scan = by_name(lambda f: jax.grad(scanned(f)), ROW_FUNCTIONS)(X)
        jax.tree.map(assert_equal, through_scan, row_gradients())


@pytest.mark.slow
def test_gradient_through_checkpoint_is_the_same():
    with precision("float64"):
        recomputed = by_name(lambda f: jax.grad(summed(jax.checkpoint(f))), LOSSES)(X)
        jax.tree.map(assert_equal, recomputed, loss_gradients())


def test_jvp_of_a_forward_mode_variant_is_the_gradient_of_the_loss_times_the_tangent():
    with precision("float64"):
        forward = jax.jit(lambda x, v: {n: jax.jvp(summed(f), (x,), (v,))[1] for n, f in FORWARD.items()})(X, V)
        expected = jax.tree.map(lambda gradient: np.sum(gradient * V), loss_gradients())
        jax.tree.map(assert_equal, forward, expected)


@pytest.mark.slow
def test_linearized_forward_mode_variant_is_the_gradient_of_the_loss_times_the_tangent():
    with precision("float64"):
        linear = jax.jit(lambda x, v: {n: jax.linearize(summed(f), x)[1](v) for n, f in FORWARD.items()})(X, V)
        expected = jax.tree.map(lambda gradient: np.sum(gradient * V), loss_gradients())
        jax.tree.map(assert_equal, linear, expected)


@pytest.mark.slow
def test_jacfwd_of_a_forward_mode_variant_is_jacrev_of_the_loss():
    with precision("float64"):
        jax.tree.map(assert_equal, by_name(jax.jacfwd, FORWARD)(X), by_name(jax.jacrev, LOSSES)(X))


def test_jvp_of_a_forward_mode_variant_is_exact_beside_minus_infinity():
    x, labels = array([0.0, -np.inf, 1.0], "float32"), array([1.0, 0.0, 0.0], "float32")
    tangent = array([1.0, 1.0, 0.0], "float32")
    functions = {
        "float": lambda x: forward_mode.softmax_cross_entropy(x, labels),
        "integer": lambda x: forward_mode.softmax_cross_entropy_with_integer_labels(x, 0),
    }
    for derivative in jax.jit(lambda x, v: [jax.jvp(f, (x,), (v,))[1] for f in functions.values()])(x, tangent):
        assert_close(derivative, exact_softmax([0.0, 1.0])[0] - 1, "float32")
