"""Which program a row reduction is on which platform: the default is one pass, and the CPU's gives the same numbers."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxsoftmax
from jaxsoftmax import forward_mode
from jaxsoftmax._reduction import blocked_cpu, one_pass
from jaxsoftmax._reduction.chosen_rows_cpu import BLOCK
from tests.row_functions import FUNCTIONS, arrays, value_and_gradient

SHAPE = (6, 640)
FORBIDDEN = r"stablehlo\.(slice|dynamic_slice|gather|scatter|while|if|bitcast_convert)\b"


def exported(function, platform):
    """The text of the program that this process, which has a CPU alone, makes for a platform."""
    shapes = [jax.ShapeDtypeStruct(SHAPE[: array.ndim], array.dtype) for array in arrays(*SHAPE)]
    return jax.export.export(jax.jit(function), platforms=[platform])(*shapes).mlir_module()


def choices_by_data(text):
    """The booleans by which the program chooses; the platform, of which it knows in other ways, is none."""
    found = []
    for function in text.split("func.func"):
        defined = dict(re.findall(r"(%\w+) = (stablehlo.convert .*tensor<i1>)", function))
        found += [defined[by] for by in re.findall(r'"stablehlo.case"\((%\w+)\)', function) if by in defined]
    return found


@pytest.mark.parametrize("platform", ["tpu", pytest.param("cuda", marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_on_an_accelerator_there_is_no_slice_loop_or_choice_and_one_entry_a_row_is_gathered_at_most(name, platform):
    text = exported(value_and_gradient(FUNCTIONS[name], jaxsoftmax), platform)
    assert set(re.findall(FORBIDDEN, text)) <= {"gather"}
    read = re.findall(r"stablehlo\.gather.* -> tensor<(\S+)xf32>", text)
    assert len(read) == text.count('"stablehlo.gather"')
    assert set(read) <= ({f"{SHAPE[0]}x1"} if name == "softmax" else set())
    assert choices_by_data(text) == []
    # Of a few numbers a row alone: of whole rows, fusion would end there.
    assert not [line for line in text.splitlines() if "optimization_barrier" in line and f"x{SHAPE[1]}x" in line]


def test_on_a_cpu_confident_rows_are_fetched_in_a_loop():
    text = exported(value_and_gradient(FUNCTIONS["logsumexp"], jaxsoftmax), "cpu")
    assert {"while", "gather"} <= set(re.findall(FORBIDDEN, text))


def test_a_choice_by_data_is_seen():
    text = exported(lambda x, y, t: jax.lax.cond(x[0, 0] > 0, jnp.sin, jnp.cos, x), "tpu")
    assert choices_by_data(text)


@pytest.mark.parametrize("width", [1, 7, 1000])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_first_maximum_is_numpys_on_a_cpu_too(width, dtype):
    tokens = BLOCK // width + 3 if width == 1000 else 50  # of two batches: one block, or two and a few rows more
    x = np.random.default_rng(0).integers(-3, 4, (2, tokens, width)).astype(jnp.dtype(dtype))
    x[x > 2], x[0, 3], x[1, 4, : width // 2], x[1, 5] = 2, -np.inf, np.inf, 0.0
    x[0, ::9, width // 2 :], x[1, 6, -1], x[1, 5, ::2] = np.nan, np.nan, -0.0
    for schedule in (blocked_cpu, one_pass):
        np.testing.assert_array_equal(jax.jit(schedule.first_maximum)(x), np.argmax(x, -1), schedule.__name__)


FIRST = ("logsumexp", "softmax", "integer labels", "float labels", "training, integer")
OTHERS = tuple(name for name in FUNCTIONS if name not in FIRST)
MODULES = [jaxsoftmax, pytest.param(forward_mode, marks=pytest.mark.slow)]


@pytest.mark.parametrize("names", [FIRST, pytest.param(OTHERS, marks=pytest.mark.slow)], ids=["first", "others"])
@pytest.mark.parametrize("module", MODULES, ids=["reverse", "both modes"])
@pytest.mark.parametrize("width", [640, pytest.param(10, marks=pytest.mark.slow)])
def test_either_schedule_gives_the_same_numbers(width, module, names, monkeypatch):
    def run(here):
        monkeypatch.setattr(blocked_cpu, "_on_one_device", lambda: here)
        jax.clear_caches()
        functions = {name: value_and_gradient(FUNCTIONS[name], module) for name in names}
        return jax.jit(lambda *a: {name: function(*a) for name, function in functions.items()})(*arrays(6, width))

    on_cpu, elsewhere = run(True), run(False)
    for name in names:
        for got, expected in zip(on_cpu[name], elsewhere[name], strict=True):
            scale = np.max(np.abs(expected), initial=1e-30, where=np.isfinite(expected))
            np.testing.assert_allclose(got, expected, rtol=4e-6, atol=2e-7 * scale, err_msg=name)
