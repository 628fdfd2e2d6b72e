"""Meshes, and a head's arguments, keywords and gradients: what the tests of heads on meshes share."""

from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from jaxsoftmax import sharded_linear_cross_entropy
from tests import textbook


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
BIAS, TOKEN_WEIGHTS = rng.normal(size=VOCAB), rng.uniform(size=BATCH)
CLASS_WEIGHTS = rng.uniform(size=VOCAB).astype(np.float32)  # constants of 32 bits serve in either precision
# Labels at the borders of shards of 4, 8, 16 and 32 classes, and some others.
LABELS = np.array([0, 3, 4, 7, 8, 15, 16, 23, 24, 27, 28, 31, 5, 9, 17, 30, 2, 12, 20, 26, 1, 6, 11, 29], np.int32)
LABELS = LABELS.reshape(BATCH)
COTANGENTS = rng.uniform(0.5, 1.5, size=BATCH)
ALL = {"ignore_index": 8, "label_smoothing": 0.125, "z_loss": 0.0625, "logit_softcap": 2.0, "chunk_size": 2}
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
    "all": {"class_weights": CLASS_WEIGHTS} | ALL,
    "all, none": {"class_weights": CLASS_WEIGHTS, "reduction": "none"} | ALL,
}
TOLERANCE = {"float64": 1e-13, "float32": 1e-6, "bfloat16": 2.0**-8, "float16": 2.0**-10}  # of the norm


def mesh_of(layout, types="Auto"):
    return jax.make_mesh(layout.shape, layout.names, axis_types=(AxisType[types],) * len(layout.names))


def on_mesh(layout, types="Auto", head=sharded_linear_cross_entropy):
    axes = {"token_axes": layout.token_axes, "vocab_axis": layout.vocab_axis}
    return partial(head, mesh=mesh_of(layout, types), **axes)


def arguments(dtype="float32", vocab=VOCAB, tokens=BATCH[0]):
    """Hidden, kernel, bias and token weights."""
    hidden, kernel, bias, weights = HIDDEN[:tokens], KERNEL[:, :vocab], BIAS[:vocab], TOKEN_WEIGHTS[:tokens]
    weights = weights.astype("float64" if dtype == "float64" else "float32")
    return [*(a.astype(jnp.dtype(dtype)) for a in (hidden, kernel, bias)), weights]


def scalar(head, labels, **keywords):
    """A function of hidden, kernel, bias and token weights; reduction "none" is weighted with cotangents."""

    def loss(hidden, kernel, bias, token_weights):
        value = head(hidden, kernel, labels, bias=bias, token_weights=token_weights, **keywords)
        return jnp.sum(value * COTANGENTS[: len(labels)].astype(value.dtype)) if value.ndim else value

    return loss


@cache
def with_gradients(layout, types="Auto", **keywords):
    """Compiled once: a function of rows, labels and class weights."""
    head = on_mesh(layout, types)

    def evaluate(rows, labels, **class_weights):
        return jax.value_and_grad(scalar(head, labels, **class_weights, **keywords), (0, 1, 2, 3))(*rows)

    return jax.jit(evaluate)


@cache
def by_name(layout, names, types="Auto"):
    """Compiled once: the values and gradients with each of several sets of keywords, as a function of rows."""

    def evaluate(rows):
        losses = {name: scalar(on_mesh(layout, types), LABELS, **KEYWORDS[name]) for name in names}
        return {name: jax.value_and_grad(loss, (0, 1, 2, 3))(*rows) for name, loss in losses.items()}

    return jax.jit(evaluate)


def of_textbook(rows, labels=LABELS, **keywords):
    """The loss, and its gradients in hidden, kernel, bias and token weights."""
    return textbook.of_head(*rows, labels, cotangents=COTANGENTS[: len(labels)], **keywords)[:2]


def plain_textbook(hidden, kernel, labels):
    """The mean loss without bias, weights and other keywords, and its gradients in hidden and kernel."""
    value, gradients = of_textbook([np.float64(hidden), np.float64(kernel), 0.0, np.ones(labels.shape)], labels)
    return value, gradients[:2]


def assert_near(got, expected, tolerance):
    """In the norm of each array."""
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
        assert a.shape == b.shape
        assert np.linalg.norm(a - b) <= tolerance * np.linalg.norm(b)


def assert_is_textbook(got, rows, labels=LABELS, **keywords):
    """`got` has the dtypes of the rows, and is what the textbook makes of the numbers that they hold."""
    assert [each.dtype for each in jax.tree.leaves(got)] == [rows[3].dtype, *(row.dtype for row in rows)]
    expected = of_textbook([np.asarray(row, np.float64) for row in rows], labels, **keywords)
    assert_near(got, expected, TOLERANCE[str(rows[0].dtype)])
