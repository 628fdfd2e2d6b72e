"""Confident rows, down to tails of 1e-30, and pairs that nearly agree, by a judge of 380 digits."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsoftmax import SparseLabels, cross_entropy, distillation, token_stats
from jaxsoftmax._math import divergence as divergences
from jaxsoftmax._math import log_ratio, row_stats, sparse_loss
from tests.tiers import in_tiers
from tests.tolerances import (
    CONFIDENT_ROWS,
    MP,
    ROWS,
    array,
    assert_close,
    exact,
    exp,
    in_every_dtype,
    log,
    loss_dtype,
    precision,
)

GAPS = [[gap, 0.0, -1.0, 0.5, -2.0] for gap in (20.0, 30.0, 40.0, 50.0, 60.0, 70.0)]
LOGITS = np.array([*GAPS, *CONFIDENT_ROWS[:3], *ROWS[:8]])  # finite
WIDTH = LOGITS.shape[1]
X, LABELS = np.repeat(LOGITS, WIDTH, 0), np.tile(np.arange(WIDTH, dtype=np.int32), len(LOGITS))


def exact_rows(x):
    """Probabilities, their logs, and 1 - s from the sum of the others."""
    e = exp(exact(x))
    total = e.sum(-1, keepdims=True)
    return e / total, exact(x) - log(total), (total - e) / total


@jax.jit
def stats_and_gradients(x):
    (log_prob, entropy), back = jax.vjp(lambda x: token_stats(x, LABELS)[:2], x)
    ones, zeros = jnp.ones_like(log_prob), jnp.zeros_like(log_prob)
    return log_prob, entropy, *back((ones, zeros)), *back((zeros, ones))


@cache
def stats_of(dtype):
    with precision(dtype):
        return stats_and_gradients(array(X, dtype))


@in_every_dtype
def test_log_probability_and_its_gradient_keep_their_tails(dtype):  # (M19, M20)
    log_prob, _, by_logits, _ = stats_of(dtype)
    s, log_s, others = exact_rows(array(X, dtype))
    at_label = LABELS[:, None] == np.arange(WIDTH)
    assert_close(log_prob, log_s[at_label], loss_dtype(dtype))
    assert_close(by_logits, np.where(at_label, others, -s), dtype)


@in_every_dtype
def test_entropy_and_its_gradient_keep_their_tails(dtype):  # (M28)
    _, entropy, _, by_logits = stats_of(dtype)
    s, log_s, _ = exact_rows(array(X, dtype))
    h = -np.sum(s * log_s, -1, keepdims=True)
    margins = np.max(log_s, -1, keepdims=True) - log_s
    size = s * (margins + np.sum(s * margins, -1, keepdims=True))
    assert_close(entropy, h[:, 0], loss_dtype(dtype))
    assert_close(by_logits, -s * (log_s + h), dtype, size=size)


INDICES = np.array([[0, 1], [1, 2], [3, 4], [2, 2], [0, 0]], np.int32)
WEIGHTS = np.array([[0.75, 0.25], [0.5, 0.5], [1.0, 0.5], [0.25, 0.5], [1.0, 0.0]])
PAIRS = np.tile(INDICES, (len(LOGITS), 1)), np.tile(WEIGHTS, (len(LOGITS), 1))


@jax.jit
def sparse_and_gradients(x, weights):
    loss, back = jax.vjp(lambda x, w: cross_entropy(x, SparseLabels(PAIRS[0], w), reduction="none"), x, weights)
    return loss, *back(jnp.ones_like(loss))


@in_every_dtype
def test_losses_of_sparse_labels_keep_their_tails(dtype):  # (M31)
    wide = loss_dtype(dtype)
    with precision(dtype):
        loss, by_logits, by_weights = sparse_and_gradients(array(X, dtype), array(PAIRS[1], wide))
    s, log_s, others = exact_rows(array(X, dtype))
    target = exact(np.sum(PAIRS[1][..., None] * (PAIRS[0][..., None] == np.arange(WIDTH)), 1))
    nll = -np.take_along_axis(log_s, PAIRS[0], -1)
    rest = target.sum(-1, keepdims=True) - target
    assert_close(loss, np.sum(exact(PAIRS[1]) * nll, -1), wide)
    assert_close(by_logits, s * rest - target * others, dtype, size=s * rest + target * others)
    assert_close(by_weights, nll, wide)


TEACHERS = np.roll(LOGITS[:12], 1, 0) + np.array([0, 0.25, -0.125, 0.5, 1])
STUDENTS = np.concatenate([LOGITS[:12], LOGITS[:12][:, ::-1]])
TEACHERS = np.concatenate([TEACHERS, TEACHERS])
KINDS = ("forward_kl", "reverse_kl", "jensen_shannon")
BETA = 0.25


@partial(jax.jit, static_argnames=("temperature",))
def pairs_and_gradients(z, u, temperature=1.0):
    """By divergence: the values, and the gradients in the student's and the teacher's logits."""
    return {kind: _pair(partial(distillation, divergence=kind, beta=BETA), z, u, temperature) for kind in KINDS}


def _pair(function, z, u, temperature):
    values, back = jax.vjp(partial(function, reduction="none", temperature=temperature), z, u)
    return values, *back(jnp.ones_like(values))


def exact_pair(kind, z, u, temperature=1):
    """The divergence, the gradients in student and teacher, and the sizes of the terms of each.

    The log-ratios are those of the logits less a shift, whose rounding shows as far as the rows differ.
    """
    q, log_q, _ = exact_rows(exact(z) / temperature)
    p, log_p, _ = exact_rows(exact(u) / temperature)
    shift = np.sum(abs(p - q), -1, keepdims=True) * abs(exact(u) / temperature - log_p - exact(z) / temperature + log_q)
    log_m = log(BETA * p + (1 - BETA) * q)
    of_p, from_p = {"forward_kl": (1, log_q), "reverse_kl": (0, log_p), "jensen_shannon": (BETA, log_m)}[kind]
    of_q, from_q = {"forward_kl": (0, log_q), "reverse_kl": (1, log_p), "jensen_shannon": (1 - BETA, log_m)}[kind]
    terms = of_p * p * (log_p - from_p) + of_q * q * (log_q - from_q)
    value = np.sum(terms, -1), np.sum(terms + (of_p * p + of_q * q) * shift, -1)
    by_student, by_teacher = _deviation(of_q, q, log_q - from_q, shift), _deviation(of_p, p, log_p - from_p, shift)
    apart = q - p, np.minimum(p + q, np.sum(p + q, -1, keepdims=True) - p - q) + np.minimum(p, q) * shift
    by_student = apart if kind == "forward_kl" else by_student
    by_teacher = (-apart[0], apart[1]) if kind == "reverse_kl" else by_teacher
    return value, *((each / temperature, size / temperature) for each, size in (by_student, by_teacher))


def _deviation(factor, s, v, shift):
    """s (v - <s, v>), a sum of s_j s_i (v_j - v_i), and the size of its terms."""
    differences, sizes = v[..., :, None] - v[..., None, :], abs(v)[..., :, None] + abs(v)[..., None, :]
    sizes = np.where(np.eye(v.shape[-1], dtype=bool), 0, sizes + shift[..., None])
    return tuple(factor * s * np.sum(s[..., None, :] * each, -1) for each in (differences, sizes))


@cache
def confident_pairs(dtype):
    with precision(dtype):
        return pairs_and_gradients(array(STUDENTS, dtype), array(TEACHERS, dtype))


@pytest.mark.parametrize("kind", KINDS)
@in_every_dtype
def test_divergences_of_confident_rows_keep_their_tails(dtype, kind):  # (M29, M30)
    got = confident_pairs(dtype)[kind]
    expected = exact_pair(kind, array(STUDENTS, dtype), array(TEACHERS, dtype))
    # XLA's log1p of float64 is off by 95 ulps at -0.41.
    tolerance = 100 if dtype == "float64" else None
    for of_each, (right, size), out in zip(got, expected, (loss_dtype(dtype), dtype, dtype), strict=True):
        assert_close(of_each, right, out, tolerance, size=size)


FAR = [[3.0, 0.25, 0.0], [0.125, 3.0, 0.0]]


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_what_rows_have_in_common_enters_no_divergence(kind):  # (M29)
    z, u = (np.float32([row]) for row in FAR)
    expected, moved = (pairs_and_gradients(z + offset, u + offset)[kind] for offset in np.float32([0, 1000]))
    for one, other in zip(moved, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6)


def nearly_equal(offset, between):
    """Rows that differ by about 5e-5, of which both lie at an offset, or the teacher's alone."""
    rng = np.random.default_rng(0)
    z = 2 * rng.standard_normal((4, 40)) + offset
    u = z + 5e-5 * rng.standard_normal(z.shape) + between
    return np.float32(z), np.float32(u)


NEAR = {"as they are": (0, 0), "both at 1000": (1000, 0), "1000 apart": (0, 1000)}


def relative_errors(kind, rows, temperature):
    z, u = nearly_equal(*NEAR[rows])
    values, *gradients = pairs_and_gradients(z, u, temperature)[kind]
    (expected, _), *exact_gradients = exact_pair(kind, z, u, MP.mpf(temperature))
    assert np.max(expected) < 1e-7
    errors = [float(np.max(abs(exact(values) - expected) / expected))]
    for got, (right, _) in zip(gradients, exact_gradients, strict=True):
        right = right.astype(np.float64)
        errors.append(np.linalg.norm(np.float64(got) - right) / np.linalg.norm(right))
    return errors


@pytest.mark.parametrize("kind", KINDS)
@in_tiers("temperature", [1.0, 2.5], first=[2.5])
@pytest.mark.parametrize("rows", NEAR)
def test_a_divergence_of_about_1e_9_is_right_to_1e_5_of_itself(rows, temperature, kind):  # (M29, M30, M32)
    assert max(relative_errors(kind, rows, temperature)) < 1e-5


def plain_sum(x):
    return x + jnp.expm1(-x)


def of_states_alone(approximate, total, others, states, _true=log_ratio.shift):
    return _true(approximate, total, others, states)._replace(rest=jnp.zeros_like(total))


CANCELLING = {
    "x + expm1(-x)": (divergences, "phi", plain_sum),
    "the difference of log-sum-exps": (log_ratio, "shift", of_states_alone),
}


@in_tiers("name", CANCELLING, first=["x + expm1(-x)"])
def test_a_divergence_that_cancels_is_caught(name, monkeypatch):
    monkeypatch.setattr(*CANCELLING[name])
    jax.clear_caches()
    assert max(relative_errors("forward_kl", "as they are", 1.0)) > 1e-5
    monkeypatch.undo()
    jax.clear_caches()


def nowhere(*arguments):
    return jnp.zeros(jnp.broadcast_shapes(*(jnp.shape(each) for each in arguments[:1])), bool)


LOST = {
    "1 - s at a label": (row_stats, "is_dominant_probability", lambda label_prob, _: nowhere(label_prob)),
    "s - 1 at a sparse label": (sparse_loss, "dominates", lambda _, margins: nowhere(margins)),
}


@in_tiers("name", LOST, first=["1 - s at a label"])
def test_a_lost_tail_is_caught(name, monkeypatch):
    monkeypatch.setattr(*LOST[name])
    jax.clear_caches()
    stats_of.cache_clear()
    test = {"1 - s at a label": test_log_probability_and_its_gradient_keep_their_tails}
    with pytest.raises(AssertionError, match="ulps"):
        test.get(name, test_losses_of_sparse_labels_keep_their_tails)("float32")
    monkeypatch.undo()
    jax.clear_caches()
    stats_of.cache_clear()
