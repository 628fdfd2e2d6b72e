"""Integer labels of every dtype: each names its own class or none, and none takes another's place."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsoftmax import (
    analytic,
    cross_entropy,
    forward_mode,
    linear_cross_entropy,
    logsumexp,
    softmax,
    softmax_cross_entropy_with_integer_labels,
)

HIDDEN, KERNEL, LOGITS = np.zeros((2, 1), np.float32), np.zeros((1, 3), np.float32), np.zeros((2, 3), np.float32)
LOSSES = {
    "drop-in": lambda y, **keywords: softmax_cross_entropy_with_integer_labels(LOGITS, y),
    "training loss": lambda y, **keywords: cross_entropy(LOGITS, y, reduction="none", **keywords),
    "head": lambda y, **keywords: linear_cross_entropy(HIDDEN, KERNEL, y, reduction="none", **keywords),
    "forward mode": lambda y, **keywords: forward_mode.cross_entropy(LOGITS, y, reduction="none", **keywords),
}
of_every_loss = pytest.mark.parametrize("loss", LOSSES)


@of_every_loss
@pytest.mark.parametrize("label", [2**32, -(2**63), 2**32 - 1])
def test_label_that_jax_would_make_another_number_is_an_error(loss, label):
    with pytest.raises(ValueError, match=rf"labels: expected integers in the range of int32, got {label}"):
        jax.jit(lambda: LOSSES[loss](np.array([1, label])))()


@pytest.mark.parametrize("value", [[1, 2**40], [np.int64(2**40), np.int64(1)]])
def test_so_is_one_in_a_list(value):
    with pytest.raises(ValueError, match=r"labels: expected .* range"):
        cross_entropy(LOGITS, value)


def test_so_is_one_of_a_closed_form():
    with pytest.raises(ValueError, match=r"labels: expected integers in the range of int32, got 4294967296"):
        analytic.cross_entropy_gradient(LOGITS, np.array([1, 2**32]))


@pytest.mark.parametrize("loss", ["training loss", "head", "forward mode"])
def test_label_is_ignored_only_where_it_is_ignore_index(loss):
    labels = {dtype: np.array([1, -100]).astype(dtype) for dtype in ("int32", "int16", "int8", "uint32", "uint8")}
    losses = jax.jit(lambda: {dtype: LOSSES[loss](y, ignore_index=-100) for dtype, y in labels.items()})()
    for dtype in labels:
        second = np.nan if dtype.startswith("uint") else 0
        np.testing.assert_allclose(losses[dtype], [np.log(3), second], rtol=1e-6)


def test_labels_of_64_bits_are_compared_with_all_of_them():
    labels = np.array([2**32 + 1, 1])
    with jax.enable_x64(True):
        for dtype in ("int64", "uint64"):
            losses = cross_entropy(LOGITS, jnp.asarray(labels.astype(dtype)), ignore_index=1, reduction="none")
            np.testing.assert_array_equal(losses, [np.nan, 0])


def test_labels_of_16_bits_compile():
    """jaxlib 0.12 can't choose instructions for such labels on CPUs with AVX-512, if they stay of 16 bits."""

    def loss(x, labels):
        return forward_mode.cross_entropy(x, labels, logit_softcap=30.0)

    value, gradient = jax.jit(jax.value_and_grad(loss))(np.zeros((4, 7), np.float32), np.arange(4, dtype=np.int16))
    np.testing.assert_allclose(value, np.log(7), rtol=1e-6)
    np.testing.assert_allclose(gradient, (1 / 7 - np.eye(4, 7)) / 4, rtol=1e-6)


def test_other_arguments_of_64_bits_are_numbers_of_any_size():
    large = np.array([2**40, 2**40])
    np.testing.assert_allclose(jax.jit(lambda: logsumexp(large))(), 2.0**40, rtol=1e-6)
    np.testing.assert_array_equal(jax.jit(lambda: softmax(large))(), [0.5, 0.5])
    loss = jax.jit(lambda: cross_entropy(LOGITS, np.array([1, 0]), token_weights=large, reduction="none"))()
    np.testing.assert_allclose(loss, 2.0**40 * np.log(3), rtol=1e-6)
