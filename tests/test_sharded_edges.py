"""The head of arrays on a mesh at the edges: uneven sizes, infinities and NaN, ignored tokens, 16 and 64 bits."""

from functools import cache
from itertools import product

import chex
import jax
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import jaxsoftmax
from jaxsoftmax import forward_mode
from tests.meshes import (
    ALL,
    CLASS_WEIGHTS,
    EMBED,
    HIDDEN,
    KERNEL,
    LABELS,
    LAYOUTS,
    TOLERANCE,
    VOCAB,
    arguments,
    assert_is_textbook,
    assert_near,
    mesh_of,
    on_mesh,
    plain_textbook,
    with_gradients,
)
from tests.tiers import in_tiers
from tests.tolerances import precision

INF = np.inf


@in_tiers(
    ("vocab", "types", "reduction"),
    [
        (vocab, types, ("none", "mean")[(i + j) % 2])
        for (i, vocab), (j, types) in product(enumerate([31, 29, 3, 1]), enumerate(["Auto", "Explicit"]))
    ],
    first=[(29, "Explicit", "none")],
)
def test_sizes_that_the_mesh_does_not_divide_are_padded_with_nothing(vocab, types, reduction):
    layout = LAYOUTS["2x2x2"]._replace(shape=(2, 1, 4))
    rows, labels = arguments(vocab=vocab, tokens=3), LABELS[:3] % vocab
    with jax.set_mesh(mesh_of(layout, types)):
        got = with_gradients(layout, types, reduction=reduction, **ALL)(
            rows, labels, class_weights=CLASS_WEIGHTS[:vocab]
        )
    assert_is_textbook(got, rows, labels, class_weights=CLASS_WEIGHTS[:vocab], reduction=reduction, **ALL)


def test_padding_of_an_uneven_vocabulary_has_no_part_in_smoothing_without_class_weights():
    rows, keywords = arguments(vocab=29), {"label_smoothing": 0.25, "z_loss": 0.125}
    got = with_gradients(LAYOUTS["1x4"], **keywords)(rows, LABELS % 29)
    assert_is_textbook(got, rows, LABELS % 29, **keywords)


def test_the_first_nan_of_any_shard_is_predicted():
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:2]), ("vocab",))
    logits = np.zeros((4, 2000), np.float32)
    logits[:, 3] = 1
    logits[0, 1999], logits[1, [5, 1500]], logits[2, 999] = np.nan, np.nan, np.nan

    def predictions(logits, labels):
        return jaxsoftmax.token_stats(logits, labels, axis_name="vocab").prediction

    specs = {"in_specs": (P(None, "vocab"), P()), "out_specs": P()}
    predicted = jax.jit(jax.shard_map(predictions, mesh=mesh, **specs))(logits, np.zeros(4, np.int32))
    np.testing.assert_array_equal(predicted, [1999, 5, 999, 3])


def test_a_label_among_the_padding_is_no_class():
    hidden, kernel, *_ = arguments(vocab=29)
    labels = np.where(LABELS == 5, 29, LABELS % 29)
    losses = jax.jit(lambda *rows: on_mesh(LAYOUTS["1x4"])(*rows, reduction="none"))(hidden, kernel, labels)
    np.testing.assert_array_equal(np.isnan(losses), LABELS == 5)


IGNORING = {"ignore_index": -100, "chunk_size": 2}


@in_tiers(("layout", "dtype"), list(product(LAYOUTS, ["float32", "bfloat16"])), first=[("2x2", "float32")])
def test_ignored_tokens_of_one_shard_leave_the_others_as_they_are(layout, dtype):
    labels = LABELS.copy()
    labels[:2] = -100  # all tokens of a device of the first data axis
    rows = arguments(dtype)
    assert_is_textbook(with_gradients(LAYOUTS[layout], **IGNORING)(rows, labels), rows, labels, **IGNORING)


def test_all_tokens_ignored_is_zero_with_gradient_zero():
    value, gradients = with_gradients(LAYOUTS["2x2"], **IGNORING)(arguments(), np.full_like(LABELS, -100))
    assert value == 0
    assert not any(np.any(gradient) for gradient in gradients)


@pytest.mark.slow
@pytest.mark.parametrize("hidden", [np.nan, INF])
def test_an_ignored_last_token_has_no_say_where_the_mesh_does_not_divide_the_tokens(hidden):
    rows, labels = arguments(tokens=3), LABELS[:3].copy()
    labels[:, -1] = -100
    expected = with_gradients(LAYOUTS["2x2"], **IGNORING)(rows, labels)
    rows[0][:, -1] = hidden
    value, gradients = with_gradients(LAYOUTS["2x2"], **IGNORING)(rows, labels)
    assert np.isfinite(value)
    assert_near((value, gradients), expected, TOLERANCE["float32"])


@pytest.mark.parametrize("dtype", ["float32", pytest.param("bfloat16", marks=pytest.mark.slow)])
@pytest.mark.parametrize("shard", range(4))
def test_a_shard_of_minus_infinity_alone_leaves_the_others_as_they_are(shard, dtype):
    rows = arguments(dtype)
    rows[2][8 * shard : 8 * shard + 8] = -INF
    labels = (LABELS % 8 + 8 * ((shard + 1) % 4)).astype(np.int32)
    got = with_gradients(LAYOUTS["1x4"], z_loss=0.125)(rows, labels)
    assert np.all(np.isfinite(got[0]))
    assert_is_textbook(got, rows, labels, z_loss=0.125)


@cache
def by_kernel(layout, types="Auto"):
    """Compiled once: the value and its gradient in the kernel, as a function of hidden, kernel and labels."""
    return jax.jit(jax.value_and_grad(on_mesh(layout, types), 1))


def test_a_kernel_of_infinities_and_padded_tokens_make_no_nan():
    hidden, kernel, *_ = arguments(tokens=3)
    hidden = np.abs(hidden)
    kernel[:, 3] = -INF
    labels = np.where(LABELS[:3] == 3, 2, LABELS[:3])
    got = by_kernel(LAYOUTS["2x2"])(hidden, kernel, labels)
    value, gradients = plain_textbook(hidden, kernel, labels)
    assert np.all(np.isfinite(got[1]))
    assert_near(got, (value, gradients[1]), TOLERANCE["float32"])
    chex.assert_trees_all_equal_dtypes(got, (np.float32(0), kernel))


def test_a_nan_in_hidden_shows_in_all_of_the_kernel_s_gradient():
    hidden, kernel, *_ = arguments(tokens=3)
    hidden[0, 0, 0] = np.nan
    value, gradient = by_kernel(LAYOUTS["2x2"])(hidden, kernel, LABELS[:3])
    assert np.isnan(value)
    assert np.all(np.isnan(gradient))


@in_tiers(
    ("types", "spec"),
    list(product(["Auto", "Explicit"], [P("data"), P(None, None, "vocab")])),
    first=[("Explicit", P("data"))],
)
def test_an_uneven_dimension_is_padded_while_another_is_sharded(types, spec):
    layout, (hidden, kernel, *_), labels = LAYOUTS["2x2x2"], arguments(), LABELS[:, :5]
    mesh = mesh_of(layout, types)
    hidden = jax.device_put(hidden[:, :5], NamedSharding(mesh, spec))
    with jax.set_mesh(mesh):
        got = jax.jit(jax.value_and_grad(on_mesh(layout, types), (0, 1)))(hidden, kernel, labels)
    assert_near(got, plain_textbook(HIDDEN[:, :5], KERNEL, labels), TOLERANCE["float32"])
    chex.assert_trees_all_equal_dtypes(got, (np.float32(0), (hidden, kernel)))


@pytest.mark.parametrize("ratio", [1.0, 1e-2, 1e-5])
def test_float16_keeps_within_its_range_beside_class_weights_that_differ_from_shard_to_shard(ratio):
    rows, labels = arguments("float16"), LABELS % 8
    weights = np.where(np.arange(VOCAB) < 8, 1.0, ratio).astype(np.float32)
    got = with_gradients(LAYOUTS["1x4"], reduction="sum")(rows, labels, class_weights=weights)
    assert_is_textbook(got, rows, labels, class_weights=weights, reduction="sum")


@pytest.mark.parametrize("dtype", [np.int64, pytest.param(np.int32, marks=pytest.mark.slow)])
def test_wide_labels_and_uneven_vocabularies_work_where_jax_refuses_to_promote(dtype):
    with precision("float64"), jax.numpy_dtype_promotion("strict"):
        rows, labels = arguments("float64", vocab=29), (LABELS % 29).astype(dtype)
        assert_is_textbook(with_gradients(LAYOUTS["1x4"])(rows, labels), rows, labels)


def test_an_array_s_number_will_do_for_the_chunk_size():
    hidden, kernel, *_ = arguments()
    loss = jax.jit(lambda *rows: on_mesh(LAYOUTS["2x2"])(*rows, chunk_size=np.int32(5)))(hidden, kernel, LABELS)
    np.testing.assert_allclose(loss, plain_textbook(HIDDEN, KERNEL, LABELS)[0], rtol=1e-6)


def test_no_tokens_are_a_loss_of_zero_with_gradient_zero():
    hidden, labels = np.zeros((0, 6, EMBED), np.float32), np.zeros((0, 6), np.int32)
    value, gradient = by_kernel(LAYOUTS["2x2"])(hidden, arguments()[1], labels)
    assert value == 0
    assert not np.any(gradient)


@pytest.mark.parametrize("compiled", [jax.jit, lambda head: head], ids=["with jit", "without jit"])
def test_an_embed_of_zero_makes_every_class_as_probable(compiled):
    rows = np.zeros((4, 0), np.float32), np.zeros((0, 8), np.float32), np.arange(4, dtype=np.int32)
    np.testing.assert_allclose(compiled(on_mesh(LAYOUTS["2x2"]))(*rows), np.log(8), rtol=1e-6)


@pytest.mark.parametrize("head", [jaxsoftmax.linear_cross_entropy, forward_mode.linear_cross_entropy])
@pytest.mark.parametrize(("name", "spec"), [("hidden", P("data")), ("kernel", P(None, "vocab"))])
def test_the_head_of_one_device_names_the_one_for_explicit_meshes(head, name, spec):
    mesh = jax.make_mesh((2, 4), ("data", "vocab"), axis_types=(AxisType.Explicit,) * 2)
    arrays = {"hidden": np.ones((4, 3), np.float32), "kernel": np.ones((3, 8), np.float32)}
    arrays[name] = jax.device_put(arrays[name], NamedSharding(mesh, spec))
    with pytest.raises(
        ValueError, match=rf"^{name}: expected an array that isn't sharded over Explicit axes, got .*: "
    ):
        head(arrays["hidden"], arrays["kernel"], np.zeros(4, np.int32))


@pytest.mark.slow
def test_arrays_on_an_explicit_mesh_that_are_the_same_on_all_devices_need_no_other_head():
    mesh = jax.make_mesh((8,), ("vocab",), axis_types=(AxisType.Explicit,))
    hidden, kernel = (
        jax.device_put(np.ones(shape, np.float32), NamedSharding(mesh, P())) for shape in ((4, 3), (3, 8))
    )
    loss = jaxsoftmax.linear_cross_entropy(hidden, kernel, np.zeros(4, np.int32))
    np.testing.assert_allclose(loss, np.log(8), rtol=1e-6)
