"""Losses of rows in several batch dimensions, formed as those of a matrix where that is the faster program."""

import math
from collections.abc import Callable
from typing import Any

import jax
from jax import Array


def losses(
    rule: Callable[..., Array],
    options: Any,
    logits: Array,
    labels: Array,
    class_weights: Array | None,
    where: Array | None,
) -> Array:
    """What `rule` makes of logits [*batch, vocab]: losses [*batch].

    XLA CPU forms a gradient [batch, sequence, vocab] twice, the second time transposed, for the product that the
    kernel's gradient is: three times the logits' memory, and 1.7 of the time. Of a gradient [tokens, vocab] it doesn't.
    """
    batch = logits.shape[:-1]
    if len(batch) < 2 or not _may_merge(logits, labels):
        return rule(options, logits, labels, class_weights, where)
    rows = _as_rows(logits, batch), _as_rows(labels, batch), class_weights
    return rule(options, *rows, None if where is None else _as_rows(where, batch)).reshape(batch)


def _as_rows(array: Array, batch: tuple[int, ...]) -> Array:
    """[*batch, ...] as [tokens, ...]."""
    return array.reshape(math.prod(batch), *array.shape[len(batch) :])


def _may_merge(*arrays: Array) -> bool:
    """Whether batch dimensions may become one: on a CPU, unless a mesh of Explicit axes spreads an array."""
    spread = any(axis is not None for array in arrays for axis in jax.typeof(array).sharding.spec)
    return jax.default_backend() == "cpu" and not spread
