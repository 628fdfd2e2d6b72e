"""The sum without the maximum, as a CPU forms it: right wherever the maximum is, and under `jax.vmap` as cheap."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxsoftmax
from jaxsoftmax._reduction.chosen_rows_cpu import with_rows_replaced
from jaxsoftmax._reduction.remainder_cpu import remainder_of_rows

EPS = np.finfo(np.float32).eps


@jax.jit
def remainders(x):
    """r of each row: of x alone, with exponentials that are given, and with those kept."""
    maximum = jnp.max(x, -1, keepdims=True)
    e = jnp.exp(x - maximum)
    return [remainder_of_rows(x, maximum, (1,), *given) for given in ((), (e,), (e, True))]


# Short rows in two sums, whole ones, cut ones, and some that can't be cut.
@pytest.mark.parametrize("width", [2, 28, 32, 33, 255, 256, 257, 1000, 8191, 8192])
def test_remainder_keeps_its_digits_wherever_the_maximum_is(width):
    places = [0, width // 2, width - 1]
    x = np.random.default_rng(width).normal(size=(2 * len(places) + 2, width)).astype(np.float32) - 30
    x[range(len(places)), places] = 0  # confident rows
    x[-2, [0, width - 1]] = 0  # two maxima: not confident
    x[-1] = 1.5
    e = np.exp(x.astype(np.float64) - np.max(x, -1, keepdims=True))
    expected = np.sort(e)[:, :-1].sum(-1, keepdims=True)
    for got in remainders(x):
        np.testing.assert_allclose(got, expected, rtol=(4 + width**0.5) * EPS)


def test_rows_chosen_under_vmap_are_those_of_the_batch():
    rows = jnp.arange(24.0).reshape(2, 3, 4)
    chosen = jnp.array([[True, False, True], [False, False, True]])

    def replaced(chosen, rows):
        return with_rows_replaced(lambda i, rows: -rows[i, -1], chosen, jnp.zeros(3), rows, width=4)

    expected = jnp.where(chosen, -rows[..., -1], 0)
    np.testing.assert_array_equal(jax.vmap(replaced)(chosen, rows), expected)
    np.testing.assert_array_equal(jax.vmap(replaced, (0, None))(chosen, rows[0]), jnp.where(chosen, -rows[0, :, -1], 0))
    twice = jax.vmap(jax.vmap(replaced))(jnp.stack([chosen, ~chosen]), jnp.stack([rows, rows]))
    np.testing.assert_array_equal(twice, [expected, jnp.where(chosen, 0, -rows[..., -1])])


@pytest.mark.usefixtures("fresh_compilation")
@pytest.mark.skipif(jax.default_backend() != "cpu", reason="this is the CPU's schedule")
def test_loss_of_one_token_under_vmap_is_the_program_of_the_batch():
    arrays = jax.ShapeDtypeStruct((512, 1000), jnp.float32), jax.ShapeDtypeStruct((512,), jnp.int32)

    def compiled(function):
        program = jax.jit(function).lower(*arrays).compile()
        text = program.as_text()
        return program.memory_analysis().temp_size_in_bytes, text.count(" exponential("), text.count(" conditional(")

    memory, *counts = compiled(jax.vmap(jax.value_and_grad(jaxsoftmax.cross_entropy)))
    of_batch, *counts_of_batch = compiled(
        jax.value_and_grad(lambda x, y: jaxsoftmax.cross_entropy(x, y, reduction="sum"))
    )
    assert counts == counts_of_batch
    assert memory <= 1.1 * of_batch
