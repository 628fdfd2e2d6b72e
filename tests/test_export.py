"""`jax.export` with symbolic sizes, for every platform from this one; as jax.nn and optax allow."""

from functools import partial
from itertools import product

import jax
import numpy as np
import pytest

import jaxsoftmax
from jaxsoftmax import forward_mode, linear_cross_entropy
from tests.row_functions import FUNCTIONS, arrays, value_and_gradient
from tests.tiers import in_tiers

PLATFORMS = ("cpu", "cuda", "tpu")
BATCH, VOCAB = jax.export.symbolic_shape("b, v")
MODULES = {"reverse": jaxsoftmax, "both modes": forward_mode}
FIRST = ("softmax", "integer labels", "training, integer")


def symbolic(function, *shapes):
    """The function exported with arguments of these shapes; integers where there is one dimension."""
    dtypes = [np.int32 if len(shape) == 1 else np.float32 for shape in shapes]
    specs = [jax.ShapeDtypeStruct(shape, dtype) for shape, dtype in zip(shapes, dtypes, strict=True)]
    return jax.export.export(jax.jit(function), platforms=PLATFORMS)(*specs)


@pytest.mark.parametrize("module", ["reverse", pytest.param("both modes", marks=pytest.mark.slow)])
@in_tiers("name", FUNCTIONS, FIRST)
def test_value_and_gradient_of_logits_of_any_shape(name, module):
    function = value_and_gradient(FUNCTIONS[name], MODULES[module])
    program = symbolic(function, (BATCH, VOCAB), (BATCH,), (BATCH, VOCAB))
    got = jax.jit(program.call)(*arrays(4, 7))
    for value, expected in zip(got, jax.jit(function)(*arrays(4, 7)), strict=True):
        np.testing.assert_allclose(value, expected, rtol=4e-6, atol=1e-6)


SIZES = {"batch": (BATCH, 4, 7), "vocab": (5, 4, VOCAB), "both": (BATCH, 4, VOCAB)}
KEYWORDS = {"ignore_index": {"ignore_index": 3, "label_smoothing": 0.1}, "plain": {}, "chunk_size": {"chunk_size": 2}}


@in_tiers(("sizes", "keywords"), list(product(SIZES, KEYWORDS)), first=[("vocab", "plain"), ("both", "ignore_index")])
def test_value_and_gradients_of_the_head_of_any_size(sizes, keywords):
    def head(hidden, kernel, labels):
        loss = partial(linear_cross_entropy, labels=labels, **KEYWORDS[keywords])
        return jax.value_and_grad(loss, (0, 1))(hidden, kernel)

    tokens, embed, vocab = SIZES[sizes]
    program = symbolic(head, (tokens, embed), (embed, vocab), (tokens,))
    hidden, labels, _ = arrays(5, 4)
    kernel = arrays(4, 7)[0] / 10
    got, expected = (f(hidden, kernel, labels) for f in (jax.jit(program.call), jax.jit(head)))
    for value, right in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(value, right, rtol=4e-6, atol=1e-6)
