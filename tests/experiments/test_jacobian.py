"""The Jacobian experiment's measures tell the right matrix from wrong ones."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxsoftmax
from experiments.jacobian.claim import compare, draw_logits, structure_of
from experiments.judges.fifty_digits import fifty_digits, softmax_jacobian

closed_form = jax.jit(jaxsoftmax.analytic.softmax_jacobian)


@pytest.fixture
def logits():
    with jax.enable_x64(True):
        yield draw_logits(np.random.default_rng(3), ordinary=2)


@jax.jit
def without_rank_one_part(logits):
    return jax.vmap(jnp.diag)(jaxsoftmax.softmax(logits))


@pytest.mark.slow
def test_closed_form_agrees_with_fifty_digits(logits):
    with fifty_digits():
        exact = [softmax_jacobian(row) for row in logits]
        result = compare("closed form", closed_form, logits, exact)
    assert result.agrees


def test_diagonal_alone_does_not_agree(logits):
    with fifty_digits():
        exact = [softmax_jacobian(row) for row in logits]
        result = compare("diagonal", without_rank_one_part, logits, exact)
    assert not result.agrees


def test_structure_holds_for_the_jacobian_and_not_for_its_diagonal(logits):
    assert structure_of(np.asarray(closed_form(logits))[:2]).holds
    assert not structure_of(np.asarray(without_rank_one_part(logits))[:2]).holds


def test_logits_are_exact_in_float32(logits):
    assert np.array_equal(logits.astype(np.float32).astype(np.float64), logits)
