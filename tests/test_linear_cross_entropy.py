"""The fused head is cross_entropy of hidden @ kernel + bias: value, every gradient, every keyword, every size."""

from functools import partial
from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsoftmax import cross_entropy, forward_mode, linear_cross_entropy
from tests import textbook
from tests.head_cases import (
    COVERING,
    PAIRWISE,
    SEEDS,
    TOLERANCE,
    assert_is_reference,
    follow,
    generated,
    gradient_and_hessian_product,
    head_of,
    materialised,
    pairs,
    reference,
    traits,
    value_and_gradients,
)
from tests.tiers import in_tiers
from tests.tolerances import array, precision

FEW = [(seed, "float32") for seed in COVERING] + [(49, "float64"), (70, "bfloat16")]
# Nightly: a seed in one dtype, the next in the next.
OTHERS = [(seed, tuple(TOLERANCE)[seed % len(TOLERANCE)]) for seed in SEEDS if seed not in COVERING]


@pytest.mark.parametrize(("few", "seen"), [(COVERING, traits), (PAIRWISE, pairs)], ids=["traits", "pairs of facts"])
def test_few_seeds_show_what_all_show(few, seen):
    of_few, of_all = (set().union(*(seen(generated(seed)) for seed in seeds)) for seeds in (few, SEEDS))
    assert of_few == of_all


@in_tiers(("seed", "dtype"), FEW + OTHERS, FEW)
def test_head_is_the_loss_of_materialised_logits(seed, dtype, monkeypatch):  # (M16, M24, M25, M26, M27)
    case = generated(seed)
    follow(monkeypatch, "CPU", case.small)
    assert_is_reference(head_of(case), case, dtype)


@in_tiers(("seed", "dtype"), [(61, "float32"), (70, "bfloat16")], first=[(70, "bfloat16")])
def test_forward_mode_variant_is_the_loss_of_materialised_logits(seed, dtype, monkeypatch):  # (M16, M24, M25, M26, M27)
    case = generated(seed)
    follow(monkeypatch, "CPU", case.small)
    assert_is_reference(head_of(case, forward_mode.linear_cross_entropy), case, dtype)


JUDGES = {  # and the seeds that every run judges
    "autodiff of the textbook": (textbook.loss, COVERING),
    "cross_entropy": (cross_entropy, (106,)),
}


@in_tiers(
    ("seed", "judge"),
    list(product(COVERING, JUDGES)),
    first=[(seed, judge) for judge, (_, seeds) in JUDGES.items() for seed in seeds],
)
def test_loss_of_materialised_logits_is_the_reference(seed, judge):  # (M16, M24, M25, M26, M27)
    case = generated(seed)
    with precision("float64"):
        value, gradients = value_and_gradients(materialised(case, JUDGES[judge][0]), case, "float64")
    expected, expected_gradients, sizes = reference(case)
    np.testing.assert_allclose(value, expected, rtol=1e-13, atol=1e-15)
    for name, gradient in gradients.items():
        error = np.linalg.norm(np.asarray(gradient) - expected_gradients[name])
        assert error <= 1e-13 * np.linalg.norm(sizes[name]) + 1e-15, name


HIDDEN = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)
KERNEL = np.random.default_rng(1).normal(size=(4, 9)).astype(np.float32)
LABELS = np.arange(6, dtype=np.int32)


@partial(jax.jit, static_argnames=("reduction", "chunk_size", "ignore_index"))
def evaluate(hidden, kernel, labels, **options):
    """The loss, and the gradients of its sum in hidden and kernel."""
    losses, vjp = jax.vjp(lambda *head: linear_cross_entropy(*head, labels, **options), hidden, kernel)
    return losses, vjp(jnp.ones_like(losses))


@pytest.mark.slow
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_float16_gradients_that_only_the_scaled_loss_lifts_into_its_range_survive(reduction):
    rng = np.random.default_rng(0)
    hidden, kernel = (rng.normal(size=size).astype(np.float16) for size in ((1000, 4), (4, 9001)))
    labels = rng.integers(0, 100, 1000).astype(np.int32)

    @jax.jit
    @partial(jax.grad, argnums=(0, 1))
    def scaled(hidden, kernel):
        return 2.0**15 * jnp.mean(linear_cross_entropy(hidden, kernel, labels, reduction=reduction))

    of_mean, _ = gradient_and_hessian_product(hidden, labels, np.full(1000, 2.0**15 / 1000))
    for got, expected in zip(scaled(hidden, kernel), of_mean(kernel.astype(np.float64)), strict=True):
        assert got.dtype == jnp.float16
        assert np.linalg.norm(got.astype("f4") - expected) <= 2.0**-10 * np.linalg.norm(expected)


@pytest.mark.parametrize("size", [1e6, 1e-8])
def test_float16_mean_does_not_depend_on_the_size_of_the_class_weights(size):
    head, weights = (HIDDEN.astype(np.float16), KERNEL.astype(np.float16)), np.linspace(1, 2, 9, dtype=np.float32)
    got, expected = (evaluate(*head, LABELS, class_weights=w)[1] for w in (np.float32(size) * weights, weights))
    for one, other in zip(got, expected, strict=True):
        np.testing.assert_allclose(np.asarray(one, np.float64), np.asarray(other, np.float64), rtol=2e-3, atol=1e-5)


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_loss_whose_cotangent_is_known_to_be_zero_has_gradient_zero(reduction):
    @jax.custom_vjp
    def dropped(losses):
        return jnp.sum(losses)

    @jax.jit
    @jax.grad
    def gradient(hidden):
        return dropped(linear_cross_entropy(hidden, KERNEL, LABELS, reduction=reduction))

    dropped.defvjp(lambda losses: (jnp.sum(losses), None), lambda _residuals, _total_bar: (None,))
    np.testing.assert_array_equal(gradient(HIDDEN), 0)


@pytest.mark.parametrize("reduction", ["none", pytest.param("sum", marks=pytest.mark.slow)])
def test_tokens_that_pad_the_last_chunk_make_nothing_of_an_infinite_kernel(reduction):
    hidden, kernel = np.abs(HIDDEN), KERNEL.copy()
    kernel[:, 8] = -np.inf  # with positive hidden states a class that is ruled out
    padded, whole = (evaluate(hidden, kernel, LABELS, reduction=reduction, chunk_size=n)[1][1] for n in (4, 6))
    assert np.all(np.isfinite(whole))
    np.testing.assert_allclose(padded, whole, rtol=1e-6, atol=1e-7)


ALONE, MIXED, WHOLE = 2, 4, None  # chunks: one of ignored tokens alone, one of both kinds, all tokens in one
HEADS = {"reverse": linear_cross_entropy, "forward": forward_mode.linear_cross_entropy}
IGNORING = [*product(HEADS, ("mean", "none"), (ALONE, MIXED, WHOLE)), ("reverse", "sum", ALONE)]


@in_tiers(("mode", "reduction", "chunk_size"), IGNORING, first=[("reverse", "mean", ALONE)])
def test_nothing_in_the_hidden_state_of_an_ignored_token_reaches_a_gradient(mode, reduction, chunk_size):
    head = HEADS[mode]
    ignored = np.array([0, 1, 0, 1, 1, 0], bool)
    labels, bias = np.where(ignored, -100, LABELS), KERNEL[0]

    @jax.jit
    def gradients(hidden):
        def loss(h, k, b):
            losses = head(h, k, labels, bias=b, ignore_index=-100, reduction=reduction, chunk_size=chunk_size)
            return jnp.sum(losses)

        def slope(k):
            return jnp.vdot(jax.grad(loss, 1)(hidden, k, bias), KERNEL)

        return *jax.grad(loss, (0, 1, 2))(hidden, KERNEL, bias), jax.grad(slope)(KERNEL)

    expected = gradients(HIDDEN)
    for what in (np.nan, np.inf):
        jax.tree.map(np.testing.assert_array_equal, gradients(np.where(ignored[:, None], what, HIDDEN)), expected)


@in_tiers("narrow", ["bfloat16", "float32", "float16"], first=["bfloat16"])
def test_gradients_of_a_wide_hidden_and_a_narrow_kernel_are_rounded_once(narrow):
    with jax.enable_x64(True), jax.numpy_dtype_promotion("strict"):
        hidden, kernel = HIDDEN.astype(np.float64), KERNEL.astype(jnp.dtype(narrow))
        got = evaluate(hidden, kernel, LABELS)[1][0]
        expected = gradient_and_hessian_product(hidden, LABELS, np.full(6, 1 / 6))[0](kernel.astype(np.float64))[0]
        np.testing.assert_allclose(got, expected, rtol=1e-13, atol=1e-16)


def test_class_at_minus_infinity_costs_nothing_to_a_token_of_weight_0():
    bias, weights = np.where(np.arange(9) == 2, -np.inf, np.float32(0)), np.array([1, 1, 0, 1, 1, 1], np.float32)

    @jax.jit
    def both(u):
        head = partial(linear_cross_entropy, HIDDEN, KERNEL, LABELS, bias=bias)
        value, gradient = jax.value_and_grad(lambda u: head(token_weights=u))(u)
        return value, gradient, jax.grad(lambda u: cross_entropy(HIDDEN @ KERNEL + bias, LABELS, token_weights=u))(u)

    value, gradient, expected = both(weights)
    assert np.isfinite(value)
    np.testing.assert_allclose(gradient, expected, rtol=1e-6)


@pytest.mark.parametrize("sizes", [(0, 3, 7), (3, 0, 7), (3, 2, 1)])
def test_no_token_no_width_and_one_class_are_sizes_too(sizes):
    tokens, embed, vocab = sizes
    head = np.ones((tokens, embed), np.float32), np.ones((embed, vocab), np.float32)
    value, gradients = evaluate(*head, np.zeros(tokens, np.int32))
    np.testing.assert_allclose(value, np.log(vocab) if tokens else 0, rtol=1e-6)
    assert [g.shape for g in gradients] == [(tokens, embed), (embed, vocab)]


@in_tiers("vocab", [2049, 50257, 151936], first=[2049])
def test_small_logits_of_a_ragged_vocabulary_have_no_padded_columns(vocab):
    head = np.zeros((1, 2), np.float32), np.zeros((2, vocab), np.float32)
    loss = jax.jit(linear_cross_entropy)(*head, np.array([vocab - 1], np.int32))
    np.testing.assert_allclose(loss, np.log(vocab), rtol=1e-6)


@pytest.mark.parametrize("dtype", ["float32", pytest.param("bfloat16", marks=pytest.mark.slow)])
def test_confident_token_keeps_its_loss_and_gradient(dtype):  # (M19, M20)
    hidden, kernel = array([[1.0, 0.0]], dtype), array([[0.0, -20.0], [0.0, 0.0]], dtype)
    loss, (_, gradient) = evaluate(hidden, kernel, np.array([0], np.int32))
    np.testing.assert_allclose(loss, 2.06115362e-9, rtol=2.0**-22)
    rtol = float(jnp.finfo(dtype).eps) * 2
    np.testing.assert_allclose(np.asarray(gradient[0], np.float64), [-2.06115362e-9, 2.06115362e-9], rtol=rtol)


def test_label_out_of_range_is_nan_for_its_own_token():
    losses, (gradient, _) = evaluate(HIDDEN, KERNEL, np.array([0, -1, 2, 9, 4, 5], np.int32), reduction="none")
    np.testing.assert_array_equal(np.isnan(losses), [False, True, False, True, False, False])
    np.testing.assert_array_equal(np.isnan(gradient).any(-1), [False, True, False, True, False, False])
