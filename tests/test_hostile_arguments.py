"""Every argument of every public function, given nonsense: taken, or refused by an error that names the argument."""

import inspect

import jax
import numpy as np
import pytest

import jaxsoftmax
from jaxsoftmax import forward_mode
from tests.tiers import in_tiers

LOGITS, LABELS = np.zeros((4, 3), np.float32), np.zeros(4, np.int32)
HEAD = {"hidden": np.zeros((4, 2), np.float32), "kernel": np.zeros((2, 3), np.float32), "labels": LABELS}
RIGHT = {
    "logsumexp": {"a": LOGITS},
    "softmax": {"x": LOGITS},
    "log_softmax": {"x": LOGITS},
    "softmax_cross_entropy": {"logits": LOGITS, "labels": LOGITS},
    "softmax_cross_entropy_with_integer_labels": {"logits": LOGITS, "labels": LABELS},
    "cross_entropy": {"logits": LOGITS, "labels": LABELS},
    "token_stats": {"logits": LOGITS, "labels": LABELS},
    "distillation": {"logits": LOGITS, "teacher_logits": LOGITS},
    "linear_cross_entropy": HEAD,
    "linear_token_stats": HEAD,
    "linear_distillation": {
        "hidden": HEAD["hidden"],
        "kernel": HEAD["kernel"],
        "teacher_hidden": HEAD["hidden"],
        "teacher_kernel": HEAD["kernel"],
    },
    "sharded_linear_cross_entropy": HEAD | {"mesh": jax.make_mesh((1,), ("data",)), "token_axes": "data"},
}
NONSENSE = {
    "text": "mean of all",
    "bytes": b"1",
    "object": object(),
    "class": float,
    "function": abs,
    "dictionary": {"a": 1},
    "set": {1},
    "ragged": [[1.0], [1.0, 2.0]],
    "complex": 1j,
    "texts": np.array(["one", "two"]),
    "objects": np.array([None, 1], object),
    "dates": np.array(["2020-01-01"], "datetime64[D]"),
    "records": np.zeros(2, [("a", int)]),
    "key": jax.random.key(0),
    "keys": jax.random.split(jax.random.key(0)),
    "nan": float("nan"),
    "infinity": float("inf"),
    "too large an int": 10**400,
    "int of 70 bits": 2**70,
    "ints of 70 bits": [2**70],
    "negative": -(2**40),
    "boolean": True,
    "empty": [],
    "empty tuple": (),
    "rank 5": np.zeros((1, 1, 1, 1, 1), np.float32),
    "float": 1.5,
    "texts in a tuple": ("one", "two"),
    "array": np.array([1, 2]),
}
TELLING = ("text", "object", "ragged", "complex", "objects", "nan", "too large an int", "negative", "rank 5", "float")
GROUPS = {"telling": TELLING, "others": tuple(kind for kind in NONSENSE if kind not in TELLING)}
MODULES = {"jaxsoftmax": jaxsoftmax, "forward_mode": forward_mode}
CASES = [
    (module, name, argument, group)
    for module in MODULES
    for name in RIGHT
    if hasattr(MODULES[module], name)
    for argument in inspect.signature(getattr(MODULES[module], name)).parameters
    for group in GROUPS
    if module == "jaxsoftmax" or group == "telling"
]
# Nightly: other nonsense, and what tells most for the variants, which take the same arguments through the same checks.
FIRST = [case for case in CASES if case[0] == "jaxsoftmax" and case[-1] == "telling"]


def refusal(function, arguments):
    """The error of a type or a value, if there is one; nothing is compiled."""
    try:
        jax.eval_shape(lambda: function(**arguments))
    except (TypeError, ValueError) as error:
        return error
    return None


@in_tiers(("module", "name", "argument", "group"), CASES, FIRST)
def test_nonsense_is_taken_or_named(module, name, argument, group):
    function = getattr(MODULES[module], name)
    known = set(inspect.signature(function).parameters) | {"and"}
    errors = {kind: refusal(function, RIGHT[name] | {argument: NONSENSE[kind]}) for kind in GROUPS[group]}
    named = {kind: set(str(error).partition(":")[0].split()) for kind, error in errors.items() if error is not None}
    for kind, names in named.items():
        # The other argument is named where only the two don't fit together.
        assert names, (kind, errors[kind])
        assert names <= known, (kind, errors[kind])
    assert any(argument in names for names in named.values())


def test_an_error_that_names_nothing_is_caught(monkeypatch):
    def softmax(x, axis=-1, where=None):
        raise ValueError("no")

    monkeypatch.setattr(jaxsoftmax, "softmax", softmax)
    with pytest.raises(AssertionError):
        test_nonsense_is_taken_or_named("jaxsoftmax", "softmax", "x", "telling")
