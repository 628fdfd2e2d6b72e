"""Logits sharded over classes under plain jit: no device gathers them, and the numbers are those of one device."""

import re
from functools import cache
from itertools import product

import jax
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import jaxsoftmax
from jaxsoftmax import forward_mode
from jaxsoftmax._reduction import blocked_cpu
from tests.row_functions import FUNCTIONS, arrays, value_and_gradient
from tests.tiers import in_tiers

pytestmark = [pytest.mark.mesh, pytest.mark.usefixtures("fresh_compilation")]
SHAPE = (8, 1024)
MESHES = {
    "4 shards": ((4,), ("vocab",), P(None, "vocab")),
    "2 x 4, tokens too": ((2, 4), ("data", "vocab"), P("data", "vocab")),
}
TYPES = {"Auto": AxisType.Auto, "Explicit": AxisType.Explicit}
MODULES = {"reverse": jaxsoftmax, "both modes": forward_mode}
MOVES = r"= \S+ (all-gather|all-to-all|collective-permute)"


def compiled(function, layout, types):
    """The program for arrays on the mesh, and the arrays."""
    sizes, names, spec = MESHES[layout]
    mesh = jax.make_mesh(sizes, names, axis_types=(TYPES[types],) * len(sizes), devices=jax.devices()[: np.prod(sizes)])
    with jax.set_mesh(mesh):
        specs = spec, P(spec[0]), spec
        placed = [jax.device_put(a, NamedSharding(mesh, s)) for a, s in zip(arrays(*SHAPE), specs, strict=True)]
        return jax.jit(function).lower(*placed).compile(), placed


@cache
def on_one_device(name, module):
    return jax.jit(value_and_gradient(FUNCTIONS[name], MODULES[module]))(*arrays(*SHAPE))


FIRST = [
    ("softmax", "reverse", "4 shards", "Auto"),
    ("integer labels", "reverse", "4 shards", "Explicit"),
    ("float labels", "reverse", "2 x 4, tokens too", "Auto"),
    ("training, integer", "reverse", "4 shards", "Auto"),
    ("token statistics", "reverse", "2 x 4, tokens too", "Explicit"),
    ("distillation", "reverse", "4 shards", "Explicit"),
]


@in_tiers(("name", "module", "layout", "types"), list(product(FUNCTIONS, MODULES, MESHES, TYPES)), FIRST)
def test_no_device_gathers_the_logits_and_the_numbers_are_right(name, module, layout, types):
    program, placed = compiled(value_and_gradient(FUNCTIONS[name], MODULES[module]), layout, types)
    assert re.findall(MOVES, program.as_text()) == []
    for got, expected in zip(program(*placed), on_one_device(name, module), strict=True):
        np.testing.assert_allclose(got, expected, rtol=8e-6, atol=1e-6 * np.max(np.abs(expected)))


PEERS = {
    "integer labels": lambda f, x, y, t: optax.softmax_cross_entropy_with_integer_labels(x, y),
    "float labels": lambda f, x, y, t: optax.softmax_cross_entropy(x, t),
    "softmax": lambda f, x, y, t: jax.nn.softmax(x),
    "log_softmax": lambda f, x, y, t: jax.nn.log_softmax(x),
    "logsumexp": lambda f, x, y, t: jax.nn.logsumexp(x, -1),
}


@in_tiers("name", PEERS, first=["integer labels", "softmax"])
def test_memory_of_a_device_is_that_of_the_peer(name):
    def temporaries(function):
        program, _ = compiled(value_and_gradient(function, jaxsoftmax), "4 shards", "Auto")
        return program.memory_analysis().temp_size_in_bytes

    shard = 4 * SHAPE[0] * SHAPE[1] // 4
    a_few_numbers_a_row = 64 * 4 * SHAPE[0]
    # XLA's CPU compiler keeps softmax's exponentials besides, for the centred derivative, and the margins of float
    # labels, which are summed twice; those of TPU and GPU keep neither.
    kept = shard if name in ("softmax", "float labels") else 0
    assert temporaries(FUNCTIONS[name]) <= max(temporaries(PEERS[name]), shard) + kept + a_few_numbers_a_row


def test_a_row_that_is_nan_on_every_shard_is_nan():
    x = arrays(*SHAPE)[0]
    x[0] = np.nan
    for name in ("logsumexp", "softmax", "integer labels"):
        program, placed = compiled(value_and_gradient(FUNCTIONS[name], jaxsoftmax), "4 shards", "Auto")
        placed[0] = jax.device_put(x, placed[0].sharding)
        for got in program(*placed):
            assert np.isnan(np.asarray(got)[0]).all(), name
            assert np.isfinite(np.asarray(got)[1:]).all(), name


def test_nan_of_one_shard_is_seen_under_class_weight_0():
    mesh = jax.make_mesh((4,), ("vocab",), axis_types=(AxisType.Auto,), devices=jax.devices()[:4])
    row = np.zeros((1, 8), np.float32)
    row[0, 6] = np.nan
    placed = jax.device_put(row, NamedSharding(mesh, P(None, "vocab")))
    weights = np.float32([0, *[1] * 7])

    def loss(x):
        return jaxsoftmax.cross_entropy(x, np.zeros(1, np.int32), class_weights=weights, reduction="none")

    assert np.isnan(jax.jit(loss)(placed)).all()


def test_among_several_devices_rows_are_not_taken_to_lie_on_one():
    assert jax.device_count() > 1
    assert not blocked_cpu.fits(jax.numpy.zeros(SHAPE))


def test_gathering_is_seen():
    program, _ = compiled(lambda x, y, t: x[:, ::-1].reshape(-1)[::3], "4 shards", "Auto")
    assert re.findall(MOVES, program.as_text())
