"""What devices send one another: the collectives that a head on a mesh compiles to, and no others."""

import re
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxsoftmax import sharded_linear_cross_entropy

pytestmark = pytest.mark.usefixtures("fresh_compilation")

TOKENS, EMBED, VOCAB = 512, 16, 4096
DATA, CLASSES = 2, 4
MESH = jax.make_mesh((DATA, CLASSES), ("data", "vocab"), axis_types=(AxisType.Auto,) * 2)
SHARDED = {"hidden": P("data"), "kernel": P(None, "vocab"), "labels": P("data")}
WHOLE_KERNEL, KERNEL_SHARD = (EMBED, VOCAB), (EMBED, VOCAB // CLASSES)
MINE = TOKENS // DATA  # tokens of a device


class Collective(NamedTuple):
    kind: str
    shape: tuple[int, ...]


def collectives(function, dtype=jnp.float32, **specs):
    """Those of the compiled function of hidden, kernel and labels, sharded as the specs say."""
    shapes = {"hidden": (TOKENS, EMBED), "kernel": (EMBED, VOCAB), "labels": (TOKENS,)}
    dtypes = {"hidden": dtype, "kernel": dtype, "labels": jnp.int32}
    rows = [
        jax.ShapeDtypeStruct(shape, dtypes[name], sharding=NamedSharding(MESH, (SHARDED | specs)[name]))
        for name, shape in shapes.items()
    ]
    return [*_collectives_in(jax.jit(function).lower(*rows).compile().as_text())]


def _collectives_in(text):
    kinds = "all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute|collective-broadcast"
    for types, kind in re.findall(rf"= (\(?[^=]*?)\s({kinds})(?:-start)?\(", text):
        for dimensions in re.findall(r"\w+\[([\d,]*)\]", types):
            yield Collective(kind, tuple(int(n) for n in dimensions.split(",") if n))


HEAD = partial(sharded_linear_cross_entropy, mesh=MESH, token_axes="data", vocab_axis="vocab")
WITH_GRADIENTS = {
    "mean": jax.value_and_grad(HEAD, (0, 1)),
    "sum, bfloat16": jax.value_and_grad(partial(HEAD, reduction="sum"), (0, 1)),
}


@pytest.mark.parametrize("head", ["mean", pytest.param("sum, bfloat16", marks=pytest.mark.slow)])
def test_gradients_take_one_maximum_and_one_sum_of_numbers_per_token_and_one_of_hidden(head):
    dtype = jnp.bfloat16 if "bfloat16" in head else jnp.float32
    found = collectives(WITH_GRADIENTS[head], dtype)
    assert {each.kind for each in found} == {"all-reduce"}
    per_token = [each.shape for each in found if MINE in each.shape]
    assert sorted(per_token) == [(3, MINE, 1), (MINE, 1), (MINE, EMBED)]
    rest = [each.shape for each in found if MINE not in each.shape]
    assert [shape for shape in rest if shape] == [KERNEL_SHARD]  # over the data axis; the others are scalars


def test_a_value_alone_takes_the_two_of_numbers_per_token():
    found = collectives(HEAD)
    assert sorted(each.shape for each in found if each.shape) == [(3, MINE, 1), (MINE, 1)]


def test_tokens_taken_in_chunks_take_theirs_chunk_by_chunk():
    function = jax.grad(partial(HEAD, chunk_size=64), (0, 1))
    shapes = sorted(each.shape for each in collectives(function) if each.shape)
    assert shapes == [(3, 64, 1), (EMBED, VOCAB // CLASSES), (64, 1), (MINE, EMBED)]


@pytest.mark.parametrize("spec", [P("data", "vocab"), pytest.param(P("data", None), marks=pytest.mark.slow)], ids=str)
def test_a_kernel_sharded_over_embed_is_gathered_for_a_device_s_own_classes_alone(spec):  # FSDP
    found = collectives(WITH_GRADIENTS["mean"], kernel=spec)
    gathered = [each.shape for each in found if each.kind == "all-gather"]
    assert gathered == [KERNEL_SHARD]


def test_without_a_vocabulary_axis_no_token_moves():
    function = partial(sharded_linear_cross_entropy, mesh=MESH, token_axes=("data", "vocab"))
    specs = {"hidden": P(("data", "vocab")), "labels": P(("data", "vocab")), "kernel": P()}
    found = collectives(jax.grad(function, 1), **specs)
    assert {each.kind for each in found} == {"all-reduce"}
    assert {each.shape for each in found} == {(), WHOLE_KERNEL}


def test_axes_of_a_kernel_sharded_over_embed_keep_their_order():  # processes with other hash seeds compile the same
    mesh = jax.make_mesh((2, 2, 2), ("b", "a", "vocab"), axis_types=(AxisType.Explicit,) * 3)
    hidden = jax.ShapeDtypeStruct((4, 6, 8), jnp.float32, sharding=NamedSharding(mesh, P()))
    kernel = jax.ShapeDtypeStruct((8, 32), jnp.float32, sharding=NamedSharding(mesh, P(("b", "a"), "vocab")))
    labels = jax.ShapeDtypeStruct((4, 6), jnp.int32, sharding=NamedSharding(mesh, P()))
    head = partial(sharded_linear_cross_entropy, mesh=mesh, token_axes=("b", "a"), vocab_axis="vocab")
    with jax.set_mesh(mesh):
        text = jax.jit(head).lower(hidden, kernel, labels).compile().as_text()
    assert "collective-permute" not in text


def test_this_reader_sees_a_gathered_kernel():
    everywhere = NamedSharding(MESH, P())
    found = collectives(lambda hidden, kernel, labels: jax.lax.with_sharding_constraint(2 * kernel, everywhere))
    assert any(each.kind == "all-gather" and each.shape[-1] == VOCAB for each in found)
