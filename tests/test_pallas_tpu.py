"""The Pallas kernel for TPU gives the statistics that logits give, without a race, and TPU's compiler takes it."""

import os
import subprocess
import sys
from importlib.util import find_spec

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax._src.pallas.mosaic.interpret import interpret_pallas_call
from jax.experimental.pallas import tpu as pltpu

import jaxsoftmax
from jaxsoftmax import _integer_labels
from jaxsoftmax._head import pallas_tpu
from jaxsoftmax._head.problem import HeadInputs, logits_of
from jaxsoftmax._integer_labels import LOSSES, LabelledTokens
from jaxsoftmax._math.loss_options import LossOptions
from jaxsoftmax._objective import Objective
from jaxsoftmax._sharding import NOT_SHARDED, Shards
from jaxsoftmax._token_labels import token_labels
from tests.tiers import in_tiers

TOKENS, EMBED, VOCAB = 20, 24, 300  # two and a half blocks of tokens, two and a bit of classes
RNG = np.random.default_rng(0)
HIDDEN = RNG.normal(size=(TOKENS, EMBED))
KERNEL = 3 * RNG.normal(size=(EMBED, VOCAB))
BIAS = RNG.normal(size=VOCAB)
WEIGHTS = RNG.integers(0, 3, VOCAB) * (np.arange(VOCAB) < 290)  # of classes, among them 0, as of padding
LABELS = RNG.integers(0, VOCAB, TOKENS)
CASES = {
    "plain": {},
    "bfloat16": {"dtype": "bfloat16"},
    "bias, capped": {"bias": True, "options": LossOptions(logit_softcap=4.0)},
    "smoothed": {"options": LossOptions(label_smoothing=0.1)},
    "smoothed, weighted": {"weights": True, "options": LossOptions(label_smoothing=0.1, z_loss=0.01)},
    "padded": {"weights": True, "shards": Shards(unpadded=290), "options": LossOptions(label_smoothing=0.1)},
    "a class so likely that only its tail is left": {"gap": 60.0},
    "one token": {"tokens": 1},
    "one block": {"vocab": 100},
}


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(pallas_tpu, "_BLOCKS", ((8, 128),))
    yield
    pltpu.reset_tpu_interpret_mode_state()


def problem(dtype="float32", bias=False, weights=False, gap=0.0, tokens=TOKENS, vocab=VOCAB, **others):
    kernel, labels = np.array(KERNEL[:, :vocab]), LABELS[:tokens] % vocab
    hidden = np.array(HIDDEN[:tokens])
    if gap:
        hidden[:, 0], kernel[0] = 1, 0
        kernel[0, labels] = gap
    options, shards = others.get("options", LossOptions()), others.get("shards", NOT_SHARDED)
    inputs = HeadInputs(
        jnp.asarray(hidden, dtype), jnp.asarray(kernel, dtype), jnp.asarray(BIAS, dtype) if bias else None
    )
    tokens = LabelledTokens(token_labels(options, NOT_SHARDED, jnp.asarray(labels), vocab))
    return shards, inputs, Objective(LOSSES, options, tokens, jnp.asarray(WEIGHTS[:vocab]) if weights else None)


def by_kernel(shards, inputs, objective):
    return pallas_tpu.shard_stats(shards, pltpu.InterpretParams(detect_races=True), inputs, objective)


def by_logits(shards, inputs, objective):
    return _integer_labels.shard_stats(objective, shards, logits_of(inputs.hidden, inputs))


@in_tiers("name", CASES, first=["smoothed, weighted", "bfloat16"])
def test_statistics_are_those_of_the_logits(name):
    case = problem(**CASES[name])
    got, expected = by_kernel(*case), by_logits(*case)
    assert not interpret_pallas_call.races.races_found
    for one, other in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(one, other, rtol=2e-6, atol=1e-30 if name.startswith("a class") else 1e-5)


def test_a_block_that_is_not_joined_to_those_before_is_caught(monkeypatch):
    case = problem()
    monkeypatch.setattr(pallas_tpu.lse_state, "joined", lambda one, other: other)
    with pytest.raises(AssertionError):
        np.testing.assert_allclose(by_kernel(*case).state, by_logits(*case).state, rtol=1e-3)


def test_derivatives_are_those_of_the_logits():
    shards, inputs, objective = problem(bias=True)

    def tangents(statistics):
        def state(inputs):
            return statistics(shards, inputs, objective).state

        return jax.tree.leaves(jax.jvp(state, (inputs,), (inputs,))[1])

    for one, other in zip(tangents(by_kernel), tangents(by_logits), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)


def test_off_a_tpu_it_is_the_platform_s_own_schedule():
    arguments = np.float32(HIDDEN), np.float32(KERNEL), LABELS
    own, asked_for = (jaxsoftmax.linear_cross_entropy(*arguments, schedule=name) for name in (None, "pallas"))
    assert own == asked_for


SIZE, OTHER = jax.export.symbolic_shape("n, v")
UNSUITABLE = {
    "no token": (((0, 4), "float32"), ((4, 7), "float32"), ((0,), "int32")),
    "symbolic sizes": (((SIZE, 4), "float32"), ((4, OTHER), "float32"), ((SIZE,), "int32")),
    "two dtypes": (((3, 4), "bfloat16"), ((4, 7), "float32"), ((3,), "int32")),
    "float16": (((3, 4), "float16"), ((4, 7), "float16"), ((3,), "int32")),
}


@pytest.mark.parametrize("name", UNSUITABLE)
def test_what_it_does_not_take_goes_by_the_platform_s_own_schedule(name):
    arrays = [jax.ShapeDtypeStruct(*array) for array in UNSUITABLE[name]]
    head = jax.jit(lambda *a: jaxsoftmax.linear_cross_entropy(*a, schedule="pallas"))
    assert "tpu_custom_call" not in jax.export.export(head, platforms=["tpu"])(*arrays).mlir_module()


def test_what_it_takes_is_a_kernel_on_a_tpu_alone():
    arrays = [jax.ShapeDtypeStruct(*a) for a in (((16, 128), "bfloat16"), ((128, 256), "bfloat16"), ((16,), "int32"))]
    head = jax.jit(lambda *a: jaxsoftmax.linear_cross_entropy(*a, schedule="pallas"))
    texts = [jax.export.export(head, platforms=[name])(*arrays).mlir_module() for name in ("tpu", "cuda")]
    assert ["tpu_custom_call" in text for text in texts] == [True, False]


def test_another_name_is_refused():
    with pytest.raises(ValueError, match="schedule: expected 'pallas' or None, got 'triton'"):
        jaxsoftmax.linear_cross_entropy(HIDDEN, KERNEL, LABELS, schedule="triton")


COMPILE = """
import sys, jax, jax.numpy as jnp, jaxsoftmax
from jax.sharding import SingleDeviceSharding
from jaxsoftmax.bench._targets import target
one = SingleDeviceSharding(target(sys.argv[1]).devices[0])
def array(shape, dtype):
    return jax.ShapeDtypeStruct(shape, dtype, sharding=one)
def loss(hidden, kernel, labels, bias):
    return jaxsoftmax.linear_cross_entropy(hidden, kernel, labels, bias=bias, schedule="pallas", label_smoothing=0.1)
shapes = {"bfloat16": [(8192, 4096, 128256), (17, 64, 99)], "float32": [(1000, 768, 50257)]}
for dtype, (n, d, v) in ((dtype, shape) for dtype in shapes for shape in shapes[dtype]):
    arrays = array((n, d), dtype), array((d, v), dtype), array((n,), "int32"), array((v,), dtype)
    compiled = jax.jit(loss).lower(*arrays).compile()
    assert "tpu_custom_call" in compiled.as_text()
    # At most a copy of a ragged kernel in another layout: the logits would take 4 n v.
    assert compiled.memory_analysis().temp_size_in_bytes < (1 << 20) + min(4.4 * d * v, 3.6 * n * v)
"""


@pytest.mark.slow
@pytest.mark.skipif(find_spec("libtpu") is None, reason="libtpu, the compiler for TPU, isn't installed")
@pytest.mark.parametrize("chip", ["tpu:v5e:2x2", "tpu:v5p:2x2x1", "tpu:v6e:2x2"])
def test_the_compiler_for_tpu_takes_it(chip):
    done = subprocess.run([sys.executable, "-c", COMPILE, chip], env=os.environ, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
