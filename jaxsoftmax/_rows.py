"""Rows of several batch dimensions as those of one, where that is the smaller program."""

import math
from collections.abc import Iterator
from typing import Any

import jax
from jax import Array


def merged(logits: Array, labels: Array, *of_rows: Array | None) -> Iterator[Any]:
    """Arrays [*batch, ...] as [tokens, ...], or as they are; the rules save them as they came, and merge them again.

    For the gradient of a kernel XLA CPU transposes a gradient [batch, sequence, vocab] of logits. Where each entry is
    formed in that shape it forms them all twice, which takes three times the logits' memory. As [tokens, vocab] they
    are formed once, and copied: twice the memory.
    """
    batch = logits.shape[:-1]
    if len(batch) > 1 and _on_one_cpu() and not (_is_spread(logits) or _is_spread(labels)):
        yield from (None if array is None else _flat(array, batch) for array in (logits, labels, *of_rows))
    else:
        yield from (logits, labels, *of_rows)


def _flat(array: Array, batch: tuple[int, ...]) -> Array:
    return array.reshape(math.prod(batch), *array.shape[len(batch) :])


def _on_one_cpu() -> bool:
    """Over several devices one dimension may be spread worse than two: logits would be sent around."""
    return jax.default_backend() == "cpu" and jax.device_count() == 1


def _is_spread(array: Array) -> bool:
    """Whether the array's type says that a mesh of Explicit axes spreads it; its losses have to be spread alike."""
    return any(axis is not None for axis in jax.typeof(array).sharding.spec.partitions)
