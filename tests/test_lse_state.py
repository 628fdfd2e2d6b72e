"""The state (m, r) of a log-sum-exp: of whole rows, and joined of the states of shards (M18, M22)."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from jaxsoftmax._math.precision import accumulation_dtype
from jaxsoftmax._reduction.row_state import lse_state
from jaxsoftmax._sharding import Shards
from tests.tolerances import DTYPES, ROWS, array, assert_close, exact, exp, precision


def joined_of(shards):
    """The state of rows, from those of their shards on as many devices."""
    mesh = jax.make_mesh((shards,), ("vocab",), axis_types=(AxisType.Auto,))

    def local(x):
        return Shards(("vocab",)).merge_lse(lse_state(x, (x.ndim - 1,)))[0]

    return jax.jit(jax.shard_map(local, mesh=mesh, in_specs=P(None, "vocab"), out_specs=P()))


OF_ROWS = jax.jit(lambda x: lse_state(x, (x.ndim - 1,)))
JOINED_OF_2, JOINED_OF_4 = joined_of(2), joined_of(4)
LONG = 1 << 12
LOWEST = np.finfo(np.float32).min  # the maximum of a row without a finite element

# A batch of rows on a grid of 1/8, where differences are exact; -inf often, to make whole rows of it.
numbers = st.integers(-320, 320).map(lambda n: n / 8) | st.just(-np.inf)
batches = st.lists(st.lists(numbers, min_size=3, max_size=3), min_size=4, max_size=4).map(
    lambda rows: array(rows, "float32")
)
by_hypothesis = settings(max_examples=100, deadline=None, derandomize=True)


def exact_state(x):
    """Of finite rows, or rows of -inf alone: max, and the sum of the exponentials less 1."""
    m = np.max(exact(x), -1, keepdims=True, initial=exact(LOWEST))
    e = exp(exact(x) - m)
    return m, e.sum(-1, keepdims=True) - 1


def assert_is_state_of(got, rows):
    maximum, remainder = exact_state(rows)
    np.testing.assert_array_equal(got.maximum, maximum.astype(np.float32))
    assert_close(got.remainder, remainder, "float32")


@by_hypothesis
@given(batches, batches)
def test_states_of_two_shards_are_joined_to_that_of_the_whole(x, y):  # (M22)
    assert_is_state_of(JOINED_OF_2(np.concatenate([x, y], -1)), np.concatenate([x, y], -1))


@by_hypothesis
@given(batches, batches)
def test_the_order_of_shards_makes_no_difference(x, y):
    joined, turned = (JOINED_OF_2(np.concatenate(pair, -1)) for pair in ((x, y), (y, x)))
    np.testing.assert_array_equal(joined, turned)


@by_hypothesis
@given(batches)
def test_a_shard_of_minus_infinity_adds_nothing(x):
    np.testing.assert_array_equal(JOINED_OF_2(np.concatenate([x, np.full_like(x, -np.inf)], -1)), OF_ROWS(x))


@by_hypothesis
@given(batches, batches, batches, batches)
def test_states_of_four_shards_are_joined_to_that_of_the_whole(w, x, y, z):
    assert_is_state_of(JOINED_OF_4(np.concatenate([w, x, y, z], -1)), np.concatenate([w, x, y, z], -1))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_state_is_the_maximum_and_the_other_exponentials(dtype):
    with precision(dtype):
        maximum, remainder = exact_state(ROWS)
        state = OF_ROWS(array(ROWS, dtype))
        assert_close(state.maximum, maximum, dtype)
        assert_close(state.remainder, remainder, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_state_accumulates_in_at_least_float32(dtype):
    assert accumulation_dtype(dtype) == jnp.promote_types(dtype, jnp.float32)


def test_every_further_maximum_counts_1():
    ties = array([[7.0] * k + [-np.inf] * (5 - k) for k in (1, 2, 3, 5)], "float32")
    np.testing.assert_array_equal(OF_ROWS(ties).remainder[:, 0], [0, 1, 2, 4])


@pytest.mark.parametrize("shape", [(4, 3), (4, 0), (4, 1), (4, LONG)])
def test_no_finite_element_gives_the_empty_state(shape):
    state = OF_ROWS(array(np.full(shape, -np.inf), "float32"))
    assert np.all(state.maximum == LOWEST)
    assert np.all(state.remainder == -1)


def test_state_over_several_axes_is_that_of_the_flattened_row():
    x = np.random.default_rng(0).normal(size=(4, 3, 5)).astype(np.float32)
    several = jax.jit(lse_state, static_argnums=1)(x, (0, 2))
    flat = OF_ROWS(np.moveaxis(x, 1, 0).reshape(3, 20))
    np.testing.assert_array_equal(several.maximum.reshape(3, 1), flat.maximum)
    assert_close(several.remainder.reshape(3, 1), flat.remainder, "float32")


def long_rows(background, width=LONG):
    """Rows of many exponentials that the maximum's would drown; the longest are summed in pieces."""
    rng = np.random.default_rng(0)
    rows = np.round(8 * rng.normal(background, 1, (4, width))) / 8
    rows[1, width // 2] = 0.0  # a lone maximum
    rows[2, 2048:4096] = -np.inf  # a piece, if it is cut
    rows[3, :-1] = background  # as many equal terms
    rows[3, -1] = 0.0
    return rows.astype(np.float32)


@pytest.mark.parametrize("background", [-40.0, -17.0, -13.0, -11.0, 0.0])
@pytest.mark.parametrize("width", [LONG, 16 * LONG, LONG + 1])
def test_long_row_keeps_every_exponential(width, background):
    rows = long_rows(background, width)
    maximum = rows.max(-1, keepdims=True).astype(np.float64)
    remainder = [math.fsum([*np.exp(row), -1]) for row in rows - maximum]
    state = OF_ROWS(rows)
    np.testing.assert_array_equal(state.maximum, maximum)
    # 2^16 and more equal terms round the same way at each of the levels at which they are added: 4 ulps, and 1 a level.
    assert_close(state.remainder[:, 0], np.array(remainder), "float32", tolerance=6)


def test_state_is_the_same_under_vmap_and_without_jit():
    x = array(ROWS, "float32")
    for state in (jax.jit(jax.vmap(OF_ROWS))(x), lse_state(jnp.asarray(x), (1,))):
        np.testing.assert_array_equal(state.maximum.reshape(-1), OF_ROWS(x).maximum[:, 0])
        assert_close(state.remainder.reshape(-1), OF_ROWS(x).remainder[:, 0], "float32")


def test_state_with_a_nan_is_nan():
    state = OF_ROWS(array([[0.0, np.nan, -np.inf], [np.nan] * 3], "float32"))
    assert np.isnan(state.maximum).all()
    assert np.isnan(state.remainder).all()
