"""The head passes the tests that tokamax ships for its own, with the head in the place of its chunked one."""

import importlib
import unittest

import jax
import pytest

from jaxsoftmax import linear_cross_entropy

pytest.importorskip("tokamax", reason="tokamax 0.0.17 needs Python 3.12")
API = "tokamax._src.ops.linear_softmax_cross_entropy_loss.api"
api, api_test = importlib.import_module(API), importlib.import_module(f"{API}_test")
SHIPPED = [name for name in unittest.TestLoader().getTestCaseNames(api_test.ApiTest) if name.endswith("chunked_xla")]


def test_tokamax_ships_at_least_the_tests_known_of():
    assert len(SHIPPED) >= 6


@pytest.mark.skipif(jax.__version_info__ < (0, 11, 1), reason="tokamax skips its tests on older JAX")
@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_test_passes_on_the_head(name, monkeypatch):
    calls = []

    def head(hidden, labels, kernel, *, reduction):
        calls.append(reduction)
        return linear_cross_entropy(hidden, kernel, labels, reduction=reduction)

    monkeypatch.setitem(api.IMPLEMENTATIONS, "chunked_xla", head)
    api_test.ApiTest(name).debug()  # raises what the test raises
    assert calls
