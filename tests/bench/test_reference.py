"""The reference is autodiff of the textbook in float64, and what departs from it is seen."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsoftmax.bench import _reference
from jaxsoftmax.bench._case import CONFIDENT, GRADIENT, IN_GRAPH, Case
from jaxsoftmax.bench._inputs import inputs
from jaxsoftmax.bench._jax_runner import JaxRunner


def _textbook(logits, labels):
    return (jax.nn.logsumexp(logits, -1) - logits[jnp.arange(len(labels)), labels]).mean()


def _exact(case):
    """Gradients by autodiff in float64."""
    with jax.enable_x64(True):
        *floats, labels = (jnp.asarray(array) for array in inputs(case))
        floats = [array.astype(jnp.float64) for array in floats]
        if case.width is None:
            return [np.asarray(jax.grad(_textbook)(*floats, labels))]
        gradients = jax.grad(lambda h, k: _textbook(h @ k, labels), (0, 1))(*floats)
        return [np.asarray(gradient) for gradient in gradients]


CASES = [
    Case("plain", (7, 33), "float32", quantity=GRADIENT),
    Case("plain", (7, 33), "bfloat16", quantity=GRADIENT),
    Case("linear", (7, 5, 33), "float32", quantity=GRADIENT),
    Case("linear", (7, 5, 33), "bfloat16", quantity=GRADIENT),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.label)
def test_the_reference_is_autodiff_of_the_textbook_in_float64(case, monkeypatch):
    monkeypatch.setattr(_reference, "_ENTRIES", 100)  # three tokens at a time
    error = _reference.judge(case, inputs(case))(_exact(case))
    assert error.norm < 1e-14


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.label)
def test_a_planted_error_is_seen(case):
    gradients = _exact(case)
    gradients[-1] = gradients[-1] * 1.001
    assert _reference.judge(case, inputs(case))(gradients).norm == pytest.approx(1e-3)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.label)
def test_a_planted_nan_is_seen(case):
    gradients = _exact(case)
    gradients[-1] = np.where(np.arange(33) == 5, np.nan, gradients[-1])
    assert np.isnan(_reference.judge(case, inputs(case))(gradients).norm)


def test_the_worst_token_of_confident_rows_is_lost_by_optax_and_kept_by_jaxsoftmax():
    case = Case("plain", (6, 50), "float32", CONFIDENT, GRADIENT)
    errors = {
        subject: _reference.judge(case, inputs(case))(JaxRunner(subject, case, inputs(case)).gradients())
        for subject in ("jaxsoftmax", "optax")
    }
    assert errors["jaxsoftmax"].worst_token < 1e-6
    assert errors["optax"].worst_token > 0.9


def test_with_the_logits_in_the_graph_the_gradient_is_in_the_hidden_states():
    case = Case("plain", (6, 50), "float32", quantity=IN_GRAPH)
    (gradient,) = JaxRunner("jaxsoftmax", case, inputs(case)).gradients()
    assert _reference.judge(case, inputs(case))([gradient]).norm < 1e-6
