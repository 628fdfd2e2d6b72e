"""The training loss: every keyword and reduction against the textbook, and its exact tails (M14, M23-M27)."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsoftmax import cross_entropy
from tests import textbook
from tests.tiers import in_tiers
from tests.tolerances import (
    FINITE_DIFFERENCE,
    ROWS,
    array,
    assert_close,
    exact,
    exact_softmax,
    finite_differences,
    in_every_dtype,
    log,
    loss_dtype,
    precision,
    tanh,
)

STATIC = ("ignore_index", "label_smoothing", "z_loss", "logit_softcap", "reduction")


@partial(jax.jit, static_argnames=STATIC)
def loss_and_gradient(logits, labels, **keywords):
    """The loss, and the gradient of its sum in the logits."""
    losses, vjp = jax.vjp(lambda logits: cross_entropy(logits, labels, **keywords), logits)
    return losses, vjp(jnp.ones_like(losses))[0]


def evaluate(logits, labels, **keywords):
    """Loss and gradient as NumPy's arrays, whose slices compile nothing."""
    return jax.tree.map(np.asarray, loss_and_gradient(logits, labels, **keywords))


def evaluate_all(cases):
    """Loss and gradient of every case, its arrays (logits, labels and weights) and its constants, compiled together."""
    constants = {
        case: {key: keywords.get(key) for key in STATIC if key in keywords} for case, keywords in cases.items()
    }
    arrays = {
        case: {key: value for key, value in keywords.items() if key not in STATIC} for case, keywords in cases.items()
    }
    together = jax.jit(lambda arrays: {case: loss_and_gradient(**arrays[case], **constants[case]) for case in cases})
    return jax.tree.map(np.asarray, together(arrays))


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


def id_of(case):
    kind, name, _, reduction = case
    return f"{kind}, {name}, {reduction}"


def is_first(case):
    """In the first tier: all keywords together, and none."""
    return case[1] in ("defaults", "all", "ignore_index with all")


in_every_case = in_tiers("case", CASES, [case for case in CASES if is_first(case)], named=id_of)
of_both = pytest.mark.parametrize("kind", LABELS)
of_either = pytest.mark.parametrize("kind", ["integer", pytest.param("float", marks=pytest.mark.slow)])


def with_gradients(loss):
    """The loss, and the gradient of a weighted sum of it in each of its arrays."""

    def weighted(arrays):
        losses = loss(arrays)
        return jnp.sum(jnp.arange(1.0, losses.size + 1) * jnp.ravel(losses)), losses

    return jax.value_and_grad(weighted, has_aux=True)


@cache
def outcomes(judge, first):
    """The loss and gradients of every case of a tier, compiled together."""
    cases = [case for case in CASES if is_first(case) == first]

    def of_case(arrays, kind, options, reduction):
        keywords = {"integer": {"labels": LABELS["integer"]}, "float": {}}[kind] | options | {"reduction": reduction}
        return with_gradients(lambda arrays: judge(**arrays, **keywords))(arrays)

    with precision("float64"):
        given = {"logits": LOGITS, "token_weights": TOKEN_WEIGHTS}
        arrays = {"integer": given, "float": given | {"labels": LABELS["float"]}}
        return jax.jit(lambda arrays: {id_of(c): of_case(arrays[c[0]], c[0], *c[2:]) for c in cases})(arrays)


@in_every_case
def test_every_keyword_and_reduction_is_that_of_the_textbook(case):  # (M24, M25, M26, M27)
    with precision("float64"):
        judged = (outcomes(judge, is_first(case))[id_of(case)] for judge in (cross_entropy, textbook.loss))
        got, expected = map(jax.tree.leaves, judged)
        for g, e in zip(got, expected, strict=True):
            np.testing.assert_allclose(g, e, rtol=1e-12, atol=1e-14)  # the judge's own rounding


@in_tiers("argument", ["logits", "token_weights", "labels"], first=["logits"])
def test_gradients_are_limits_of_difference_quotients(argument):
    with precision("float64"):
        arrays = {"logits": LOGITS, "token_weights": TOKEN_WEIGHTS, "labels": LABELS["float"]}

        def of_one(values):
            return cross_entropy(**arrays | {argument: values.reshape(arrays[argument].shape)}, **TOGETHER["all"])

        flat = arrays[argument].ravel()
        quotients = finite_differences(of_one, flat)
        np.testing.assert_allclose(jax.jit(jax.grad(of_one))(flat), quotients, rtol=0, atol=FINITE_DIFFERENCE)


@in_every_dtype
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
@pytest.mark.parametrize("dtype", ["float32", pytest.param("float64", marks=pytest.mark.slow)])
def test_weighted_smoothed_penalised_loss_loses_no_bit_of_its_terms(dtype, kind):  # (M24, M25, M26)
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


@of_either
def test_softcapped_loss_keeps_its_tail(kind):  # (M23)
    rng, cap = np.random.default_rng(0), 30.0
    logits = np.asarray(rng.normal(size=(64, 8)) + 40 * np.eye(8)[0], np.float32)
    labels = {"integer": np.zeros(64, np.int32), "float": np.broadcast_to(np.eye(8, dtype=np.float32)[0], (64, 8))}
    z = cap * tanh(exact(logits) / cap)
    probs, slope = exact_softmax(z), 1 - tanh(exact(logits) / cap) ** 2

    def loss(logits, reduction):
        return cross_entropy(logits, labels[kind], logit_softcap=cap, reduction=reduction)

    losses = jax.jit(lambda logits: loss(logits, "none"))(logits)
    gradient = np.asarray(jax.jit(jax.grad(lambda logits: loss(logits, "sum")))(logits))
    # z is rounded in its quotient, tanh and product: 4 ulps of 16 to 32 move its exponential by 2^-17, or 128 ulps.
    assert_close(losses, -log(probs[:, 0]), "float32", 128)
    assert_close(gradient[:, 0], (probs[:, 0] - 1) * slope[:, 0], "float32", 128)


def test_one_hot_labels_cost_what_integer_labels_do():
    one_hot, labels = np.eye(3, dtype=np.float32)[LABELS["integer"]], LABELS["integer"]
    options = {"token_weights": WEIGHTS_32, "label_smoothing": 0.2, "z_loss": 0.1, "logit_softcap": 3.0}
    cases = {y.ndim: {"logits": LOGITS_32, "labels": y} | options for y in (labels, one_hot)}
    (of_integers, _), (of_one_hot, _) = evaluate_all(cases).values()
    np.testing.assert_allclose(of_one_hot, of_integers, rtol=1e-6)


def test_summing_the_per_sample_gradients_gives_that_of_a_shared_bias():  # (M14)
    labels = LABELS["integer"]
    by_bias = jax.jit(jax.grad(lambda bias: cross_entropy(LOGITS_32 + bias, labels)))(np.zeros(3, np.float32))
    per_sample = gradient_of(LOGITS_32, labels)
    probs = np.exp(LOGITS) / np.sum(np.exp(LOGITS), -1, keepdims=True)
    np.testing.assert_allclose(per_sample, (probs - np.eye(3)[labels]) / 4, rtol=1e-6)
    np.testing.assert_allclose(by_bias, np.sum(per_sample, 0), rtol=1e-6)


BATCHES = [(), (2, 1, 2), (4,)]


@cache
def of_batches(kind):
    """The losses of one, or of all four tokens in two shapes, compiled together."""
    labels = LABELS[kind]
    given = {"reduction": "none"}
    for_batch = {
        str(batch): given
        | {
            "logits": LOGITS_32[: np.prod(batch, dtype=int)].reshape(*batch, 3),
            "labels": labels[: np.prod(batch, dtype=int)].reshape(batch + labels.shape[1:]),
        }
        for batch in BATCHES
    }
    return {batch: losses for batch, (losses, _) in evaluate_all(for_batch).items()}


@pytest.mark.parametrize("batch", BATCHES[:2], ids=str)
@of_either
def test_batch_of_any_rank_is_the_flattened_batch(kind, batch):
    got, flat = of_batches(kind)[str(batch)], of_batches(kind)[str(BATCHES[2])]
    assert got.shape == batch
    np.testing.assert_allclose(np.ravel(got), flat[: got.size], rtol=1e-6)


@of_both
def test_class_weights_are_constants(kind):
    def loss(class_weights):
        return cross_entropy(LOGITS_32, LABELS[kind], class_weights=class_weights)

    weights = CLASS_WEIGHTS.astype(np.float32)
    np.testing.assert_array_equal(jax.jit(jax.grad(loss))(weights), 0)


@of_either
def test_gradient_in_token_weights_is_each_loss_less_its_share_of_the_mean(kind):  # (M27)
    def loss(token_weights, reduction="mean"):
        return cross_entropy(LOGITS_32, LABELS[kind], token_weights=token_weights, reduction=reduction)

    mean, gradient = jax.jit(jax.value_and_grad(loss))(WEIGHTS_32)
    losses = loss_of(LOGITS_32, LABELS[kind], reduction="none")
    np.testing.assert_allclose(gradient, (losses - mean) / np.sum(WEIGHTS_32), rtol=1e-6, atol=1e-7)
