"""Meshes, and a head's arguments, keywords and gradients: what the tests of heads on meshes share."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from jaxsoftmax import linear_cross_entropy, sharded_linear_cross_entropy


class Layout(NamedTuple):
    shape: tuple[int, ...]
    names: tuple[str, ...]
    token_axes: Any
    vocab_axis: Any


LAYOUTS = {
    "1x4": Layout((1, 4), ("data", "vocab"), "data", "vocab"),
    "2x2": Layout((2, 2), ("data", "vocab"), "data", "vocab"),
    "4x1": Layout((4, 1), ("data", "vocab"), ("data",), "vocab"),
    "2x2x2": Layout((2, 2, 2), ("data", "sequence", "vocab"), P("data", "sequence"), "vocab"),
}
OTHER_LAYOUTS = {
    "8 tokens": Layout((8,), ("data",), "data", None),
    "8 classes": Layout((8,), ("vocab",), (), "vocab"),
    "both axes tokens": Layout((2, 2, 2), ("data", "fsdp", "vocab"), ("data", "fsdp"), "vocab"),
    "two axes classes": Layout((2, 2, 2), ("data", "a", "b"), "data", ("a", "b")),
    "an axis unused": Layout((2, 2, 2), ("data", "vocab", "pipeline"), "data", "vocab"),
    "all axes unused": Layout((2, 2), ("data", "vocab"), (), None),
}

rng = np.random.default_rng(0)
BATCH, EMBED, VOCAB = (4, 6), 8, 32
HIDDEN, KERNEL = rng.normal(size=(*BATCH, EMBED)), rng.normal(size=(EMBED, VOCAB))
BIAS, CLASS_WEIGHTS, TOKEN_WEIGHTS = rng.normal(size=VOCAB), rng.uniform(size=VOCAB), rng.uniform(size=BATCH)
# Labels at the borders of shards of 4, 8, 16 and 32 classes, and some others.
LABELS = np.array([0, 3, 4, 7, 8, 15, 16, 23, 24, 27, 28, 31, 5, 9, 17, 30, 2, 12, 20, 26, 1, 6, 11, 29], np.int32)
LABELS = LABELS.reshape(BATCH)
COTANGENTS = rng.uniform(0.5, 1.5, size=BATCH)
KEYWORDS: dict[str, dict[str, Any]] = {
    "plain": {},
    "class_weights": {"class_weights": CLASS_WEIGHTS},
    "ignore_index, a label": {"ignore_index": 7, "chunk_size": 2},
    "label_smoothing": {"label_smoothing": 0.125},
    "z_loss": {"z_loss": 0.0625},
    "logit_softcap": {"logit_softcap": 2.0},
    "sum": {"reduction": "sum"},
    "none": {"reduction": "none"},
    "chunk_size": {"chunk_size": 5},
    "all": {
        "class_weights": CLASS_WEIGHTS,
        "ignore_index": 8,
        "label_smoothing": 0.125,
        "z_loss": 0.0625,
        "logit_softcap": 2.0,
        "chunk_size": 2,
    },
}
TOLERANCE = {"float64": 1e-13, "float32": 1e-6, "bfloat16": 2.0**-8, "float16": 2.0**-10}  # of the norm

ALONE = linear_cross_entropy

each_layout = pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
each_dtype = pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
# With every keyword bfloat16 is quickly seen on the mesh of three axes alone.
each_layout_and_dtype = pytest.mark.parametrize(
    ("layout", "dtype"),
    [
        pytest.param(layout, dtype, id=f"{name}-{dtype}", marks=[pytest.mark.slow] * slow)
        for name, layout in LAYOUTS.items()
        for dtype, slow in (("float32", False), ("bfloat16", name != "2x2x2"))
    ],
)
each_axis_type = pytest.mark.parametrize("types", [AxisType.Auto, AxisType.Explicit])


def mesh_of(layout, types=AxisType.Auto):
    return jax.make_mesh(layout.shape, layout.names, axis_types=(types,) * len(layout.names))


def on_mesh(layout, types=AxisType.Auto, module=None):
    head = sharded_linear_cross_entropy if module is None else module.sharded_linear_cross_entropy
    axes = {"token_axes": layout.token_axes, "vocab_axis": layout.vocab_axis}
    return partial(head, mesh=mesh_of(layout, types), **axes)


def arguments(dtype="float32", vocab=VOCAB, tokens=BATCH[0]):
    hidden, kernel, bias, weights = HIDDEN[:tokens], KERNEL[:, :vocab], BIAS[:vocab], TOKEN_WEIGHTS[:tokens]
    return [jnp.asarray(a, dtype) for a in (hidden, kernel, bias)] + [jnp.asarray(weights)]


def scalar(head, labels=LABELS, **keywords):
    """A function of hidden, kernel, bias and token weights."""

    def loss(hidden, kernel, bias, token_weights):
        value = head(hidden, kernel, labels, bias=bias, token_weights=token_weights, **keywords)
        return jnp.sum(value * COTANGENTS[: len(labels)].astype(value.dtype)) if value.ndim else value

    return loss


def with_gradients(loss):
    return jax.jit(jax.value_and_grad(loss, (0, 1, 2, 3)))


def assert_alike(got, expected, dtype):
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        assert a.dtype == b.dtype
        a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
        assert np.linalg.norm(a - b) <= TOLERANCE[dtype] * np.linalg.norm(b)
