"""Token statistics, sparse labels and distillation of infinities, NaN and labels out of range; and bad input."""

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
def divergences(library, weight=1.0):
    z, u = (np.float32([pair[of] for pair in PAIRS.values()]) for of in (0, 1))
    weights = np.full(len(z), np.float32(weight))

    @jax.jit
    def evaluate(z, u):
        each = partial(library.distillation, token_weights=weights, reduction="none")
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
    infinite = [values[2:][KINDS.index(kind)] == INF for values in PAIRS.values()]
    assert not np.any(divergences(jaxsoftmax, 0.0)[kind][np.array(infinite)])


X, Y, H, W = (
    np.zeros((4, 3), np.float32),
    np.zeros(4, np.int32),
    np.zeros((4, 2), np.float32),
    np.zeros((2, 3), np.float32),
)
PAIR = SparseLabels(np.zeros((4, 2), np.int32), np.ones((4, 2), np.float32))
CE, HEAD, STATS, HEAD_STATS = "cross_entropy", "linear_cross_entropy", "token_stats", "linear_token_stats"
ROWS_OF, HEADS_OF, NEITHER = "distillation", "linear_distillation", np.zeros((4, 4), np.float32)
BAD = {
    "k of weights": (
        CE,
        (X, PAIR._replace(weights=np.ones((4, 3)))),
        {},
        ValueError,
        r"labels\.weights: .*\(4, 2\).*\(4, 3\)",
    ),
    "batch of indices": (
        HEAD,
        (H, W, PAIR._replace(indices=Y[:3, None])),
        {},
        ValueError,
        r"labels\.indices: .*\(4,\)",
    ),
    "float indices": (
        CE,
        (X, PAIR._replace(indices=np.ones((4, 2)))),
        {},
        TypeError,
        r"labels\.indices: expected an int",
    ),
    "float indices of a head": (
        HEAD,
        (H, W, PAIR._replace(indices=H)),
        {},
        TypeError,
        r"labels\.indices: expected an int",
    ),
    "ignore_index": (CE, (X, PAIR), {"ignore_index": 0}, ValueError, "ignore_index: expected None with SparseLabels"),
    "ignore_index of a head": (HEAD, (H, W, PAIR), {"ignore_index": 0}, ValueError, "ignore_index: expected None with"),
    "sparse labels of statistics": (STATS, (X, PAIR), {}, (TypeError, ValueError), "labels: expected"),
    "has_aux": (CE, (X, Y), {"has_aux": "yes"}, TypeError, "has_aux: expected"),
    "float labels of statistics": (STATS, (X, X), {}, TypeError, "labels: expected an integer dtype, got float32"),
    "labels of another batch": (HEAD_STATS, (H, W, Y[:3]), {}, ValueError, r"labels: expected shape \(4,\)"),
    "beta 0": (ROWS_OF, (X, X), {"beta": 0.0}, ValueError, r"beta: expected a number in \(0, 1\), got 0\.0"),
    "beta 1": (HEADS_OF, (H, W, H, W), {"beta": 1}, ValueError, r"beta: expected a number in \(0, 1\), got 1"),
    "beta text": (ROWS_OF, (X, X), {"beta": "x"}, TypeError, "beta: expected a number"),
    "unknown divergence": (ROWS_OF, (X, X), {"divergence": "kl"}, ValueError, "divergence: expected one of .*got 'kl'"),
    "no divergence": (HEADS_OF, (H, W, H, W), {"divergence": None}, ValueError, "divergence: expected one of .*None"),
    "teacher's classes": (ROWS_OF, (X, NEITHER), {}, ValueError, r"teacher_logits: expected shape \(4, 3\).*\(4, 4\)"),
    "teacher's vocabulary": (
        HEADS_OF,
        (H, W, H, W[:, :2]),
        {},
        ValueError,
        r"teacher_kernel: .*vocab = 3, got \(2, 2\)",
    ),
    "teacher's batch": (HEADS_OF, (H, W, H[:3], W), {}, ValueError, r"teacher_hidden: .*batch \(4,\), got \(3, 2\)"),
    "teacher's embed": (HEADS_OF, (H, W, X, W), {}, ValueError, r"teacher_kernel: .*embed = 3, got \(2, 3\)"),
    "integer teacher": (
        ROWS_OF,
        (X, PAIR.indices),
        {},
        TypeError,
        "teacher_logits: expected a floating dtype, got int32",
    ),
    "reduction": (ROWS_OF, (X, X), {"reduction": "avg"}, ValueError, "reduction: expected one of .*got 'avg'"),
    "weights of distillation": (
        ROWS_OF,
        (X, X),
        {"token_weights": Y[:3]},
        ValueError,
        r"token_weights: .*\(4,\).*\(3,\)",
    ),
    "dtype int": (HEAD, (H, W, Y), {"dtype": int}, TypeError, "dtype: expected a floating dtype or None, got int"),
    "dtype unknown": (HEAD_STATS, (H, W, Y), {"dtype": "f33"}, TypeError, "dtype: expected a floating dtype or None"),
    "precision": (HEAD, (H, W, Y), {"precision": "best"}, ValueError, "precision: expected .*got 'best'"),
    "precision number": (HEAD_STATS, (H, W, Y), {"precision": 3}, TypeError, "precision: expected .*got 3"),
    "kernel to be transposed": (
        HEAD,
        (H, W, Y),
        {"transposed_kernel": True},
        ValueError,
        r"kernel: .*\[vocab, embed\]",
    ),
    "transposed_kernel": (HEAD, (H, W, Y), {"transposed_kernel": "yes"}, TypeError, "transposed_kernel: expected"),
}
TEMPERATURES = {STATS: (X, Y), HEAD_STATS: (H, W, Y), ROWS_OF: (X, X), HEADS_OF: (H, W, H, W)}
for name, given in TEMPERATURES.items():
    for value, error in ((-1.0, ValueError), (0, ValueError), (NAN, ValueError), ("1", TypeError), (None, TypeError)):
        message = "temperature: expected a number > 0"
        BAD[f"temperature {value} of {name}"] = (name, given, {"temperature": value}, error, message)


@in_either_mode
@pytest.mark.parametrize(("function", "arguments", "keywords", "error", "message"), BAD.values(), ids=BAD)
def test_bad_input_names_the_argument_what_it_expected_and_what_came(
    library, function, arguments, keywords, error, message
):
    with pytest.raises(error, match=message):
        getattr(library, function)(*arguments, **keywords)


@pytest.mark.parametrize("function", ["softmax_cross_entropy", "distillation", "token_stats"])
def test_sparse_labels_are_no_array(function):
    with pytest.raises(TypeError, match="expected an array, got SparseLabels"):
        getattr(jaxsoftmax, function)(X, SparseLabels(jnp.array([0, 1]), jnp.array([0.5, 0.5])))


@pytest.mark.parametrize("function", TEMPERATURES)
def test_a_traced_temperature_that_is_no_scalar_names_itself(function):
    call = partial(getattr(jaxsoftmax, function), *TEMPERATURES[function])
    with pytest.raises(ValueError, match=r"temperature: expected shape \(\) \(.*or a traced scalar\), got \(2,\)"):
        jax.eval_shape(lambda value: call(temperature=value), jnp.ones(2))


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
