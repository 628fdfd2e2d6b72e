"""The drop-ins pass the tests that optax ships for the functions they replace.

optax's two `test_gradient` differentiate in forward mode too, which a `jax.custom_vjp` refuses: they run on
the variants of `forward_mode`, which pass all the others as well. Of a test that optax runs on numbered cases, the
first stays in the first tier.
"""

import unittest

import jax
import numpy as np
import pytest
from optax.losses import _classification, _classification_test

import jaxsoftmax
from jaxsoftmax import forward_mode
from tests.tiers import in_tiers

REPLACED = ("softmax_cross_entropy", "softmax_cross_entropy_with_integer_labels")
SHIPPED = (_classification_test.SoftmaxCrossEntropyTest, _classification_test.SoftmaxCrossEntropyWithIntegerLabelsTest)
TESTS = [(case, name) for case in SHIPPED for name in unittest.TestLoader().getTestCaseNames(case)]
REVERSE_MODE = [(case, name) for case, name in TESTS if name != "test_gradient"]


def each(tests):
    first = [(case, name) for case, name in tests if not name.endswith(tuple("123456789"))]
    return in_tiers(("case", "name"), tests, first, named=lambda test: f"{test[0].__name__}.{test[1]}")


# Compiled once a shape; eagerly each test would compile every operation of its own shapes.
DROP_INS = {
    library: {name: jax.jit(getattr(library, name), static_argnames="axis") for name in REPLACED}
    for library in (jaxsoftmax, forward_mode)
}


def run(case, name, library, monkeypatch):
    """One shipped test on `library`, which must have been called."""
    calls = []

    def counted(function):
        def call(*args, **keywords):
            calls.append(function)
            return function(*args, **keywords)

        return call

    for replaced, function in DROP_INS[library].items():
        monkeypatch.setattr(_classification, replaced, counted(function))
    np.random.seed(0)
    case(name).debug()  # raises what the test raises
    assert calls


def test_optax_ships_at_least_the_tests_known_of():
    # optax 0.2.6 runs some once a device and once a transformation: `test_scalar__with_jit`.
    names = {name.partition("__")[0].rstrip("0123456789") for _, name in TESTS}
    assert {"test_scalar", "test_batched", "test_gradient", "test_per_logit_mask", "test_mask", "test_axis"} <= names
    assert len(TESTS) >= 22


@each(REVERSE_MODE)
def test_shipped_test_passes_on_the_losses(case, name, monkeypatch):
    run(case, name, jaxsoftmax, monkeypatch)


@pytest.mark.slow
@each(TESTS)
def test_shipped_test_passes_on_the_forward_mode_variants(case, name, monkeypatch):
    run(case, name, forward_mode, monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize("case", SHIPPED)
def test_forward_mode_is_all_that_the_losses_refuse_of_the_gradient_test(case, monkeypatch):
    with pytest.raises(TypeError, match="custom_vjp"):
        run(case, "test_gradient", jaxsoftmax, monkeypatch)
