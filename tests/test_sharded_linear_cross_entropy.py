"""The head of arrays on a mesh is the head of one device: every mesh, keyword, dtype and ragged size."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxsoftmax import forward_mode, linear_cross_entropy, sharded_linear_cross_entropy
from tests.tolerances import precision


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
TOLERANCE = {"float64": 1e-13, "float32": 1e-6, "bfloat16": 2.0**-8}  # of the norm

ALONE = linear_cross_entropy

each_layout = pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
each_dtype = pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
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


@each_dtype
@each_layout
@pytest.mark.parametrize("keywords", KEYWORDS.values(), ids=KEYWORDS)
def test_value_and_gradients_are_those_of_one_device(keywords, layout, dtype):  # (M16, M22, M24-M27)
    rows = arguments(dtype)
    got = with_gradients(scalar(on_mesh(layout), **keywords))(*rows)
    assert_alike(got, with_gradients(scalar(ALONE, **keywords))(*rows), dtype)


@each_axis_type
@pytest.mark.parametrize("layout", OTHER_LAYOUTS.values(), ids=OTHER_LAYOUTS)
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_any_layout_and_kind_of_axis_gives_the_numbers_of_one_device(layout, types, reduction):
    head, rows = on_mesh(layout, types), arguments()
    with jax.set_mesh(mesh_of(layout, types)):
        got = with_gradients(scalar(head, reduction=reduction, **KEYWORDS["all"]))(*rows)
    assert_alike(got, with_gradients(scalar(ALONE, reduction=reduction, **KEYWORDS["all"]))(*rows), "float32")


@each_axis_type
@pytest.mark.parametrize("vocab", [31, 29, 3, 1])
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_sizes_that_the_mesh_does_not_divide_are_filled_up_with_nothing(vocab, types, reduction):
    layout, keywords = LAYOUTS["2x2x2"]._replace(shape=(2, 1, 4)), KEYWORDS["all"] | {"reduction": reduction}
    keywords |= {"class_weights": CLASS_WEIGHTS[:vocab]}
    head, rows, labels = on_mesh(layout, types), arguments(vocab=vocab, tokens=3), LABELS[:3] % vocab
    with jax.set_mesh(mesh_of(layout, types)):
        got = with_gradients(scalar(head, labels, **keywords))(*rows)
    assert_alike(got, with_gradients(scalar(ALONE, labels, **keywords))(*rows), "float32")


def test_padding_of_an_uneven_vocabulary_has_no_part_in_smoothing_without_class_weights():
    rows, keywords = arguments(vocab=29), {"label_smoothing": 0.25, "z_loss": 0.125}
    got = with_gradients(scalar(on_mesh(LAYOUTS["1x4"]), LABELS % 29, **keywords))(*rows)
    assert_alike(got, with_gradients(scalar(ALONE, LABELS % 29, **keywords))(*rows), "float32")


def test_a_label_among_the_padding_is_no_class():
    layout, rows = LAYOUTS["1x4"], arguments(vocab=29)
    labels = np.where(LABELS == 5, 29, LABELS % 29)
    losses = on_mesh(layout)(rows[0], rows[1], labels, reduction="none")
    np.testing.assert_array_equal(np.isnan(losses), LABELS == 5)


@each_dtype
@each_layout
def test_ignored_tokens_of_one_shard_leave_the_others_as_they_are(layout, dtype):
    labels = LABELS.copy()
    labels[:2] = -100  # all tokens of a device of the first data axis
    rows, keywords = arguments(dtype), {"ignore_index": -100, "chunk_size": 2}
    got = with_gradients(scalar(on_mesh(layout), labels, **keywords))(*rows)
    assert_alike(got, with_gradients(scalar(ALONE, labels, **keywords))(*rows), dtype)


def test_all_tokens_ignored_is_zero_with_gradient_zero():
    value, gradients = with_gradients(scalar(on_mesh(LAYOUTS["2x2"]), LABELS * 0 - 1, ignore_index=-1))(*arguments())
    assert value == 0
    assert not any(np.any(gradient) for gradient in gradients)


@each_dtype
@pytest.mark.parametrize("shard", range(4))
def test_a_shard_of_minus_infinity_alone_leaves_the_others_as_they_are(shard, dtype):
    hidden, kernel, bias, weights = arguments(dtype)
    bias = bias.at[8 * shard : 8 * shard + 8].set(-jnp.inf)
    labels = (LABELS % 8 + 8 * ((shard + 1) % 4)).astype(np.int32)
    rows = hidden, kernel, bias, weights
    got = with_gradients(scalar(on_mesh(LAYOUTS["1x4"]), labels, z_loss=0.125))(*rows)
    assert np.all(np.isfinite(got[0]))
    assert_alike(got, with_gradients(scalar(ALONE, labels, z_loss=0.125))(*rows), dtype)


def hessian_vector_product(loss, rows):
    """At the rows and along their halves."""
    gradient = jax.grad(loss, (0, 1, 2, 3))
    return jax.jit(lambda *rows: jax.jvp(gradient, rows, tuple(row / 2 for row in rows))[1])(*rows)


@each_layout
@pytest.mark.parametrize("name", ["plain", "all", "none"])
def test_hessian_vector_product_is_that_of_one_device(name, layout):
    with precision("float64"):
        rows, losses = tuple(arguments("float64")), (scalar(f, **KEYWORDS[name]) for f in (on_mesh(layout), ALONE))
        got, expected = (hessian_vector_product(loss, rows) for loss in losses)
        assert_alike(got, expected, "float64")


@each_layout
def test_twin_has_the_same_slope_and_products(layout):
    twins = (on_mesh(layout, module=forward_mode), forward_mode.linear_cross_entropy)
    with precision("float64"):
        rows, losses = tuple(arguments("float64")), [scalar(f, **KEYWORDS["all"]) for f in twins]
        got, expected = (jax.jit(partial(jax.jvp, loss))(rows, tuple(row / 2 for row in rows)) for loss in losses)
        assert_alike(got, expected, "float64")
        got, expected = (hessian_vector_product(loss, rows) for loss in losses)
        assert_alike(got, expected, "float64")


def test_double_precision_stays_double():
    with precision("float64"):
        rows, losses = arguments("float64"), (on_mesh(LAYOUTS["2x2x2"]), ALONE)
        got, expected = (with_gradients(scalar(loss, **KEYWORDS["all"]))(*rows) for loss in losses)
        assert_alike(got, expected, "float64")


@each_axis_type
@pytest.mark.parametrize("spec", [P("data", "vocab"), P("data", None), P(("data", "vocab"), None)], ids=str)
def test_gradients_come_back_spread_as_a_kernel_that_is_spread_over_embed(spec, types):  # FSDP
    layout = LAYOUTS["2x2"]
    mesh = mesh_of(layout, types)
    hidden, kernel, *_ = arguments()
    hidden, kernel = (jax.device_put(a, NamedSharding(mesh, s)) for a, s in ((hidden, P("data")), (kernel, spec)))
    head = partial(on_mesh(layout, types), labels=jax.device_put(LABELS, NamedSharding(mesh, P("data"))))
    by_hidden, by_kernel = jax.jit(jax.grad(head, (0, 1)))(hidden, kernel)
    expected = jax.grad(partial(ALONE, labels=LABELS), (0, 1))(*arguments()[:2])
    assert_alike((by_hidden, by_kernel), expected, "float32")
    assert by_hidden.sharding.is_equivalent_to(hidden.sharding, 3)
    embed_axes = by_kernel.sharding.spec[0]
    assert embed_axes == spec[0] or embed_axes == (spec[0],)


def test_a_kernel_of_infinities_and_filled_up_tokens_make_no_nan():
    kernel = jnp.asarray(KERNEL, jnp.float32).at[:, 3].set(-jnp.inf)
    hidden = jnp.abs(jnp.asarray(HIDDEN, jnp.float32))[:3]
    labels = np.where(LABELS[:3] == 3, 2, LABELS[:3])
    head = partial(on_mesh(LAYOUTS["2x2"]), labels=labels)
    got = jax.jit(jax.value_and_grad(head, 1))(hidden, kernel)
    expected = jax.value_and_grad(partial(ALONE, labels=labels), 1)(hidden, kernel)
    assert np.all(np.isfinite(got[1]))
    assert_alike(got, expected, "float32")


def test_no_tokens_and_embed_of_zero():
    head = on_mesh(LAYOUTS["2x2"])
    hidden, kernel = jnp.zeros((0, 6, EMBED)), jnp.asarray(KERNEL, jnp.float32)
    value, gradient = jax.jit(jax.value_and_grad(partial(head, labels=np.zeros((0, 6), np.int32)), 1))(hidden, kernel)
    assert value == 0
    assert not np.any(gradient)
    np.testing.assert_allclose(head(jnp.zeros((4, 0)), jnp.zeros((0, 8)), np.arange(4)), np.log(8), rtol=1e-6)


BAD = {
    "mesh: expected": (TypeError, {"mesh": (2, 2)}),
    "token_axes: expected None, the name": (TypeError, {"token_axes": 3}),
    "vocab_axis: expected None, the name": (TypeError, {"vocab_axis": ["vocab"]}),
    "expected axes of the mesh": (ValueError, {"vocab_axis": "model"}),
    "expected each axis once": (ValueError, {"token_axes": ("data", "vocab")}),
    "expected axes for 2 batch dimensions": (ValueError, {"token_axes": P(None, None, "data")}),
    "kernel: expected shape": (ValueError, {"kernel": jnp.zeros((3, 3))}),
    "chunk_size: expected": (ValueError, {"chunk_size": 0}),
}


@pytest.mark.parametrize("message", BAD)
def test_bad_input_is_named(message):
    error, changed = BAD[message]
    layout = LAYOUTS["2x2"]
    given = {"hidden": HIDDEN, "kernel": KERNEL, "labels": LABELS, "mesh": mesh_of(layout)}
    given |= {"token_axes": layout.token_axes, "vocab_axis": layout.vocab_axis}
    with pytest.raises(error, match=message):
        sharded_linear_cross_entropy(**(given | changed))
