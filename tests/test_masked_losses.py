"""A loss that is masked afterwards has gradient 0 in logits, hidden states and kernel, whatever its label is."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsoftmax import (
    SparseLabels,
    cross_entropy,
    forward_mode,
    linear_cross_entropy,
    linear_token_stats,
    softmax_cross_entropy_with_integer_labels,
    token_stats,
)
from tests.tiers import in_tiers

RNG = np.random.default_rng(0)
LOGITS, KERNEL, BIAS = (RNG.normal(size=size).astype(np.float32) for size in ((5, 4), (4, 4), (4,)))
PADDED = np.array([1, -100, 3, 4, -1], np.int32)  # 1 and 3 are classes
MASK = (PADDED >= 0) & (PADDED < 4)
CLASSES = np.where(MASK, PADDED, 0)
EVERYTHING = {
    "label_smoothing": 0.1,
    "z_loss": 0.01,
    "logit_softcap": 5.0,
    "class_weights": np.array([1, 2, 0, 3], np.float32),
}


def of_rows(loss, **options):
    """The losses of rows of logits."""
    return lambda logits, labels: loss(logits, labels, **options)


def of_head(loss, **options):
    """The losses of the fused head, whose hidden states are the logits of the others."""
    return lambda hidden, kernel, bias, labels: loss(hidden, kernel, labels, bias=bias, **options)


def sparse(losses):
    """Losses with each label as a half of two."""

    def of_halves(*arrays_and_labels):
        *arrays, labels = arrays_and_labels
        two = jnp.stack([labels, jnp.zeros_like(labels)], -1)
        return losses(*arrays, SparseLabels(two, jnp.full(two.shape, 0.5)))

    return of_halves


def log_prob(stats):
    """The log-probabilities of labels."""
    return lambda *arrays_and_labels: stats(*arrays_and_labels).log_prob


ROWS, HEAD = (functools.partial(of_rows, cross_entropy), functools.partial(of_head, linear_cross_entropy))
LOSSES = {
    "drop-in": of_rows(softmax_cross_entropy_with_integer_labels),
    "rows": ROWS(reduction="none"),
    "rows, every keyword": ROWS(reduction="none", **EVERYTHING),
    "head": HEAD(reduction="none"),
    "head, every keyword": HEAD(reduction="none", **EVERYTHING),
    "head, a block of classes at a time": HEAD(reduction="none", memory_budget=1),
    "sparse rows": sparse(ROWS(reduction="none")),
    "sparse rows, every keyword": sparse(ROWS(reduction="none", **EVERYTHING)),
    "sparse head": sparse(HEAD(reduction="none")),
    "statistics": log_prob(of_rows(token_stats)),
    "statistics of the head": log_prob(of_head(linear_token_stats)),
    "forward mode, rows": of_rows(forward_mode.cross_entropy, reduction="none"),
    "forward mode, sparse rows": sparse(of_rows(forward_mode.cross_entropy, reduction="none")),
    "forward mode, sparse head": sparse(of_head(forward_mode.linear_cross_entropy, reduction="none")),
    "forward mode, statistics": log_prob(of_rows(forward_mode.token_stats)),
}
REVERSE = [name for name in LOSSES if not name.startswith("forward mode")]
FORWARD = [name for name in LOSSES if name not in REVERSE]


def arrays_of(name):
    return (LOGITS, KERNEL, BIAS) if "head" in name else (LOGITS,)


@functools.partial(jax.jit, static_argnums=0)
def masked(name, labels, mask):
    """The sum of the losses that the mask leaves, and its gradients."""

    def total(arrays):
        return jnp.sum(jnp.where(mask, LOSSES[name](*arrays, labels), 0))

    return jax.value_and_grad(total)(jax.tree.map(jnp.asarray, arrays_of(name)))


@in_tiers("name", REVERSE, ["drop-in", "rows, every keyword", "head", "sparse head", "statistics"])
def test_padding_of_any_label_has_no_part_in_the_gradient(name):
    jax.tree.map(np.testing.assert_array_equal, masked(name, PADDED, MASK), masked(name, CLASSES, MASK))


@in_tiers("name", LOSSES, ["drop-in", "head", "forward mode, sparse rows"])
def test_padding_that_is_not_masked_is_nan(name):
    total, gradients = masked(name, PADDED, np.ones_like(MASK))
    assert np.isnan(total)
    assert np.isnan(gradients[0]).any(-1).tolist() == (~MASK).tolist()


@in_tiers("name", FORWARD, ["forward mode, rows"])
def test_the_transpose_of_a_tangent_is_nan_for_padding_and_the_tangent_is_not(name):
    total, gradients = masked(name, PADDED, MASK)
    assert np.isfinite(total)
    assert np.isnan(gradients[0]).any(-1).tolist() == (~MASK).tolist()

    def total_of(*arrays):
        return jnp.sum(jnp.where(MASK, LOSSES[name](*arrays, PADDED), 0))

    assert np.isfinite(jax.jvp(jax.jit(total_of), arrays_of(name), arrays_of(name))[1])


WEIGHTED = {
    "rows": ROWS(token_weights=MASK),
    "head": HEAD(token_weights=MASK),
    "rows without weight": ROWS(token_weights=0 * MASK),
    "head without weight": HEAD(token_weights=0 * MASK),
}


@pytest.mark.parametrize("name", WEIGHTED)
def test_padding_of_weight_0_has_a_nan_loss_and_no_part_in_the_gradient(name):
    value_and_gradients = jax.jit(
        lambda labels: jax.value_and_grad(lambda arrays: WEIGHTED[name](*arrays, labels))(arrays_of(name))
    )
    loss, gradients = value_and_gradients(PADDED)
    assert np.isnan(loss)
    jax.tree.map(np.testing.assert_array_equal, gradients, value_and_gradients(CLASSES)[1])


def test_an_index_out_of_range_is_nan_where_smoothing_leaves_it_no_weight():
    x, labels = np.zeros((2, 3), np.float32), SparseLabels(np.array([[-1], [1]], np.int32), np.ones((2, 1), np.float32))

    def loss(x):
        return cross_entropy(x, labels, label_smoothing=1.0, reduction="none")

    losses, back = jax.vjp(jax.jit(loss), x)
    np.testing.assert_array_equal(np.isnan(losses), [True, False])
    np.testing.assert_array_equal(np.isnan(back(jnp.ones_like(losses))[0]).any(-1), [True, False])
