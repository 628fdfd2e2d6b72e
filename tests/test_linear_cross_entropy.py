"""The fused head is cross_entropy of hidden @ kernel + bias: value, every gradient, every keyword, every size."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsoftmax import _token_chunks, cross_entropy, forward_mode, linear_cross_entropy
from tests.head_cases import generated, head_of, held, materialised, terms, value_and_gradients
from tests.tolerances import precision

TOLERANCE = {"float64": 1e-13, "float32": 1e-6, "bfloat16": 2.0**-7, "float16": 2.0**-10}  # of its terms


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("seed", [pytest.param(seed, marks=[pytest.mark.slow] * (seed >= 24)) for seed in range(110)])
def test_head_is_the_loss_of_materialised_logits(seed, dtype, monkeypatch):  # (M16, M24-M27)
    case = generated(seed)
    monkeypatch.setattr(_token_chunks, "SMALL", case.small)
    with precision(dtype):
        value, gradients = value_and_gradients(head_of(case), case, dtype)
    with precision("float64"):
        exact = held(case, dtype)
        expected, expected_gradients = value_and_gradients(materialised(exact), exact, "float64")
        sizes = expected_gradients | terms(exact, expected)
    np.testing.assert_allclose(value, expected, rtol=10 * TOLERANCE[dtype], atol=TOLERANCE[dtype])
    for name, gradient in gradients.items():
        error = np.asarray(gradient, np.float64) - np.asarray(expected_gradients[name])
        assert gradient.dtype == jnp.dtype(dtype)
        assert np.linalg.norm(error) <= TOLERANCE[dtype] * np.linalg.norm(sizes[name]), name


HIDDEN = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)
KERNEL = np.random.default_rng(1).normal(size=(4, 9)).astype(np.float32)
LABELS = np.arange(6, dtype=np.int32)
MODES = {
    "forward over reverse": lambda f: lambda w: jax.jvp(jax.grad(f), (w,), (w / 2,))[1],
    "reverse over reverse": lambda f: jax.grad(lambda w: jnp.sum(jax.grad(f)(w) ** 2)),
    "checkpoint": lambda f: jax.grad(jax.checkpoint(f)),
    "vmap": lambda f: lambda w: jax.vmap(jax.grad(f))(jnp.stack([w, 2 * w])),
    "scan": lambda f: lambda w: jax.lax.map(jax.grad(f), jnp.stack([w, 2 * w])),
}


TWIN_MODES = {
    "reverse over forward": lambda f: jax.grad(lambda w: jax.jvp(f, (w,), (w / 2,))[1]),
    "linearize": lambda f: lambda w: jax.linearize(f, w)[1](w / 2),
    "jacfwd": lambda f: jax.jacfwd(f),
    "forward over reverse": MODES["forward over reverse"],
}
OPTIONS = {
    "mean": dict(reduction="mean"),
    "none": dict(reduction="none"),
    "mean of some": dict(reduction="mean", ignore_index=0),
    "none of some": dict(reduction="none", ignore_index=0),
    "mean of some others than classes": dict(reduction="mean", ignore_index=-1),
}


def agree_in(mode, options, head, loss):
    options = OPTIONS[options]
    labels = np.where(LABELS == 0, options.get("ignore_index", 0), LABELS).astype(np.int32)

    def of_head(w):
        return jnp.sum(head(HIDDEN, w, labels, chunk_size=4, **options))

    def of_logits(w):
        return jnp.sum(loss(HIDDEN @ w, labels, **options))

    got, expected = (jax.jit(mode(f))(KERNEL) for f in (of_head, of_logits))
    assert np.isfinite(expected).all()
    assert np.linalg.norm(got - expected) <= 1e-6 * np.linalg.norm(expected)


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("mode", MODES)
def test_transformations_give_what_they_give_of_materialised_logits(mode, options):
    agree_in(MODES[mode], options, linear_cross_entropy, cross_entropy)


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("mode", TWIN_MODES)
def test_transformations_of_the_twin_give_what_they_give_of_materialised_logits(mode, options):
    agree_in(TWIN_MODES[mode], options, forward_mode.linear_cross_entropy, forward_mode.cross_entropy)


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_float16_gradients_that_only_the_scaled_loss_lifts_into_its_range_survive(reduction):
    rng = np.random.default_rng(0)
    hidden, kernel = (rng.normal(size=size).astype(np.float16) for size in ((1000, 4), (4, 9001)))
    labels = rng.integers(0, 100, 1000).astype(np.int32)

    @partial(jax.grad, argnums=(0, 1))
    def scaled(hidden, kernel):
        return 2.0**15 * jnp.mean(linear_cross_entropy(hidden, kernel, labels, reduction=reduction))

    for got, right in zip(scaled(hidden, kernel), scaled(hidden.astype("f4"), kernel.astype("f4")), strict=True):
        assert got.dtype == jnp.float16
        assert np.linalg.norm(got.astype("f4") - right) <= 2.0**-10 * np.linalg.norm(right)


@pytest.mark.parametrize("size", [1e6, 1e-8])
def test_float16_mean_does_not_depend_on_the_size_of_the_class_weights(size):
    hidden, kernel = HIDDEN.astype(np.float16), KERNEL.astype(np.float16)
    weights = np.linspace(1, 2, 9, dtype=np.float32)

    def gradients(class_weights):
        def loss(h, k):
            return linear_cross_entropy(h, k, LABELS, class_weights=class_weights)

        return jax.grad(loss, (0, 1))(hidden, kernel)

    for got, expected in zip(gradients(size * weights), gradients(weights), strict=True):
        np.testing.assert_allclose(np.asarray(got, np.float64), np.asarray(expected, np.float64), rtol=2e-3, atol=1e-5)


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_loss_whose_cotangent_is_known_to_be_zero_has_gradient_zero(reduction):
    @jax.custom_vjp
    def dropped(losses):
        return jnp.sum(losses)

    dropped.defvjp(lambda losses: (jnp.sum(losses), None), lambda _residuals, _total_bar: (None,))
    gradient = jax.grad(lambda h: dropped(linear_cross_entropy(h, KERNEL, LABELS, reduction=reduction)))(HIDDEN)
    np.testing.assert_array_equal(gradient, 0)


@pytest.mark.parametrize("reduction", ["sum", "none"])
def test_tokens_that_fill_up_the_last_chunk_make_nothing_of_an_infinite_kernel(reduction):
    kernel = jnp.asarray(KERNEL).at[:, 8].set(-jnp.inf)  # with positive hidden states a class that is ruled out
    hidden = np.abs(HIDDEN)

    def gradient(chunk_size):
        def loss(k):
            return linear_cross_entropy(hidden, k, LABELS, reduction=reduction, chunk_size=chunk_size)

        return jax.grad(lambda k: jnp.sum(loss(k)))(kernel)

    assert np.all(np.isfinite(gradient(6)))
    np.testing.assert_allclose(gradient(4), gradient(6), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("of", [linear_cross_entropy, forward_mode.linear_cross_entropy])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("chunk_size", [2, 4, None])  # a chunk of ignored tokens alone, one of both kinds, all in one
def test_nothing_in_the_hidden_state_of_an_ignored_token_reaches_a_gradient(of, reduction, chunk_size):
    ignored = np.array([0, 1, 0, 1, 1, 0], bool)
    labels, bias = np.where(ignored, -100, LABELS), KERNEL[0]

    @jax.jit
    def gradients(hidden):
        def loss(h, k, b):
            losses = of(h, k, labels, bias=b, ignore_index=-100, reduction=reduction, chunk_size=chunk_size)
            return jnp.sum(losses)

        def slope(k):
            return jnp.vdot(jax.grad(loss, 1)(hidden, k, bias), KERNEL)

        return *jax.grad(loss, (0, 1, 2))(hidden, KERNEL, bias), jax.grad(slope)(KERNEL)

    expected = gradients(HIDDEN)
    for what in (np.nan, np.inf):
        jax.tree.map(np.testing.assert_array_equal, gradients(np.where(ignored[:, None], what, HIDDEN)), expected)


@pytest.mark.parametrize("narrow", ["float32", "bfloat16", "float16"])
def test_gradients_of_a_wide_hidden_and_a_narrow_kernel_are_rounded_once(narrow):
    with jax.enable_x64(True), jax.numpy_dtype_promotion("strict"):
        hidden, kernel = jnp.asarray(HIDDEN, "float64"), jnp.asarray(KERNEL, narrow)
        got = jax.grad(linear_cross_entropy)(hidden, kernel, LABELS)
        expected = jax.grad(lambda h: cross_entropy(h @ kernel.astype("float64"), LABELS))(hidden)
        np.testing.assert_allclose(got, expected, rtol=1e-13, atol=1e-16)


def test_class_at_minus_infinity_costs_nothing_to_a_token_of_weight_0():
    bias, weights = jnp.zeros(9).at[2].set(-jnp.inf), np.array([1, 1, 0, 1, 1, 1], np.float32)
    head = partial(linear_cross_entropy, HIDDEN, KERNEL, LABELS, bias=bias)
    value, gradient = jax.value_and_grad(lambda u: head(token_weights=u))(weights)
    expected = jax.grad(lambda u: cross_entropy(HIDDEN @ KERNEL + bias, LABELS, token_weights=u))(weights)
    assert np.isfinite(value)
    np.testing.assert_allclose(gradient, expected, rtol=1e-6)


@pytest.mark.parametrize("sizes", [(0, 3, 7), (3, 0, 7), (3, 2, 1)])
def test_no_token_no_width_and_one_class_are_sizes_too(sizes):
    tokens, embed, vocab = sizes
    arguments = (jnp.ones((tokens, embed)), jnp.ones((embed, vocab)), jnp.zeros(tokens, int))
    value, gradients = jax.value_and_grad(linear_cross_entropy, (0, 1))(*arguments)
    np.testing.assert_allclose(value, np.log(vocab) if tokens else 0, rtol=1e-6)
    assert [g.shape for g in gradients] == [(tokens, embed), (embed, vocab)]


@pytest.mark.parametrize("vocab", [2049, 50257, 151936])
def test_small_logits_of_a_ragged_vocabulary_have_no_padded_columns(vocab):
    loss = linear_cross_entropy(np.zeros((1, 2), np.float32), np.zeros((2, vocab), np.float32), np.array([vocab - 1]))
    np.testing.assert_allclose(loss, np.log(vocab), rtol=1e-6)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_confident_token_keeps_its_loss_and_gradient(dtype):  # (M19, M20)
    hidden, kernel = jnp.array([[1.0, 0.0]], dtype), jnp.array([[0.0, -20.0], [0.0, 0.0]], dtype)
    loss, gradient = jax.value_and_grad(linear_cross_entropy, 1)(hidden, kernel, jnp.array([0]))
    np.testing.assert_allclose(loss, 2.06115362e-9, rtol=2.0**-22)
    rtol = float(jnp.finfo(dtype).eps) * 2
    np.testing.assert_allclose(np.asarray(gradient[0], np.float64), [-2.06115362e-9, 2.06115362e-9], rtol=rtol)


BAD = {
    "integer hidden": (dict(hidden=np.ones((6, 4), int)), TypeError, "hidden: expected a floating dtype, got int"),
    "scalar hidden": (dict(hidden=np.float32(1)), ValueError, r"hidden: expected shape \[\*batch, embed\], got \(\)"),
    "kernel of another embed": (dict(kernel=np.ones((5, 9), np.float32)), ValueError, r"kernel: .* got \(5, 9\)"),
    "kernel of one axis": (dict(kernel=np.ones(4, np.float32)), ValueError, r"kernel: expected shape \[embed, vocab\]"),
    "bias of another vocab": (dict(bias=np.ones(8, np.float32)), ValueError, r"bias: expected shape \(9,\)"),
    "integer bias": (dict(bias=np.ones(9, int)), TypeError, "bias: expected a floating dtype, got int"),
    "float labels": (
        dict(labels=np.ones((6, 9), np.float32)),
        TypeError,
        "labels: expected an integer dtype, got float",
    ),
    "labels of another batch": (dict(labels=np.ones(5, int)), ValueError, r"labels: expected shape \(6,\)"),
    "no class": (
        dict(kernel=np.ones((4, 0), np.float32)),
        ValueError,
        r"kernel: expected at least one class, got \(4, 0\)",
    ),
    "chunk_size = 0": (dict(chunk_size=0), ValueError, "chunk_size: expected an int >= 1 or None, got 0"),
    "chunk_size = 1.5": (dict(chunk_size=1.5), TypeError, "chunk_size: expected an int or None, got float"),
    "reduction": (dict(reduction="avg"), ValueError, "reduction: expected one of .* got 'avg'"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_names_the_argument_what_was_expected_and_what_came(name):
    changed, error, message = BAD[name]
    with pytest.raises(error, match=message):
        linear_cross_entropy(**{"hidden": HIDDEN, "kernel": KERNEL, "labels": LABELS} | changed)


def test_label_out_of_range_is_nan_for_its_own_token():
    labels = np.array([0, -1, 2, 9, 4, 5], np.int32)
    losses, pull = jax.vjp(lambda h: linear_cross_entropy(h, KERNEL, labels, reduction="none"), HIDDEN)
    (gradient,) = pull(jnp.ones(6))
    np.testing.assert_array_equal(np.isnan(losses), [False, True, False, True, False, False])
    np.testing.assert_array_equal(np.isnan(gradient).any(-1), [False, True, False, True, False, False])
