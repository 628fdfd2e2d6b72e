"""Token statistics, sparse labels and distillation of infinities, NaN and labels out of range."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxsoftmax
from jaxsoftmax import SparseLabels, forward_mode
from tests.tiers import in_tiers

INF, NAN = np.inf, np.nan
in_either_mode = pytest.mark.parametrize("library", [jaxsoftmax, forward_mode], ids=["reverse", "forward"])

ROWS = np.float32(
    [
        [0.5, -1.0, 2.0, 0.0],
        [-INF, -INF, -INF, -INF],
        [0.5, INF, 2.0, 0.0],
        [0.5, NAN, 2.0, 0.0],
        [0.5, -1.0, 2.0, 0.0],  # label 4 of 4 classes
        [0.5, -1.0, 2.0, 0.0],  # label -1
        [0.5, -INF, 2.0, 2.0],  # a class ruled out, and a tie
        [NAN, INF, -INF, 0.0],  # ignored labels
        [0.5, -1.0, 2.0, 0.0],
    ]
)
LABELS = np.array([2, 0, 0, 0, 4, -1, 0, -100, -100], np.int32)


@cache
def stats_of(library):
    """The statistics, and the gradients of log-probability, entropy and log-sum-exp alone, in one program."""

    def output(x, of):
        return library.token_stats(x, LABELS, ignore_index=-100)[of]

    @jax.jit
    def evaluate(x):
        pairs = [jax.vjp(partial(output, of=of), x) for of in range(3)]
        return [value for value, _ in pairs], [back(jnp.ones(len(x)))[0] for _, back in pairs], output(x, 3)

    return evaluate(ROWS)


@in_either_mode
def test_a_row_of_minus_infinity_has_no_probability_no_entropy_and_no_gradient(library):
    (log_prob, entropy, lse), gradients, prediction = stats_of(library)
    assert (log_prob[1], entropy[1], lse[1], prediction[1]) == (-INF, 0, -INF, 0)
    assert not np.any([gradient[1] for gradient in gradients])


@in_either_mode
def test_infinity_and_nan_show_in_entropy_and_gradient_of_their_row(library):
    (_, entropy, _), gradients, _ = stats_of(library)
    for row in (2, 3):
        assert np.isnan(entropy[row])
        assert all(np.isnan(gradient[row]).any() for gradient in gradients)
    assert np.isfinite(entropy[np.array([0, 4, 5, 6])]).all()


@in_either_mode
def test_a_label_out_of_range_has_no_log_probability_and_keeps_its_entropy(library):
    (log_prob, entropy, lse), (by_log_prob, by_entropy, by_lse), _ = stats_of(library)
    for row in (4, 5):
        assert np.isnan(log_prob[row])
        assert np.isnan(by_log_prob[row]).any()
        for of_row in (entropy, lse, by_entropy, by_lse):
            np.testing.assert_allclose(of_row[row], of_row[0], rtol=1e-6)


@in_either_mode
def test_an_ignored_token_has_log_probability_and_entropy_0_and_a_log_sum_exp(library):
    (log_prob, entropy, lse), (by_log_prob, by_entropy, by_lse), prediction = stats_of(library)
    np.testing.assert_array_equal([log_prob[7:], entropy[7:]], 0)
    np.testing.assert_array_equal([by_log_prob[8], by_entropy[8]], 0)
    np.testing.assert_allclose(lse[8], lse[0], rtol=1e-6)
    np.testing.assert_allclose(by_lse[8], by_lse[0], rtol=1e-6)
    assert prediction[8] == 2


def test_a_class_ruled_out_adds_nothing_and_the_first_of_a_tie_is_predicted():
    (log_prob, entropy, _), gradients, prediction = stats_of(jaxsoftmax)
    p = np.exp([0.5, -INF, 2, 2]) / np.sum(np.exp([0.5, 2.0, 2.0]))
    np.testing.assert_allclose(log_prob[6], np.log(p[0]), rtol=1e-6)
    np.testing.assert_allclose(entropy[6], -np.sum(p[p > 0] * np.log(p[p > 0])), rtol=1e-6)
    assert [gradient[6, 1] for gradient in gradients] == [0, 0, 0]
    assert prediction[6] == 2


@jax.jit
def sparse(x, indices, weights):
    def loss(x, weights):
        return jaxsoftmax.cross_entropy(x, SparseLabels(indices, weights), reduction="none")

    losses, back = jax.vjp(loss, x, weights)
    return losses, *back(jnp.ones_like(losses))


def test_a_sparse_class_of_weight_0_at_minus_infinity_adds_nothing():
    x, indices = np.float32([[0.0, -INF, 1.0]] * 2), np.array([[0, 1], [0, 2]], np.int32)
    losses, by_logits, by_weights = sparse(x, indices, np.float32([[1, 0], [1, 0]]))
    assert np.isfinite(losses).all()
    np.testing.assert_array_equal(losses[0], losses[1])
    np.testing.assert_array_equal(by_logits[0], by_logits[1])
    assert by_weights[0, 1] == 0


def test_a_sparse_class_of_some_weight_at_minus_infinity_costs_infinity():
    losses, *_ = sparse(np.float32([[0.0, -INF, 1.0]]), np.array([[0, 1]], np.int32), np.float32([[1, 0.5]]))
    assert losses[0] == INF


@pytest.mark.parametrize("index", [-1, 3, -100])
def test_an_index_out_of_range_is_nan_for_its_token_alone_whatever_its_weight(index):
    x, indices = np.zeros((2, 3), np.float32), np.array([[0, index], [0, 1]], np.int32)
    losses, by_logits, _ = sparse(x, indices, np.float32([[1, 0], [1, 0]]))
    np.testing.assert_array_equal(np.isnan(losses), [True, False])
    np.testing.assert_array_equal(np.isnan(by_logits).any(-1), [True, False])


PAIRS = {  # student, teacher, and the divergences by kind
    "a class ruled out by both": ([0, -INF, 1], [1, -INF, 0], "finite", "finite", "finite"),
    "a class ruled out by the student": ([0, -INF, 1], [1, 0, 0], INF, "finite", "finite"),
    "a class ruled out by the teacher": ([0, 1, 1], [1, -INF, 0], "finite", INF, "finite"),
    "both of -inf alone": ([-INF] * 3, [-INF] * 3, 0, 0, 0),
    "the student of -inf alone": ([-INF] * 3, [0, 0, 1], NAN, NAN, NAN),
    "the teacher of -inf alone": ([0, 0, 1], [-INF] * 3, NAN, NAN, NAN),
    "+inf": ([0, INF, 1], [1, 0, 0], NAN, NAN, NAN),
    "NaN": ([0, 1, 1], [1, NAN, 0], NAN, NAN, NAN),
}
KINDS = ("forward_kl", "reverse_kl", "jensen_shannon")


@cache
def divergences(library):
    z, u = (np.float32([pair[of] for pair in PAIRS.values()]) for of in (0, 1))

    @jax.jit
    def evaluate(z, u):
        each = partial(library.distillation, reduction="none")
        return {kind: jax.vjp(partial(each, divergence=kind), z, u)[0] for kind in KINDS}

    return evaluate(z, u)


@in_either_mode
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", PAIRS)
def test_divergences_of_infinities_are_those_stated(name, kind, library):
    expected = PAIRS[name][2 + KINDS.index(kind)]
    got = divergences(library)[kind][list(PAIRS).index(name)]
    assert np.isfinite(got) if expected == "finite" else np.array_equal(got, np.float32(expected), equal_nan=True)


@pytest.mark.parametrize("kind", KINDS[:2])
def test_an_infinite_divergence_of_token_weight_0_adds_nothing(kind):
    ((z, u),) = (pair[:2] for pair in PAIRS.values() if pair[2 + KINDS.index(kind)] == INF)
    loss = partial(jaxsoftmax.distillation, divergence=kind, token_weights=np.float32([0.0]), reduction="sum")
    value, gradients = jax.jit(jax.value_and_grad(loss, (0, 1)))(np.float32([z]), np.float32([u]))
    assert value == 0
    np.testing.assert_array_equal(gradients, 0)


def test_an_infinite_divergence_of_token_weight_0_spoils_no_kernel():
    states, biases = np.ones((2, 1), np.float32), {"teacher_bias": np.float32([0, -INF])}
    options = {"divergence": "reverse_kl", "token_weights": np.zeros(2, np.float32), "chunk_size": 1}

    def loss(kernel):
        return jaxsoftmax.linear_distillation(states, kernel, states, np.float32([[0, 1]]), **biases, **options)

    value, gradient = jax.jit(jax.value_and_grad(loss))(np.zeros((1, 2), np.float32))
    assert value == 0
    np.testing.assert_array_equal(gradient, 0)


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_distillation_of_no_tokens_is_nothing(reduction):
    shapes = (0, 4), (4, 3), (0, 2), (2, 3)
    arrays = [np.ones(shape, np.float32) for shape in shapes]
    losses, gradient = jax.jit(jax.value_and_grad(lambda *arrays: jnp.sum(
        jaxsoftmax.linear_distillation(*arrays, reduction=reduction)), 1))(*arrays)  # fmt: skip
    assert losses == 0
    np.testing.assert_array_equal(gradient, 0)


@in_tiers("chunk_size", [None, 1, 2], first=[2])
def test_an_ignored_token_of_nan_has_no_part_in_gradients_of_a_head_s_log_probabilities(chunk_size):
    hidden, kernel, labels = jnp.array([[NAN], [1.0], [2.0]]), jnp.array([[1.0, 2.0, 0.0]]), jnp.array([-100, 1, 2])

    def total(hidden, kernel, labels):
        stats = jaxsoftmax.linear_token_stats(hidden, kernel, labels, ignore_index=-100, chunk_size=chunk_size)
        return jnp.sum(stats.log_prob + stats.entropy)

    program = jax.grad(total, (0, 1))
    by_hidden, by_kernel = program(hidden, kernel, labels)
    of_others = program(hidden[1:], kernel, labels[1:])
    np.testing.assert_array_equal(by_hidden[0], 0)
    np.testing.assert_allclose(by_hidden[1:], of_others[0], rtol=1e-6)
    np.testing.assert_allclose(by_kernel, of_others[1], rtol=1e-6)
