"""The functions that docs/recipes/frameworks.md defines, and the frameworks that they stand in for."""

import doctest
import functools
import importlib
import warnings
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest

# Frameworks warn of what they themselves do, such as calls that are deprecated.
OF_A_FRAMEWORK = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
PAGE = Path(__file__).parents[2] / "docs" / "recipes" / "frameworks.md"
VALUES = {"rtol": 1e-5, "atol": 1e-5}  # theirs are lse - x, whose terms are near 10, in float32: ten ulps of that
GRADIENTS = {"rtol": 1e-4, "atol": 1e-5}  # sums over tokens and classes of what is rounded as the values are


@functools.cache
def recipes():
    """The page's functions, by name, without the examples that call them."""
    examples = doctest.DocTestParser().get_examples(PAGE.read_text("utf-8"))
    found = {}
    for example in examples:
        if example.source.startswith(("def ", "import ", "from ")):
            exec(example.source, found)
    return SimpleNamespace(**{name: value for name, value in found.items() if not name.startswith("__")})


def framework(package, reason):
    """A module of a framework, which may warn as it is imported; skips with the reason if it isn't installed."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return importlib.import_module(package)
        except ModuleNotFoundError as error:
            pytest.skip(f"{reason} ({error})")


def agree(got, expected, tolerances):
    """Trees of arrays agree, and something in them is not 0."""
    got, expected = jax.tree.leaves(got), jax.tree.leaves(expected)
    for one, other in zip(got, expected, strict=True):
        assert np.max(np.abs(other)) > 0
        np.testing.assert_allclose(np.asarray(one), np.asarray(other), **tolerances)
