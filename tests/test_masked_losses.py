"""A loss that is masked afterwards, as jnp.where(mask, losses, 0), has gradient 0, whatever the label is, as -100."""

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
LOGITS, KERNEL = (RNG.normal(size=size).astype(np.float32) for size in ((5, 4), (4, 4)))
PADDED = np.array([1, -100, 3, 4, -1], np.int32)  # of which [1, 3] are classes
MASK = (PADDED >= 0) & (PADDED < 4)
CLASSES = np.where(MASK, PADDED, 0)
EVERYTHING = {
    "label_smoothing": 0.1,
    "z_loss": 0.01,
    "logit_softcap": 5.0,
    "class_weights": np.array([1, 2, 0, 3], np.float32),
}


def _sparse(loss, *arguments, **options):
    *arrays, labels = arguments
    two = jnp.stack([labels, jnp.zeros_like(labels)], -1)
    return loss(*arrays, SparseLabels(two, jnp.full(two.shape, 0.5)), **options)


def _log_prob(stats, *arguments):
    return stats(*arguments).log_prob


_ROWS, _HEAD = (functools.partial(loss, reduction="none") for loss in (cross_entropy, linear_cross_entropy))
LOSSES = {
    "drop-in": softmax_cross_entropy_with_integer_labels,
    "rows": _ROWS,
    "rows, every keyword": functools.partial(_ROWS, **EVERYTHING),
    "head": _HEAD,
    "head, every keyword": functools.partial(_HEAD, **EVERYTHING),
    "sparse rows": functools.partial(_sparse, _ROWS),
    "sparse rows, every keyword": functools.partial(_sparse, _ROWS, **EVERYTHING),
    "sparse head": functools.partial(_sparse, _HEAD),
    "statistics": functools.partial(_log_prob, token_stats),
    "statistics of the head": functools.partial(_log_prob, linear_token_stats),
}

VARIANTS = {
    "rows": functools.partial(forward_mode.cross_entropy, reduction="none"),
    "sparse rows": functools.partial(_sparse, forward_mode.cross_entropy, reduction="none"),
    "sparse head": functools.partial(_sparse, forward_mode.linear_cross_entropy, reduction="none"),
    "statistics": functools.partial(_log_prob, forward_mode.token_stats),
}
HEADS = [loss for losses in (LOSSES, VARIANTS) for name, loss in losses.items() if "head" in name]


@functools.partial(jax.jit, static_argnums=0)
def _masked(loss, labels, mask):
    arrays = (LOGITS, KERNEL) if loss in HEADS else (LOGITS,)

    def total(arrays):
        return jnp.sum(jnp.where(mask, loss(*arrays, labels), 0))

    return jax.value_and_grad(total)(jax.tree.map(jnp.asarray, arrays))


@in_tiers("name", LOSSES, ["drop-in", "rows, every keyword", "sparse rows", "head", "statistics"])
def test_padding_of_any_label_has_no_part_in_the_gradient(name):
    right = _masked(LOSSES[name], CLASSES, MASK)
    jax.tree.map(np.testing.assert_array_equal, _masked(LOSSES[name], PADDED, MASK), right)


@pytest.mark.parametrize(
    "loss", [LOSSES["drop-in"], LOSSES["head"], *VARIANTS.values()], ids=["drop-in", "head", *VARIANTS]
)
def test_padding_that_is_not_masked_is_nan(loss):
    total, gradients = _masked(loss, PADDED, np.ones_like(MASK))
    assert np.isnan(total)
    assert np.isnan(gradients[0]).any(-1).tolist() == (~MASK).tolist()
