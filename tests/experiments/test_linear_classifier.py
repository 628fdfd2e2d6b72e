"""The documents' loops, their vectorised form and the library are the same classifier."""

import numpy as np
import pytest

from experiments.data.digits import standardised_digits
from experiments.linear_classifier.claim import IMPLEMENTATIONS, TOLERANCE_ULPS, Agreement, compare
from experiments.linear_classifier.cs231n_loops import csdn_native, csdn_vectorized, guangcity_naive


@pytest.fixture(scope="module")
def digits():
    return standardised_digits(seed=0)


@pytest.fixture(scope="module")
def batch(digits):
    W = np.random.default_rng(0).normal(scale=0.1, size=(64, 10))
    return W, digits.train_x[:40], digits.train_y[:40]


def assert_same(first, second):
    np.testing.assert_allclose(first[0], second[0], rtol=1e-13)
    np.testing.assert_allclose(first[1], second[1], rtol=0, atol=1e-13 * np.abs(second[1]).max())


def test_loop_equals_vectorised(batch):
    assert_same(csdn_native(*batch, 0.3), csdn_vectorized(*batch, 0.3))


def test_sum_regulariser_is_half_regulariser_of_twice_lambda(batch):
    assert_same(guangcity_naive(*batch, 0.3), csdn_vectorized(*batch, 0.6))


def test_loop_gradient_is_the_slope_of_its_loss(batch):
    W, X, y = batch
    direction = np.random.default_rng(1).normal(size=W.shape)
    step = 1e-5
    ahead, behind = (guangcity_naive(W + sign * step * direction, X, y, 0.3)[0] for sign in (1.0, -1.0))
    slope = np.sum(guangcity_naive(W, X, y, 0.3)[1] * direction)
    np.testing.assert_allclose((ahead - behind) / (2 * step), slope, rtol=1e-8)


@pytest.mark.slow
def test_every_implementation_agrees_with_the_library(digits):
    agreements = compare(digits, seed=1, samples=20)
    assert len(agreements) == sum(map(len, IMPLEMENTATIONS.values()))
    assert all(entry.holds for entry in agreements)


@pytest.mark.parametrize("ulps", [(np.nan, 0.0), (0.0, np.nan), (0.0, 2 * TOLERANCE_ULPS)])
def test_implementation_that_is_off_or_not_a_number_is_noticed(ulps):
    assert Agreement("λΣW²", "right", 1.0, 0.0, 0.0).holds
    assert not Agreement("λΣW²", "wrong", 1.0, *ulps).holds


def test_split_is_stratified_and_standardised_by_the_training_set(digits):
    assert (len(digits.train_y), len(digits.test_y)) == (1347, 450)
    everyone = np.bincount(np.concatenate([digits.train_y, digits.test_y]))
    np.testing.assert_allclose(np.bincount(digits.test_y), everyone / 4, atol=1.0)
    np.testing.assert_allclose(digits.train_x.mean(axis=0), 0.0, atol=1e-12)
