"""The head of arrays on a mesh is that of the textbook: every mesh, keyword and dtype."""

from functools import cache, partial
from itertools import product

import chex
import jax
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxsoftmax import forward_mode, linear_cross_entropy, sharded_linear_cross_entropy
from tests.meshes import (
    HIDDEN,
    KERNEL,
    KEYWORDS,
    LABELS,
    LAYOUTS,
    OTHER_LAYOUTS,
    TOLERANCE,
    arguments,
    assert_is_textbook,
    assert_near,
    by_name,
    mesh_of,
    of_textbook,
    on_mesh,
    plain_textbook,
    scalar,
)
from tests.textbook import derivatives
from tests.tiers import in_tiers
from tests.tolerances import precision

ONE_BY_ONE = tuple(name for name in KEYWORDS if not name.startswith("all"))
# What is compiled together with a name.
TOGETHER = dict.fromkeys(ONE_BY_ONE, ONE_BY_ONE) | {name: (name,) for name in ("all", "all, none")}
# Layouts alternate between two dtypes.
DTYPES = {"1x4": "float32", "2x2": "bfloat16", "4x1": "float32", "2x2x2": "bfloat16"}


@in_tiers(
    ("layout", "name", "dtype"),
    [(layout, name, DTYPES[layout]) for layout, name in product(LAYOUTS, KEYWORDS)],
    first=[("2x2x2", "all", "bfloat16")],
)
def test_value_and_gradients_are_those_of_the_textbook(layout, name, dtype):  # (M16, M22, M24, M25, M26, M27)
    rows = arguments(dtype)
    assert_is_textbook(by_name(LAYOUTS[layout], TOGETHER[name])(rows)[name], rows, **KEYWORDS[name])


@pytest.mark.parametrize("name", KEYWORDS)
def test_gradients_of_the_textbook_are_the_derivatives_of_its_value(name):
    rows, rng = arguments("float64"), np.random.default_rng(0)
    directions = [rng.normal(size=row.shape) for row in rows]
    slope, _ = derivatives(partial(of_textbook, labels=LABELS, **KEYWORDS[name]), rows, directions)
    _, gradients = of_textbook(rows, LABELS, **KEYWORDS[name])
    terms = [np.sum(g * v) for g, v in zip(gradients, directions, strict=True)]
    np.testing.assert_allclose(slope, sum(terms), rtol=0, atol=1e-13 * np.linalg.norm(terms))


@in_tiers(
    ("layout", "types", "name"),
    [(layout, *each) for layout in OTHER_LAYOUTS for each in (("Auto", "all"), ("Explicit", "all, none"))],
    first=[("8 classes", "Explicit", "all, none"), ("two axes classes", "Auto", "all")],
)
def test_any_layout_and_kind_of_axis_gives_the_numbers_of_the_textbook(layout, types, name):
    layout, rows = OTHER_LAYOUTS[layout], arguments()
    with jax.set_mesh(mesh_of(layout, types)):
        got = by_name(layout, (name,), types)(rows)[name]
    assert_is_textbook(got, rows, **KEYWORDS[name])


def halves(rows):
    return [row / 2 for row in rows]


@cache
def along_halves(layout, name):
    """The value and gradients in float64, and their derivatives along half of the rows."""
    loss, rows = scalar(on_mesh(LAYOUTS[layout]), LABELS, **KEYWORDS[name]), arguments("float64")
    return jax.jit(partial(jax.jvp, jax.value_and_grad(loss, (0, 1, 2, 3))))(rows, halves(rows))


def textbook_along_halves(name):
    rows, formula = arguments("float64"), partial(of_textbook, labels=LABELS, **KEYWORDS[name])
    return formula(rows), derivatives(formula, rows, halves(rows))


def assert_are_derivatives_of_the_textbook(got, name):
    _, expected = textbook_along_halves(name)
    chex.assert_trees_all_equal_dtypes(got, expected)
    assert_near(got, expected, TOLERANCE["float64"])


@pytest.mark.slow
@pytest.mark.parametrize(("layout", "name"), list(product(LAYOUTS, ["plain", "all", "none"])))
def test_slope_and_hessian_vector_product_are_those_of_the_textbook(layout, name):
    with precision("float64"):
        assert_are_derivatives_of_the_textbook(along_halves(layout, name)[1], name)


@pytest.mark.slow
def test_double_precision_stays_double():
    with precision("float64"):
        assert_is_textbook(along_halves("2x2x2", "all")[0], arguments("float64"), **KEYWORDS["all"])


def forward_loss(layout):
    head = on_mesh(LAYOUTS[layout], head=forward_mode.sharded_linear_cross_entropy)
    return scalar(head, LABELS, **KEYWORDS["all"])


@in_tiers("layout", LAYOUTS, first=["2x2x2"])
def test_forward_mode_variant_has_the_same_slope_in_pure_forward_mode(layout):
    with precision("float64"):
        rows = arguments("float64")
        got = jax.jit(partial(jax.jvp, forward_loss(layout)))(rows, halves(rows))
        value, slope = textbook_along_halves("all")
        chex.assert_trees_all_equal_dtypes(got, (value[0], slope[0]))
        assert_near(got, (value[0], slope[0]), TOLERANCE["float64"])


@pytest.mark.slow
def test_forward_mode_variant_has_the_same_value_and_gradients():
    rows = arguments("bfloat16")
    got = jax.jit(jax.value_and_grad(forward_loss("2x2x2"), (0, 1, 2, 3)))(*rows)
    assert_is_textbook(got, rows, **KEYWORDS["all"])


@pytest.mark.slow
@pytest.mark.parametrize("layout", LAYOUTS)
def test_forward_mode_variant_has_the_same_hessian_vector_product(layout):
    with precision("float64"):
        rows = arguments("float64")
        derivative = partial(jax.jvp, jax.value_and_grad(forward_loss(layout), (0, 1, 2, 3)))
        assert_are_derivatives_of_the_textbook(jax.jit(derivative)(rows, halves(rows))[1], "all")


@in_tiers(
    ("types", "spec"),
    list(product(["Auto", "Explicit"], [P("data", "vocab"), P("data", None), P(("data", "vocab"), None)])),
    first=[("Auto", P("data", "vocab")), ("Explicit", P("data", None))],
)
def test_gradients_are_sharded_as_a_kernel_that_is_sharded_over_embed(types, spec):  # FSDP
    layout, (hidden, kernel, *_) = LAYOUTS["2x2"], arguments()
    mesh = mesh_of(layout, types)
    specs = ((hidden, P("data")), (kernel, spec), (LABELS, P("data")))
    hidden, kernel, labels = (jax.device_put(a, NamedSharding(mesh, s)) for a, s in specs)
    got = jax.jit(jax.grad(on_mesh(layout, types), (0, 1)))(hidden, kernel, labels)
    assert_near(got, plain_textbook(HIDDEN, KERNEL, LABELS)[1], TOLERANCE["float32"])
    chex.assert_trees_all_equal_dtypes(got, (hidden, kernel))
    assert got[0].sharding.is_equivalent_to(hidden.sharding, 3)
    assert got[1].sharding.spec[0] in (spec[0], (spec[0],))


def test_vmap_gives_the_values_and_gradients_of_its_examples_one_by_one():
    hidden, labels = np.stack([HIDDEN, 2 * HIDDEN]), np.stack([LABELS, LABELS[::-1]])
    derivative = jax.value_and_grad(on_mesh(LAYOUTS["2x2"]), (0, 1))
    got = jax.jit(jax.vmap(derivative, (0, None, 0)))(hidden.astype(np.float32), arguments()[1], labels)
    for i in range(2):
        expected = plain_textbook(hidden[i], KERNEL, labels[i])
        assert_near(jax.tree.map(lambda a, i=i: a[i], got), expected, TOLERANCE["float32"])


ROW_OF_DEVICES = jax.make_mesh((4,), ("vocab",), axis_types=(AxisType.Auto,))


def test_gradients_taken_inside_of_a_shard_map_are_whole():
    gradients = jax.grad(partial(linear_cross_entropy, axis_name="vocab"), (0, 1))
    specs = {"in_specs": (P(), P(None, "vocab"), P()), "out_specs": (P(), P(None, "vocab"))}
    got = jax.jit(jax.shard_map(gradients, mesh=ROW_OF_DEVICES, **specs))(*arguments()[:2], LABELS)
    assert_near(got, plain_textbook(HIDDEN, KERNEL, LABELS)[1], TOLERANCE["float32"])
    chex.assert_trees_all_equal_dtypes(got, tuple(arguments()[:2]))


def test_hidden_gathered_from_shards_of_tokens_gets_its_gradient_scattered_back():  # sequence parallelism
    def local(hidden, kernel, labels):
        hidden = jax.lax.all_gather(hidden, "vocab", tiled=True)
        return linear_cross_entropy(hidden, kernel, labels, axis_name="vocab")

    head = jax.shard_map(local, mesh=ROW_OF_DEVICES, in_specs=(P("vocab"), P(None, "vocab"), P()), out_specs=P())
    got = jax.jit(jax.value_and_grad(head, (0, 1)))(*arguments()[:2], LABELS)
    assert_near(got, plain_textbook(HIDDEN, KERNEL, LABELS), TOLERANCE["float32"])
    chex.assert_trees_all_equal_dtypes(got, (np.float32(0), tuple(arguments()[:2])))


BAD = {
    "mesh: expected": (TypeError, {"mesh": (2, 2)}),
    "token_axes: expected None, the name": (TypeError, {"token_axes": 3}),
    "vocab_axis: expected None, the name": (TypeError, {"vocab_axis": ["vocab"]}),
    "vocab_axis: expected axes of the mesh": (ValueError, {"vocab_axis": "model"}),
    "token_axes: expected None, .* or a PartitionSpec": (TypeError, {"token_axes": ["data"]}),
    "expected each axis once": (ValueError, {"token_axes": ("data", "vocab")}),
    "expected axes for 2 batch dimensions": (ValueError, {"token_axes": P(None, None, "data")}),
    "kernel: expected shape": (ValueError, {"kernel": np.zeros((3, 3))}),
    "chunk_size: expected": (ValueError, {"chunk_size": 0}),
}


HEADS = [sharded_linear_cross_entropy, forward_mode.sharded_linear_cross_entropy]


@pytest.mark.parametrize("head", HEADS, ids=["reverse", "forward"])
@pytest.mark.parametrize("message", BAD)
def test_bad_input_is_named(message, head):
    error, changed = BAD[message]
    layout = LAYOUTS["2x2"]
    given = {"hidden": HIDDEN, "kernel": KERNEL, "labels": LABELS, "mesh": mesh_of(layout)}
    given |= {"token_axes": layout.token_axes, "vocab_axis": layout.vocab_axis}
    with pytest.raises(error, match=message):
        head(**(given | changed))


def test_inside_of_a_shard_map_the_error_names_the_function_for_it():
    layout = LAYOUTS["2x2"]

    def local(hidden, kernel, labels):
        return on_mesh(layout)(hidden, kernel, labels)

    specs = {"in_specs": (P("data"), P(None, "vocab"), P("data")), "out_specs": P()}
    with pytest.raises(ValueError, match="inside of one, use linear_cross_entropy with axis_name"):
        jax.shard_map(local, mesh=mesh_of(layout), **specs)(HIDDEN, KERNEL, LABELS)
