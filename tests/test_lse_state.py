"""The state (m, r) of a log-sum-exp: a commutative monoid, whose merge makes pieces whole (M18, M22)."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxsoftmax import _lse_state
from jaxsoftmax._lse_state import LseState
from tests.tolerances import DTYPES, ROWS, array, assert_close, exact, exp, precision, ulps

OF_ROWS = jax.jit(lambda x: _lse_state.of_array(x, (x.ndim - 1,)))
MERGE = jax.jit(_lse_state.merge)
EMPTY = LseState(np.full((4, 1), -np.inf, np.float32), np.full((4, 1), -1, np.float32))
LONG = _lse_state.LONG_ROW

# A batch of rows on a grid of 1/8, where differences are exact; -inf often, to make whole rows of it.
numbers = st.integers(-320, 320).map(lambda n: n / 8) | st.just(-np.inf)
batches = st.lists(st.lists(numbers, min_size=3, max_size=3), min_size=4, max_size=4).map(
    lambda rows: array(rows, "float32")
)
by_hypothesis = settings(max_examples=100, deadline=None, derandomize=True)


def exact_state(x):
    """Of finite rows, or rows of -inf alone: max, and the sum of the exponentials less 1."""
    m = np.max(exact(x), -1, keepdims=True)
    e = exp(exact(x) - np.where(np.isneginf(m.astype(float)), 0, m))
    return m, e.sum(-1, keepdims=True) - 1


def assert_same(got, expected):
    """Equal maxima, and remainders within 8 ulps: each side rounds twice in each of its two merges."""
    np.testing.assert_array_equal(got.maximum, expected.maximum)
    assert ulps(got.remainder, exact(expected.remainder), "float32") <= 8


@by_hypothesis
@given(batches, batches, batches)
def test_merge_is_associative(x, y, z):
    a, b, c = OF_ROWS(x), OF_ROWS(y), OF_ROWS(z)
    assert_same(MERGE(MERGE(a, b), c), MERGE(a, MERGE(b, c)))


@by_hypothesis
@given(batches, batches)
def test_merge_is_commutative(x, y):
    a, b = OF_ROWS(x), OF_ROWS(y)
    assert_same(MERGE(a, b), MERGE(b, a))


@by_hypothesis
@given(batches)
def test_empty_state_is_the_identity_of_merge(x):
    state = OF_ROWS(x)
    for merged in (MERGE(state, EMPTY), MERGE(EMPTY, state)):
        np.testing.assert_array_equal(merged, state)


@by_hypothesis
@given(batches, batches)
def test_merge_of_two_pieces_is_the_state_of_the_whole(x, y):
    maximum, remainder = exact_state(np.concatenate([x, y], -1))
    merged = MERGE(OF_ROWS(x), OF_ROWS(y))
    np.testing.assert_array_equal(merged.maximum, maximum.astype(np.float32))
    assert_close(merged.remainder, remainder, "float32")


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_state_is_the_maximum_and_the_other_exponentials(dtype):
    with precision(dtype):
        maximum, remainder = exact_state(ROWS)
        state = OF_ROWS(array(ROWS, dtype))
        assert_close(state.maximum, maximum, dtype)
        assert_close(state.remainder, remainder, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_state_accumulates_in_at_least_float32(dtype):
    assert _lse_state.accumulation_dtype(dtype) == jnp.promote_types(dtype, jnp.float32)


def test_every_further_maximum_counts_1():
    ties = array([[7.0] * k + [-np.inf] * (5 - k) for k in (1, 2, 3, 5)], "float32")
    np.testing.assert_array_equal(OF_ROWS(ties).remainder[:, 0], [0, 1, 2, 4])


def test_tied_pieces_merge_to_one_more_maximum():
    ones = OF_ROWS(array([[7.0, -np.inf, -np.inf]] * 4, "float32"))
    np.testing.assert_array_equal(MERGE(ones, ones).remainder, 1)


@pytest.mark.parametrize("shape", [(4, 3), (4, 0), (4, LONG)])
def test_no_finite_element_gives_the_empty_state(shape):
    np.testing.assert_array_equal(OF_ROWS(array(np.full(shape, -np.inf), "float32")), EMPTY)


def test_state_over_several_axes_is_that_of_the_flattened_row():
    x = np.random.default_rng(0).normal(size=(4, 3, 5)).astype(np.float32)
    several = jax.jit(_lse_state.of_array, static_argnums=1)(x, (0, 2))
    flat = OF_ROWS(np.moveaxis(x, 1, 0).reshape(3, 20))
    assert_same(LseState(*(s.reshape(3, 1) for s in several)), flat)


def long_rows(background, width=LONG):
    """The cases of a row that is summed in pieces."""
    rng = np.random.default_rng(0)
    rows = np.round(8 * rng.normal(background, 1, (4, width))) / 8
    rows[1, width // 2] = 0.0  # a lone maximum
    rows[2, _lse_state.PIECE : 2 * _lse_state.PIECE] = -np.inf  # a piece of -inf
    rows[3, :-1] = background  # as many equal terms
    rows[3, -1] = 0.0
    return rows.astype(np.float32)


@pytest.mark.parametrize("background", [-40.0, -17.0, -13.0, -11.0, 0.0])
@pytest.mark.parametrize("width", [LONG, 4 * LONG, LONG + 1])
def test_long_row_keeps_every_exponential(width, background):
    rows = long_rows(background, width)
    maximum = rows.max(-1, keepdims=True).astype(np.float64)
    remainder = [math.fsum([*np.exp(row), -1]) for row in rows - maximum]
    state = OF_ROWS(rows)
    np.testing.assert_array_equal(state.maximum, maximum)
    # 2^16 and more equal terms round the same way at each of the levels at which they are added: 4 ulps, and 1 a level.
    assert_close(state.remainder[:, 0], np.array(remainder), "float32", tolerance=6)


def test_state_and_merge_are_the_same_under_vmap():
    x, y = (array(rows, "float32") for rows in (ROWS, ROWS[::-1]))
    by_row = jax.jit(jax.vmap(lambda x, y: _lse_state.merge(OF_ROWS(x), OF_ROWS(y))))(x, y)
    np.testing.assert_array_equal(by_row, MERGE(OF_ROWS(x), OF_ROWS(y)))


def test_state_and_merge_are_the_same_without_jit():
    x, y = (array(rows, "float32") for rows in (ROWS, ROWS[::-1]))
    eager = _lse_state.merge(_lse_state.of_array(jnp.asarray(x), (1,)), _lse_state.of_array(jnp.asarray(y), (1,)))
    assert_same(eager, MERGE(OF_ROWS(x), OF_ROWS(y)))


def test_folding_pieces_of_one_element_gives_the_state_of_the_row():
    rows = array(ROWS, "float32")
    state = LseState(np.full((len(ROWS), 1), -np.inf, np.float32), np.full((len(ROWS), 1), -1, np.float32))
    for j in range(rows.shape[1]):
        state = MERGE(state, OF_ROWS(rows[:, j : j + 1]))
    assert_same(state, OF_ROWS(rows))


def test_state_with_a_nan_is_nan():
    state = OF_ROWS(array([[0.0, np.nan, -np.inf], [np.nan] * 3], "float32"))
    assert np.isnan(state.maximum).all()
    assert np.isnan(state.remainder).all()
