"""Token statistics, sparse labels, loss parts and distillation in forward mode: as in reverse mode."""

from functools import partial

import jax
import numpy as np
import pytest

import jaxsoftmax
from jaxsoftmax import forward_mode
from tests.generated_programs import FUNCTIONS, drawn, generated, total_of
from tests.tiers import in_tiers

NUMBERS = {"stats": 3, "sparse": 8, "integer": 3, "distillation": 8}
of_each = in_tiers(("family", "level"), FUNCTIONS, first=[("stats", "head"), ("distillation", "rows")])


def case(family, level):
    program = generated(family, level, NUMBERS[family])._replace(traced=False)
    return program, drawn(program, 0, "float32")


def outputs(program, numbers, module):
    """What a call outside of jit returns."""
    returned = []

    def call(**given):
        returned.append(getattr(module, FUNCTIONS[program.family, program.level])(**given))
        return returned[0]

    total_of(program, numbers.arrays, numbers.fixed, program.constants, call)
    return returned[0]


@of_each
def test_values_of_the_forward_mode_variant_are_the_same_bit_for_bit(family, level):
    program, numbers = case(family, level)
    one, other = (outputs(program, numbers, module) for module in (jaxsoftmax, forward_mode))
    jax.tree.map(np.testing.assert_array_equal, one, other)


@of_each
def test_forward_and_reverse_mode_of_the_variant_have_the_gradients_of_reverse_mode(family, level):
    program, numbers = case(family, level)
    name = FUNCTIONS[family, level]

    def total(arrays, module):
        return total_of(program, arrays, numbers.fixed, program.constants, getattr(module, name))[0]

    @jax.jit
    def gradients(arrays):
        of_variant = partial(total, module=forward_mode)
        return jax.grad(total)(arrays, jaxsoftmax), jax.grad(of_variant)(arrays), jax.jacfwd(of_variant)(arrays)

    expected, *others = gradients(numbers.arrays)
    for other in others:
        for of, gradient in other.items():
            assert gradient.dtype == expected[of].dtype
            error = np.linalg.norm(gradient - expected[of])
            assert error <= 4 * np.finfo(np.float32).eps * np.linalg.norm(expected[of]), of


def test_reverse_mode_alone_refuses_jacfwd():
    x, y = np.zeros((2, 3), np.float32), np.zeros(2, np.int32)
    for function in (lambda x: jaxsoftmax.token_stats(x, y).entropy, lambda x: jaxsoftmax.distillation(x, x)):
        with pytest.raises(TypeError, match="forward-mode"):
            jax.jacfwd(function)(x)
