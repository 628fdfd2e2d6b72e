"""The head of arrays on a mesh is the head of one device: every mesh, keyword and dtype."""

from functools import partial

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxsoftmax import forward_mode, sharded_linear_cross_entropy
from tests.meshes import (
    ALONE,
    HIDDEN,
    KERNEL,
    KEYWORDS,
    LABELS,
    LAYOUTS,
    OTHER_LAYOUTS,
    arguments,
    assert_alike,
    each_axis_type,
    each_layout,
    each_layout_and_dtype,
    mesh_of,
    on_mesh,
    scalar,
    with_gradients,
)
from tests.tolerances import precision


@each_layout_and_dtype
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


def test_axes_of_a_kernel_spread_over_embed_keep_their_order():  # processes with other hash seeds compile the same
    mesh = jax.make_mesh((2, 2, 2), ("b", "a", "vocab"), axis_types=(AxisType.Explicit,) * 3)
    kernel = jax.device_put(jnp.asarray(KERNEL, jnp.float32), NamedSharding(mesh, P(("b", "a"), "vocab")))
    head = partial(sharded_linear_cross_entropy, mesh=mesh, token_axes=("b", "a"), vocab_axis="vocab", labels=LABELS)
    with jax.set_mesh(mesh):
        text = jax.jit(head).lower(jnp.asarray(HIDDEN, jnp.float32), kernel).compile().as_text()
    assert "collective-permute" not in text


BAD = {
    "mesh: expected": (TypeError, {"mesh": (2, 2)}),
    "token_axes: expected None, the name": (TypeError, {"token_axes": 3}),
    "vocab_axis: expected None, the name": (TypeError, {"vocab_axis": ["vocab"]}),
    "vocab_axis: expected axes of the mesh": (ValueError, {"vocab_axis": "model"}),
    "token_axes: expected None, .* or a PartitionSpec": (TypeError, {"token_axes": ["data"]}),
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


def test_inside_of_a_shard_map_the_error_names_the_function_for_it():
    layout = LAYOUTS["2x2"]

    def local(hidden, kernel, labels):
        return on_mesh(layout)(hidden, kernel, labels)

    specs = {"in_specs": (P("data"), P(None, "vocab"), P("data")), "out_specs": P()}
    with pytest.raises(ValueError, match="inside of one, use linear_cross_entropy with axis_name"):
        jax.shard_map(local, mesh=mesh_of(layout), **specs)(HIDDEN, KERNEL, LABELS)
