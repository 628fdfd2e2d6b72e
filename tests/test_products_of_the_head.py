"""The matrix products of the heads: their dtype and precision; and constants that are traced."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from jaxsoftmax import SparseLabels, distillation, forward_mode, linear_cross_entropy, linear_token_stats, token_stats
from tests.tiers import in_tiers

rng = np.random.default_rng(0)
HIDDEN, KERNEL = rng.normal(size=(6, 4)).astype(np.float32), rng.normal(size=(4, 13)).astype(np.float32)
LABELS = rng.integers(0, 13, 6).astype(np.int32)
SPARSE = SparseLabels(rng.integers(0, 13, (6, 2)).astype(np.int32), rng.random((6, 2), np.float32))


def losses(head, hidden, kernel, **keywords):
    return jnp.sum(head(hidden, kernel, LABELS, reduction="none", chunk_size=4, **keywords) ** 2)


def mean_of_sparse(head, hidden, kernel, **keywords):
    return head(hidden, kernel, SPARSE, chunk_size=4, **keywords)


def statistics(head, hidden, kernel, **keywords):
    log_prob, entropy, *_ = head(hidden, kernel, LABELS, chunk_size=4, **keywords)
    return jnp.sum(log_prob * entropy)


TOTALS = {
    "losses": partial(losses, linear_cross_entropy),
    "mean of sparse labels": partial(mean_of_sparse, linear_cross_entropy),
    "statistics": partial(statistics, linear_token_stats),
    "statistics in forward mode": partial(statistics, forward_mode.linear_token_stats),
    "mean in forward mode": partial(mean_of_sparse, forward_mode.linear_cross_entropy),
}
of_each = in_tiers("name", TOTALS, first=["losses"])


def with_gradients(name, **keywords):
    return jax.jit(jax.value_and_grad(partial(TOTALS[name], **keywords), (0, 1)))


@of_each
def test_products_of_a_dtype_are_those_of_arguments_of_it_and_gradients_keep_the_arguments_dtype(name):
    narrow = [array.astype(jnp.bfloat16) for array in (HIDDEN, KERNEL)]
    expected, of_narrow = with_gradients(name)(*narrow)
    value, gradients = with_gradients(name, dtype=jnp.bfloat16)(HIDDEN, KERNEL)
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    for gradient, rounded in zip(gradients, of_narrow, strict=True):
        assert gradient.dtype == np.float32
        rounded = np.asarray(rounded, np.float32)
        assert np.linalg.norm(gradient - rounded) <= 2.0**-8 * np.linalg.norm(rounded)


def test_the_gradient_of_a_float32_kernel_is_not_rounded_to_the_dtype_of_the_products():
    _, (_, by_kernel) = with_gradients("statistics", dtype=jnp.bfloat16)(HIDDEN, KERNEL)
    assert np.any(by_kernel != by_kernel.astype(jnp.bfloat16).astype(np.float32))


@of_each
def test_precision_is_that_of_every_product(name):
    def text(**keywords):
        return with_gradients(name, **keywords).lower(HIDDEN, KERNEL).as_text()

    for precision in (jax.lax.Precision.HIGHEST, "highest", "float32"):
        program = text(precision=precision)
        products = [line for line in program.splitlines() if "stablehlo.dot_general" in line]
        assert products
        assert all("HIGHEST" in line for line in products)
    assert "HIGHEST" not in text()


CONSTANTS = {
    "temperature of statistics": lambda t: jnp.sum(token_stats(HIDDEN, LABELS % 4, temperature=t).entropy),
    "temperature of a head": lambda t: jnp.sum(linear_token_stats(HIDDEN, KERNEL, LABELS, temperature=t).log_prob),
    "temperature of distillation": lambda t: distillation(HIDDEN, HIDDEN[:, ::-1], temperature=t),
    "soft cap": lambda c: jnp.sum(linear_token_stats(HIDDEN, KERNEL, LABELS, logit_softcap=c).entropy),
    "z-loss": lambda z: linear_cross_entropy(HIDDEN, KERNEL, SPARSE, z_loss=z),
    "label smoothing": lambda eps: linear_cross_entropy(HIDDEN, KERNEL, LABELS, label_smoothing=eps),
}


@in_tiers("name", CONSTANTS, first=["temperature of statistics", "label smoothing"])
def test_a_traced_constant_gives_what_a_known_one_gives_and_has_no_gradient(name):
    traced = jax.jit(jax.value_and_grad(CONSTANTS[name]))
    for number in (0.5, 0.75):
        value, gradient = traced(number)
        np.testing.assert_allclose(value, CONSTANTS[name](number), rtol=2e-6)
        assert gradient == 0
    assert traced._cache_size() == 1


@in_tiers("chunk_size", [None, 4], first=[4])
def test_an_embedding_table_of_float32_may_be_multiplied_in_bfloat16(chunk_size):
    def totals(hidden, table):  # XLA CPU folds the transpose of a gradient into its product, and then can't run it
        wanted = {"transposed_kernel": True, "dtype": jnp.bfloat16, "chunk_size": chunk_size}
        loss = linear_cross_entropy(hidden.T, table, LABELS, **wanted)
        return loss - jnp.sum(linear_token_stats(hidden.T, table, LABELS, **wanted).log_prob)

    def textbook(hidden, table):
        narrow = (array.astype(jnp.bfloat16).astype(jnp.float32) for array in (hidden.T, table.T))
        logits = jnp.dot(*narrow)
        nll = -jnp.take_along_axis(jax.nn.log_softmax(logits), LABELS[:, None], -1)
        return jnp.mean(nll) + jnp.sum(nll)

    arguments = HIDDEN.T.copy(), KERNEL.T.copy()
    got, expected = jax.jit(jax.grad(totals, (0, 1)))(*arguments), jax.grad(textbook, (0, 1))(*arguments)
    for one, other in zip(got, expected, strict=True):
        assert one.dtype == jnp.float32
        assert np.linalg.norm(one - other) <= 1e-2 * np.linalg.norm(other)
