"""The head of arrays on a mesh at the edges: uneven sizes, infinities and NaN, ignored tokens, 16 and 64 bits."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from tests.meshes import (
    ALONE,
    CLASS_WEIGHTS,
    EMBED,
    HIDDEN,
    KERNEL,
    KEYWORDS,
    LABELS,
    LAYOUTS,
    VOCAB,
    arguments,
    assert_alike,
    each_axis_type,
    each_dtype,
    each_layout,
    mesh_of,
    on_mesh,
    scalar,
    with_gradients,
)
from tests.tolerances import precision


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


def test_a_kernel_of_infinities_and_filled_up_tokens_make_no_nan():
    kernel = jnp.asarray(KERNEL, jnp.float32).at[:, 3].set(-jnp.inf)
    hidden = jnp.abs(jnp.asarray(HIDDEN, jnp.float32))[:3]
    labels = np.where(LABELS[:3] == 3, 2, LABELS[:3])
    head = partial(on_mesh(LAYOUTS["2x2"]), labels=labels)
    got = jax.jit(jax.value_and_grad(head, 1))(hidden, kernel)
    expected = jax.value_and_grad(partial(ALONE, labels=labels), 1)(hidden, kernel)
    assert np.all(np.isfinite(got[1]))
    assert_alike(got, expected, "float32")


@pytest.mark.parametrize("spec", [P("data"), P(None, None, "vocab")], ids=str)
@each_axis_type
def test_an_uneven_dimension_is_filled_up_while_another_is_spread(types, spec):
    layout, (hidden, kernel, *_) = LAYOUTS["2x2x2"], arguments()
    mesh = mesh_of(layout, types)
    hidden = jax.device_put(hidden[:, :5], NamedSharding(mesh, spec))
    with jax.set_mesh(mesh):
        got = jax.jit(jax.value_and_grad(partial(on_mesh(layout, types), labels=LABELS[:, :5]), (0, 1)))(hidden, kernel)
    expected = jax.value_and_grad(partial(ALONE, labels=LABELS[:, :5]), (0, 1))(HIDDEN[:, :5].astype("float32"), kernel)
    assert_alike(got, expected, "float32")


@pytest.mark.parametrize("ratio", [1.0, 1e-2, 1e-5])
def test_float16_keeps_within_its_range_beside_class_weights_that_differ_from_shard_to_shard(ratio):
    rows = arguments("float16")
    weights = np.where(np.arange(VOCAB) < 8, 1.0, ratio).astype(np.float32)
    keywords = {"class_weights": weights, "reduction": "sum"}
    got = with_gradients(scalar(on_mesh(LAYOUTS["1x4"]), LABELS % 8, **keywords))(*rows)
    assert_alike(got, with_gradients(scalar(ALONE, LABELS % 8, **keywords))(*rows), "float16")


def test_a_nan_in_hidden_shows_in_all_of_the_kernel_s_gradient():
    hidden, kernel, *_ = arguments()
    head = partial(on_mesh(LAYOUTS["2x2"]), labels=LABELS)
    value, gradient = jax.jit(jax.value_and_grad(head, 1))(hidden.at[0, 0, 0].set(jnp.nan), kernel)
    assert np.isnan(value)
    assert np.all(np.isnan(gradient))


def test_wide_labels_and_uneven_vocabularies_work_where_jax_refuses_to_promote():
    with precision("float64"), jax.numpy_dtype_promotion("strict"):
        for dtype in (np.int32, np.int64):
            rows = arguments("float64", vocab=29)
            got = with_gradients(scalar(on_mesh(LAYOUTS["1x4"]), (LABELS % 29).astype(dtype)))(*rows)
            assert_alike(got, with_gradients(scalar(ALONE, LABELS % 29))(*rows), "float64")


def test_an_array_s_number_will_do_for_the_chunk_size():
    hidden, kernel, *_ = arguments()
    loss = on_mesh(LAYOUTS["2x2"])(hidden, kernel, LABELS, chunk_size=np.int32(5))
    np.testing.assert_allclose(loss, ALONE(hidden, kernel, LABELS), rtol=1e-6)


def test_no_tokens_and_embed_of_zero():
    head = on_mesh(LAYOUTS["2x2"])
    hidden, kernel = jnp.zeros((0, 6, EMBED)), jnp.asarray(KERNEL, jnp.float32)
    value, gradient = jax.jit(jax.value_and_grad(partial(head, labels=np.zeros((0, 6), np.int32)), 1))(hidden, kernel)
    assert value == 0
    assert not np.any(gradient)
    np.testing.assert_allclose(head(jnp.zeros((4, 0)), jnp.zeros((0, 8)), np.arange(4)), np.log(8), rtol=1e-6)
