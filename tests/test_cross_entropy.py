"""The training loss: every keyword against the textbook, its reductions, and what has no say in it (M14, M24-M27)."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsoftmax import cross_entropy
from tests.tolerances import (
    DTYPES,
    FINITE_DIFFERENCE,
    ROWS,
    array,
    assert_close,
    exact,
    exact_softmax,
    finite_differences,
    log,
    loss_dtype,
    precision,
    tanh,
)

REDUCTIONS = ("mean", "sum", "none")
STATIC = ("ignore_index", "label_smoothing", "z_loss", "logit_softcap", "reduction")


@partial(jax.jit, static_argnames=STATIC)
def evaluate(logits, labels, **keywords):
    """The loss, and the gradient of its sum in the logits."""
    losses, vjp = jax.vjp(lambda logits: cross_entropy(logits, labels, **keywords), logits)
    return losses, vjp(jnp.ones_like(losses))[0]


def loss_of(*arrays, **keywords):
    return evaluate(*arrays, **keywords)[0]


def gradient_of(*arrays, **keywords):
    return evaluate(*arrays, **keywords)[1]


RNG = np.random.default_rng(0)
LOGITS = RNG.normal(size=(4, 3)) * 2
LOGITS_32 = LOGITS.astype(np.float32)
LABELS = {"integer": np.array([2, 0, 1, 2]), "float": RNG.uniform(-0.5, 1.5, (4, 3))}
CLASS_WEIGHTS = np.array([0.5, 2.0, 1.25])
TOKEN_WEIGHTS = np.array([1.0, 0.0, 3.0, 0.5])
WEIGHTS_32 = TOKEN_WEIGHTS.astype(np.float32)
ALONE = {
    "defaults": {},
    "class_weights": {"class_weights": CLASS_WEIGHTS},
    "label_smoothing": {"label_smoothing": 0.1},
    "label_smoothing 1": {"label_smoothing": 1.0},
    "z_loss": {"z_loss": 0.25},
    "logit_softcap": {"logit_softcap": 2.0},
}
TOGETHER = {
    "smoothing with class weights": {"class_weights": CLASS_WEIGHTS, "label_smoothing": 0.3},
    "z-loss with class weights": {"class_weights": CLASS_WEIGHTS, "z_loss": 0.25},
    "all": {"class_weights": CLASS_WEIGHTS, "label_smoothing": 0.2, "z_loss": 0.1, "logit_softcap": 3.0},
}
IGNORING = {
    "ignore_index -100": {"ignore_index": -100},
    "ignore_index 2": {"ignore_index": 2},
    "ignore_index with all": {"ignore_index": 2} | TOGETHER["all"],
}
CASES = [
    *(("float", name, options, "mean") for name, options in (ALONE | TOGETHER).items()),
    *(("integer", name, options, "mean") for name, options in (ALONE | TOGETHER | IGNORING).items()),
    *(("float", "all", TOGETHER["all"], reduction) for reduction in ("sum", "none")),
    *(("integer", "ignore_index with all", IGNORING["ignore_index with all"], other) for other in ("sum", "none")),
]
NAN, INF = np.nan, np.inf


def id_of(case):
    kind, name, _, reduction = case
    return f"{kind}, {name}, {reduction}"


in_every_case = pytest.mark.parametrize("case", CASES, ids=id_of)
of_both = pytest.mark.parametrize("kind", LABELS)


def textbook(
    logits,
    labels,
    token_weights,
    reduction,
    class_weights=None,
    ignore_index=None,
    label_smoothing=0.0,
    z_loss=0.0,
    logit_softcap=None,
):
    """M24, M26 and M27 as they are written."""
    vocab = logits.shape[-1]
    z = logits if logit_softcap is None else logit_softcap * jnp.tanh(logits / logit_softcap)
    lse = jnp.log(jnp.sum(jnp.exp(z), -1))
    log_probs = z - lse[..., None]
    w = jnp.ones(vocab) if class_weights is None else class_weights
    if jnp.issubdtype(labels.dtype, jnp.floating):
        smoothed = (1 - label_smoothing) * labels + label_smoothing / vocab
        losses, normalizers = -jnp.sum(w * smoothed * log_probs, -1) + z_loss * lse**2, token_weights
    else:
        one_hot = jnp.eye(vocab)[labels]
        label_weights = jnp.sum(w * one_hot, -1)
        losses = -(1 - label_smoothing) * label_weights * jnp.sum(one_hot * log_probs, -1)
        losses += -label_smoothing / vocab * jnp.sum(w * log_probs, -1) + z_loss * label_weights * lse**2
        kept = jnp.ones(labels.shape) if ignore_index is None else 1.0 * (labels != ignore_index)
        losses, normalizers = kept * losses, kept * token_weights * label_weights
    losses = token_weights * losses
    reductions = {"none": losses, "sum": jnp.sum(losses), "mean": jnp.sum(losses) / jnp.sum(normalizers)}
    return reductions[reduction]


def with_gradients(loss):
    """The loss, and the gradient of a weighted sum of it in each of its arrays."""

    def weighted(arrays):
        losses = loss(arrays)
        return jnp.sum(jnp.arange(1.0, losses.size + 1) * jnp.ravel(losses)), losses

    return jax.value_and_grad(weighted, has_aux=True)


@cache
def outcomes(judge):
    """Of every case, compiled together."""

    def of_case(arrays, kind, options, reduction):
        keywords = {"integer": {"labels": LABELS["integer"]}, "float": {}}[kind] | options | {"reduction": reduction}
        return with_gradients(lambda arrays: judge(**arrays, **keywords))(arrays)

    with precision("float64"):
        given = {"logits": LOGITS, "token_weights": TOKEN_WEIGHTS}
        arrays = {"integer": given, "float": given | {"labels": LABELS["float"]}}
        return jax.jit(lambda arrays: {id_of(c): of_case(arrays[c[0]], c[0], *c[2:]) for c in CASES})(arrays)


@in_every_case
def test_every_keyword_and_reduction_is_that_of_the_textbook(case):  # (M24-M27)
    with precision("float64"):
        got, expected = (jax.tree.leaves(outcomes(judge)[id_of(case)]) for judge in (cross_entropy, textbook))
        for g, e in zip(got, expected, strict=True):
            np.testing.assert_allclose(g, e, rtol=1e-12, atol=1e-14)  # the judge's own rounding


@pytest.mark.parametrize("argument", ["logits", "token_weights", "labels"])
def test_gradients_are_limits_of_difference_quotients(argument):
    with precision("float64"):
        arrays = {"logits": LOGITS, "token_weights": TOKEN_WEIGHTS, "labels": LABELS["float"]}

        def of_one(values):
            return cross_entropy(**arrays | {argument: values.reshape(arrays[argument].shape)}, **TOGETHER["all"])

        flat = arrays[argument].ravel()
        quotients = finite_differences(of_one, flat)
        np.testing.assert_allclose(jax.jit(jax.grad(of_one))(flat), quotients, rtol=0, atol=FINITE_DIFFERENCE)


@pytest.mark.parametrize("dtype", DTYPES)
def test_plain_loss_and_gradient_are_exact(dtype):  # (M14)
    labels = np.arange(len(ROWS)) % 5
    labels[-2:] = 0, 1  # where the logits are finite
    with precision(dtype):
        logits = array(ROWS, dtype)
        probs = exact_softmax(logits)
        losses, gradient = evaluate(logits, labels, reduction="none")
        assert_close(losses, -log(probs[np.arange(len(ROWS)), labels]), loss_dtype(dtype))
        assert_close(gradient, probs - exact(np.eye(5)[labels]), dtype)


@of_both
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_weighted_smoothed_penalised_loss_loses_no_bit_of_its_terms(dtype, kind):  # (M24-M26)
    rows, weights = np.array(ROWS[:8]), np.array([0.5, 2.0, 1.25, 1.0, 4.0])
    one_hot = exact(np.eye(5)[np.arange(8) % 5])
    labels = {"integer": np.arange(8) % 5, "float": array(one_hot.astype(float), dtype)}[kind]
    eps, zeta = 0.125, 0.25
    options = {"label_smoothing": eps, "z_loss": zeta}
    with precision(dtype):
        logits, class_weights = array(rows, dtype), array(weights, dtype)
        losses, gradient = evaluate(logits, labels, class_weights=class_weights, reduction="none", **options)
        probs, w = exact_softmax(logits), exact(weights)
        lse = (exact(rows) - log(probs))[:, :1]
        penalty_weight = {"integer": np.sum(one_hot * w, -1, keepdims=True), "float": exact([[1.0]])}[kind]
        targets = w * ((1 - eps) * one_hot + eps / exact([5.0]))
        expected = np.sum(targets * -log(probs), -1) + (zeta * penalty_weight * lse**2)[:, 0]
        assert_close(losses, expected, dtype)
        pulls = [targets * (probs - 1), (targets.sum(-1, keepdims=True) - targets) * probs]
        pulls.append(2 * zeta * penalty_weight * lse * probs)
        error = abs(exact(gradient) - sum(pulls))
        assert np.all(error <= 4 * float(jnp.finfo(dtype).eps) * sum(map(abs, pulls)))  # the terms may cancel


@of_both
def test_softcapped_loss_keeps_its_tail(kind):  # (M23)
    rng, cap = np.random.default_rng(0), 30.0
    logits = np.asarray(rng.normal(size=(64, 8)) + 40 * np.eye(8)[0], np.float32)
    labels = {"integer": np.zeros(64, np.int32), "float": np.broadcast_to(np.eye(8, dtype=np.float32)[0], (64, 8))}
    z = cap * tanh(exact(logits) / cap)
    probs, slope = exact_softmax(z), 1 - tanh(exact(logits) / cap) ** 2

    def loss(logits, reduction):
        return cross_entropy(logits, labels[kind], logit_softcap=cap, reduction=reduction)

    losses = jax.jit(lambda logits: loss(logits, "none"))(logits)
    gradient = jax.jit(jax.grad(lambda logits: loss(logits, "sum")))(logits)
    # z is rounded in its quotient, tanh and product: 4 ulps of 16 to 32 move its exponential by 2^-17, or 128 ulps.
    assert_close(losses, -log(probs[:, 0]), "float32", 128)
    assert_close(gradient[:, 0], (probs[:, 0] - 1) * slope[:, 0], "float32", 128)


def test_one_hot_labels_cost_what_integer_labels_do():
    one_hot, labels = np.eye(3, dtype=np.float32)[LABELS["integer"]], LABELS["integer"]
    options = {"token_weights": WEIGHTS_32, "label_smoothing": 0.2, "z_loss": 0.1, "logit_softcap": 3.0}
    of_one_hot, of_integers = (loss_of(LOGITS_32, labels, **options) for labels in (one_hot, labels))
    np.testing.assert_allclose(of_one_hot, of_integers, rtol=1e-6)


def test_summing_the_per_sample_gradients_gives_that_of_a_shared_bias():  # (M14)
    labels = LABELS["integer"]
    by_bias = jax.jit(jax.grad(lambda bias: cross_entropy(LOGITS_32 + bias, labels)))(np.zeros(3, np.float32))
    per_sample = gradient_of(LOGITS_32, labels)
    probs = np.exp(LOGITS) / np.sum(np.exp(LOGITS), -1, keepdims=True)
    np.testing.assert_allclose(per_sample, (probs - np.eye(3)[labels]) / 4, rtol=1e-6)
    np.testing.assert_allclose(by_bias, np.sum(per_sample, 0), rtol=1e-6)


@pytest.mark.parametrize("batch", [(), (2, 1, 2)], ids=str)
@of_both
def test_batch_of_any_rank_is_the_flattened_batch(kind, batch):
    labels, count = LABELS[kind], np.prod(batch, dtype=int)
    shaped = LOGITS_32[:count].reshape(*batch, 3), labels[:count].reshape(batch + labels.shape[1:])
    got = loss_of(*shaped, reduction="none")
    assert got.shape == batch
    np.testing.assert_allclose(np.ravel(got), loss_of(LOGITS_32, labels, reduction="none")[:count], rtol=1e-6)


@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.parametrize("hidden", [NAN, INF, -INF])
def test_ignored_token_has_no_say_whatever_its_logits(hidden, reduction):
    logits = np.where(np.arange(4)[:, None] == 1, hidden, LOGITS).astype(np.float32)
    labels = np.where(np.arange(4) == 1, -100, LABELS["integer"])
    kept = np.array([0, 2, 3])
    losses, gradient = evaluate(logits, labels, ignore_index=-100, reduction=reduction)
    expected_losses, expected = evaluate(logits[kept], labels[kept], ignore_index=-100, reduction=reduction)
    np.testing.assert_allclose(np.sum(losses), np.sum(expected_losses), rtol=1e-6)
    np.testing.assert_array_equal(gradient[1], 0)
    np.testing.assert_allclose(gradient[kept], expected, rtol=1e-6)


NOTHING = {
    "all ignored": {"labels": np.full(4, -100), "ignore_index": -100},
    "token weights 0": {"token_weights": np.zeros(4, np.float32)},
    "token weights that cancel": {"token_weights": array([1, -1, 2, -2], "float32")},
    "label weights 0": {"class_weights": array([0, 0, 0], "float32")},
    "smoothed label weights 0": {"labels": np.zeros(4, int), "class_weights": np.arange(3.0), "label_smoothing": 0.5},
    "ignored and weight 0": {"ignore_index": 2, "token_weights": array([3, 0, 0, 1], "float32")},
    "float labels": {"labels": LABELS["float"], "token_weights": np.zeros(4, np.float32)},
}


@pytest.mark.parametrize("case", NOTHING)
def test_mean_over_nothing_is_0_with_gradient_0(case):  # (M27)
    keywords = {"labels": LABELS["integer"]} | NOTHING[case]
    labels = keywords.pop("labels")
    logits = LOGITS_32
    assert loss_of(logits, labels, **keywords) == 0
    np.testing.assert_array_equal(gradient_of(logits, labels, **keywords), 0)


@of_both
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_empty_batch_costs_0(reduction, kind):
    logits = np.zeros((0, 3), np.float32)
    labels = {"integer": np.zeros(0, np.int32), "float": logits}[kind]
    assert np.sum(loss_of(logits, labels, reduction=reduction)) == 0
    assert gradient_of(logits, labels, reduction=reduction).shape == (0, 3)


@pytest.mark.parametrize("options", [{}, {"label_smoothing": 0.1}, {"logit_softcap": 2.0}], ids=str)
def test_float_labels_of_no_classes_cost_0(options):
    logits = np.zeros((2, 0), np.float32)
    assert loss_of(logits, logits, **options) == 0


@pytest.mark.parametrize("options", [{}, TOGETHER["all"]], ids=["plain", "all"])
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_label_outside_the_vocabulary_makes_its_own_token_nan(reduction, options):
    labels = np.array([0, -1, 3, 2])
    logits, outside = LOGITS_32, np.array([False, True, True, False])
    losses = loss_of(logits, labels, ignore_index=-100, reduction=reduction, **options)
    np.testing.assert_array_equal(np.isnan(losses), {"none": outside}.get(reduction, True))
    gradient = gradient_of(logits, labels, ignore_index=-100, reduction=reduction, **options)
    np.testing.assert_array_equal(np.isnan(gradient), np.broadcast_to(outside[:, None], (4, 3)))


def test_label_outside_the_vocabulary_is_nan_even_at_weight_0():
    labels = np.array([0, -1, 3, 2])
    losses = loss_of(LOGITS_32, labels, token_weights=0 * WEIGHTS_32, reduction="none")
    np.testing.assert_array_equal(np.isnan(losses), [False, True, True, False])


def test_ignore_index_outside_the_labels_dtype_ignores_nothing():
    labels = LABELS["integer"]
    got = loss_of(LOGITS_32, labels.astype(np.uint32), ignore_index=-100)
    assert got == loss_of(LOGITS_32, labels, ignore_index=-100)


@pytest.mark.parametrize("options", [{}, {"label_smoothing": 0.1}, {"z_loss": 0.1}, {"class_weights": CLASS_WEIGHTS}])
@of_both
def test_row_of_minus_infinities_costs_infinity_with_gradient_0(kind, options):  # (jax#6811)
    logits = np.where(np.arange(4)[:, None] == 1, -INF, LOGITS).astype(np.float32)
    labels = {"integer": LABELS["integer"], "float": abs(LABELS["float"])}[kind]
    assert loss_of(logits, labels, reduction="none", **options)[1] == np.inf
    gradient = gradient_of(logits, labels, reduction="none", **options)
    np.testing.assert_array_equal(gradient[1], 0)
    assert np.isfinite(gradient).all()


@pytest.mark.parametrize("labels", [np.array([1]), np.array([[0.0, 1.0, 0.0]])], ids=["integer", "float"])
@pytest.mark.parametrize("smoothing", [0.0, 1.0])
def test_class_of_weight_0_costs_nothing_even_at_minus_infinity(labels, smoothing):
    logits, weights = (array(row, "float32") for row in ([[0.0, -INF, 1.0]], [1, 0, 1]))
    loss = loss_of(logits, labels, class_weights=weights, label_smoothing=smoothing, reduction="sum")
    expected = smoothing * (2 * np.log1p(np.e) - 1) / 3
    np.testing.assert_allclose(loss, expected, rtol=1e-6)


@of_both
def test_softcap_bounds_infinite_logits(kind):
    logits, capped = (array([row] * 4, "float32") for row in ([INF, 0.0, -INF], [1e3, 0.0, -1e3]))
    outcomes = (evaluate(x, LABELS[kind], logit_softcap=2.0, reduction="none") for x in (logits, capped))
    (losses, gradient), (expected, _) = outcomes
    np.testing.assert_array_equal(losses, expected)
    np.testing.assert_array_equal(gradient[:, ::2], 0)


@of_both
def test_class_weights_are_constants(kind):
    def loss(class_weights):
        return cross_entropy(LOGITS_32, LABELS[kind], class_weights=class_weights)

    weights = CLASS_WEIGHTS.astype(np.float32)
    np.testing.assert_array_equal(jax.jit(jax.grad(loss))(weights), 0)


@of_both
def test_gradient_in_token_weights_is_each_loss_less_its_share_of_the_mean(kind):  # (M27)
    def loss(token_weights, reduction="mean"):
        return cross_entropy(LOGITS_32, LABELS[kind], token_weights=token_weights, reduction=reduction)

    mean, gradient = jax.jit(jax.value_and_grad(loss))(WEIGHTS_32)
    losses = loss_of(LOGITS_32, LABELS[kind], reduction="none")
    np.testing.assert_allclose(gradient, (losses - mean) / np.sum(WEIGHTS_32), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("dtype", ["bool", "bfloat16"])
def test_weights_of_every_real_dtype_are_numbers(dtype):
    logits, ones = LOGITS_32, np.ones(4, jnp.dtype(dtype))
    got = loss_of(logits, LABELS["integer"], token_weights=ones, class_weights=ones[:3])
    assert got.dtype == jnp.float32
    np.testing.assert_allclose(got, loss_of(logits, LABELS["integer"]), rtol=1e-6)


@pytest.mark.parametrize("dtype", DTYPES)
@of_both
def test_loss_is_at_least_float32_and_gradients_have_the_dtypes_of_their_arguments(kind, dtype):
    with precision(dtype):
        logits, weights = array(LOGITS, dtype), array(TOKEN_WEIGHTS, "bfloat16")
        labels = {"integer": LABELS["integer"], "float": array(LABELS["float"], "float16")}[kind]

        def loss(logits, weights):
            return cross_entropy(logits, labels, token_weights=weights, **TOGETHER["all"])

        value, gradients = jax.eval_shape(jax.value_and_grad(loss, (0, 1)), logits, weights)
        assert value.dtype == loss_dtype(dtype)
        assert [g.dtype for g in gradients] == [dtype, "bfloat16"]
