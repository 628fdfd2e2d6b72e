"""The stability experiment's inputs are exact and its judge is right."""

import mpmath
import numpy as np
import pytest

from experiments.judges.fifty_digits import fifty_digits, loss_and_label_gradient, relative_error
from experiments.stability.claim import Sweep, gap_logits, scale_logits

LAGS = np.array([[0.0, 0.5, 1.0]])
STEPS = np.array([1.0, 2.0, 4.0])


def sweep_with(loss):
    return Sweep("gap", "float32", "optax", STEPS, np.array(loss)[:, None], STEPS[:, None], STEPS[:, None], {})


def test_fifty_digit_loss_and_gradient_of_a_confident_row():
    with fifty_digits():
        loss, gradient = loss_and_label_gradient(np.array([0.0, -20.0]), 0)
    assert float(loss) == pytest.approx(2.06115362031e-9, rel=1e-11, abs=0)
    assert float(gradient) == pytest.approx(-2.06115361819e-9, rel=1e-11, abs=0)


def test_label_leads_by_the_gap_and_the_others_lag():
    assert gap_logits(STEPS, LAGS)[1, 0].tolist() == [2.0, 0.0, -0.5, -1.0]


def test_scale_moves_every_logit_and_keeps_the_gap():
    row = scale_logits(np.array([1000.0]), LAGS)[0, 0]
    assert row.tolist() == [1000.0, 990.0, 989.5, 989.0]


def test_relative_error_of_nan_is_infinite():
    assert relative_error(np.nan, mpmath.mpf(1)) == np.inf


def test_onset_is_where_the_condition_begins_to_hold_for_good():
    sweep = sweep_with([0.0, 1.0, 0.0])
    assert sweep.onset(sweep.loss == 0.0) == 4.0


def test_onset_is_none_where_the_condition_fails_at_the_end():
    sweep = sweep_with([0.0, 0.0, 1.0])
    assert sweep.onset(sweep.loss == 0.0) is None
