"""Token statistics, sparse labels, loss parts and distillation with classes, and tokens, sharded over four devices."""

from functools import partial

import jax
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

import jaxsoftmax
from jaxsoftmax import forward_mode
from tests.generated_programs import FEW, FUNCTIONS, assert_is_textbook, generated
from tests.tiers import in_tiers

pytestmark = pytest.mark.mesh
CLASSES = {1: P("vocab"), 2: P(None, "vocab"), 3: P(None, None, "vocab")}
OF_CLASSES = ("class_weights", "bias", "teacher_bias", "kernel", "teacher_kernel", "logits", "teacher_logits")
FIRST = [("sparse", "rows", 8), ("distillation", "head", 7)]


def sharded(function, transposed):
    """The function in a `jax.shard_map` over four shards of the classes, called as it is."""

    def call(**arguments):
        # Strings and numbers known when tracing stay outside.
        arrays = {name: each for name, each in arguments.items() if hasattr(each, "shape") or name == "labels"}
        known = {name: each for name, each in arguments.items() if name not in arrays}
        specs = {name: _spec(name, each, transposed) for name, each in arrays.items()}
        mesh = jax.make_mesh((4,), ("vocab",), axis_types=(AxisType.Auto,))

        def local(given):
            return function(**given, **known, axis_name="vocab")

        return jax.shard_map(local, mesh=mesh, in_specs=(specs,), out_specs=P())(arrays)

    return call


def _spec(name, array, transposed):
    if name == "kernel" and transposed:
        return P("vocab")
    return CLASSES[array.ndim] if name in OF_CLASSES else P()


CASES = [(*function, number) for function in FUNCTIONS for number in FEW]


@pytest.mark.parametrize(
    "module", [jaxsoftmax, pytest.param(forward_mode, marks=pytest.mark.slow)], ids=["", "forward"]
)
@in_tiers(("family", "level", "number"), CASES, FIRST)
def test_functions_of_sharded_classes_are_the_textbook(family, level, number, module):  # (M22)
    program = generated(family, level, number, vocab=(12, 4, 28)[number % 3])
    function = getattr(module, FUNCTIONS[family, level])
    call = sharded(function, program.keywords.get("transposed_kernel"))
    if module is forward_mode and (family, level) == ("distillation", "head") and jax.__version_info__ < (0, 11):
        with pytest.raises(NotImplementedError, match=r"^axis_name: expected JAX 0\.11 or later"):
            assert_is_textbook(program, "float32", call=call)
        return
    assert_is_textbook(program, "float32", call=call)


MESHES = {"2x2": ((2, 2), "vocab"), "4 tokens": ((4, 1), None), "4 classes": ((1, 4), "vocab")}
GLOBAL = [(mesh, family, number) for mesh in MESHES for family in ("sparse", "integer") for number in FEW]


@pytest.mark.slow
@pytest.mark.parametrize(("layout", "family", "number"), GLOBAL)
def test_the_head_of_global_arrays_is_the_textbook(layout, family, number):  # (M22, M31, M33)
    shape, vocab_axis = MESHES[layout]
    mesh = jax.make_mesh(shape, ("data", "vocab"), axis_types=(AxisType.Auto,) * 2)
    head = partial(jaxsoftmax.sharded_linear_cross_entropy, mesh=mesh, token_axes="data", vocab_axis=vocab_axis)
    assert_is_textbook(generated(family, "head", number), "float32", call=head)


def test_shards_that_are_not_merged_are_caught():
    def of_own_classes(**given):
        given.pop("axis_name")
        return jax.lax.pmean(jaxsoftmax.cross_entropy(**given), "vocab")

    program = generated("sparse", "rows", 4, vocab=12)._replace(traced=False)
    with pytest.raises(AssertionError):
        assert_is_textbook(program, "float32", draws=range(1), call=sharded(of_own_classes, False))
