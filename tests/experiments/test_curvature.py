"""The curvature experiment's parts hold on a small network, and each notices a wrong curvature."""

import functools
from dataclasses import replace

import jax
import numpy as np
import pytest

from experiments.curvature.agreement import agreement, split, unit_directions
from experiments.curvature.confident_rows import (
    LIBRARY,
    OPTAX,
    OPTAX_PRODUCT,
    PEER_HESSIANS,
    PRODUCT_TOLERANCE,
    PRODUCTS,
    ROW_HESSIANS,
    ConfidentRows,
    product_errors,
    row_errors,
    with_exact_differences,
)
from experiments.curvature.findings import _confident
from experiments.curvature.products import (
    HESSIAN_PRODUCTS,
    forward_over_reverse,
    gauss_newton,
    hessian_matrix,
    model_of,
)
from experiments.data.digits import standardised_digits
from experiments.judges.label_gaps import label_gaps
from experiments.models.digits_mlp import Mlp, logits_of
from experiments.runner.experiment import MeasurementError

ROWS, PIXELS, HIDDEN = 12, 5, 3
RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(ROWS, PIXELS)), RNG.integers(10, size=ROWS)
MLP = Mlp(RNG.normal(size=(PIXELS, HIDDEN)) / 2, np.zeros(HIDDEN), RNG.normal(size=(HIDDEN, 10)) / 2, np.zeros(10))
SURE = np.concatenate([np.linspace(18.0, 40.0, ROWS)[:, None], -RNG.integers(0, 17, (ROWS, 9)) / 16.0], axis=1)


@pytest.fixture(autouse=True)
def _in_float64():
    with jax.enable_x64(True):
        yield


def network(rows=ROWS, labels=Y):
    return model_of(logits_of, MLP, X[:rows], labels[:rows], "float64")


def linear_network():
    return model_of(linear_logits, RNG.normal(size=(PIXELS, 10)), X, Y, "float64")


def linear_logits(kernel, x):
    return x @ kernel


def as_they_are(logits, x):
    return logits


def with_another_label(model, v):
    return forward_over_reverse(replace(model, labels=(model.labels + 1) % 10), v)


@functools.cache
def matrix_by(product):
    """A matrix of the network, compiled: it takes hundreds of operations."""
    return jax.jit(product)(network())


def agreement_of(products, scale=1.0):
    model = network()
    return agreement(products, model, scale * matrix_by(hessian_matrix), unit_directions(model.point.size, 2, 0))


@functools.cache
def agreements():
    """That of each product alone, from one program."""
    found = agreement_of({each.__name__: each for each in (forward_over_reverse, gauss_newton, with_another_label)})
    return {name: replace(found, ulps={name: ulps}) for name, ulps in found.ulps.items()}


@pytest.mark.slow
def test_every_product_is_that_of_the_whole_hessian_and_of_differences():
    assert agreement_of(HESSIAN_PRODUCTS).holds


@pytest.mark.slow
@pytest.mark.parametrize("wrong", [gauss_newton, with_another_label])
def test_product_of_another_matrix_is_noticed(wrong):
    assert agreements()["forward_over_reverse"].holds
    assert not agreements()[wrong.__name__].holds


@pytest.mark.slow
def test_differences_notice_a_hessian_that_every_product_shares():
    assert agreement_of({}, scale=1.001).difference > 1e-4


@pytest.mark.slow
def test_gauss_newton_is_the_hessian_of_a_linear_network_alone():
    right = split(forward_over_reverse, linear_network(), network(), 0)
    wrong = split(forward_over_reverse, network(), linear_network(), 0)
    assert right.holds
    assert not replace(right, linear_ulps=wrong.linear_ulps).holds
    assert not replace(right, rest=wrong.rest).holds


@functools.cache
def errors_of_sure_rows(dtype):
    return row_errors(ROW_HESSIANS | PEER_HESSIANS, SURE.astype(dtype), np.zeros(ROWS, int))


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_matrices_of_confident_rows_are_accurate_and_lost_ones_are_noticed(dtype):
    assert [each.method for each in errors_of_sure_rows(dtype) if not each.holds] == [OPTAX]


@pytest.mark.slow
def test_rows_without_curvature_along_their_label_are_counted():
    rows = ConfidentRows(label_gaps(SURE, np.zeros(ROWS, int)), ROWS, errors_of_sure_rows("float32"))
    assert rows.confident == ROWS
    assert rows.zeros_of(LIBRARY, "float32") == 0
    assert rows.zeros_of(OPTAX, "float32") >= ROWS - 2  # nine others may add up to an ulp just above 17


@pytest.mark.slow
def test_products_over_confident_rows_are_accurate_and_lost_ones_are_noticed():
    models = (model_of(as_they_are, SURE, X, np.zeros(ROWS, int), dtype) for dtype in ("float32", "float64"))
    v = np.zeros_like(SURE, np.float32)
    v[:, 0] = 1.0
    errors = product_errors(PRODUCTS, *models, v.ravel())
    assert errors.pop(OPTAX_PRODUCT) > 0.1
    assert max(errors.values()) <= PRODUCT_TOLERANCE


def test_rounded_logits_have_exact_differences():
    logits = with_exact_differences(RNG.normal(size=(50, 2)).astype(np.float32) * 20)
    assert logits.dtype == np.float32
    difference = logits[:, 0].astype(np.float64) - logits[:, 1]
    np.testing.assert_array_equal(difference, logits[:, 0] - logits[:, 1])


def test_gap_is_negative_where_the_label_is_not_the_largest():
    gaps = label_gaps(np.array([[3.0, 1.0, 0.0], [3.0, 1.0, 0.0]]), np.array([0, 1]))
    assert gaps.tolist() == [2.0, -2.0]


def test_network_without_a_confident_digit_cannot_be_judged():
    digits = standardised_digits(0)
    digits = digits._replace(train_x=digits.train_x.astype(np.float32))
    untrained = Mlp(np.eye(64, 4, dtype=np.float32), np.zeros(4), np.eye(4, 10, dtype=np.float32), np.zeros(10))
    with pytest.raises(MeasurementError, match="no digit is 17 nats ahead"):
        _confident(untrained, digits, 8, np.zeros(1))
