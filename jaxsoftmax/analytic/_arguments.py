"""Arguments of the closed forms, checked and brought to one shape."""

from typing import Any

import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from jaxsoftmax import _checks
from jaxsoftmax._math.classes import class_numbers
from jaxsoftmax._math.precision import accumulation_dtype


def as_logits(name: str, value: Any) -> Float[Array, "*batch vocab"]:
    """`value` as a floating array with a vocabulary axis."""
    array = _checks.as_floating(name, value)
    if array.ndim == 0:
        raise ValueError(f"{name}: expected shape [*batch, vocab], got ()")
    return array


def as_vector(name: str, value: Any, logits: Array) -> Float[Array, "*batch vocab"]:
    """`value` as a floating array with the shape of the logits."""
    array = _checks.as_floating(name, value)
    _checks.require_shape(name, array, logits.shape, "[*batch, vocab]")
    return array


def as_targets(name: str, labels: Any, logits: Array) -> Float[Array, "*batch vocab"]:
    """Float targets in at least float32: one-hot rows of integer labels, a row of nan for one out of range."""
    labels = _checks.as_labels(name, labels)
    dtype = accumulation_dtype(logits.dtype)
    if jnp.issubdtype(labels.dtype, jnp.floating):
        _checks.require_shape(name, labels, logits.shape, "[*batch, vocab]: float targets")
        return labels.astype(accumulation_dtype(labels.dtype, dtype))
    labels = _checks.as_integer(name, labels, hint="; or floating targets")
    _checks.require_shape(name, labels, logits.shape[:-1], "[*batch]: integer labels")
    labels = labels if labels.dtype.itemsize >= 4 else labels.astype(jnp.int32)  # a narrow dtype may not hold vocab - 1
    one_hot = labels[..., None] == class_numbers(logits).astype(labels.dtype)
    in_range = jnp.any(one_hot, axis=-1, keepdims=True)
    return jnp.where(in_range, one_hot.astype(dtype), jnp.nan)


def as_linear_inputs(
    hidden: Any, kernel: Any, bias: Any
) -> tuple[Float[Array, "*batch embed"], Float[Array, "embed vocab"], Float[Array, " vocab"] | None]:
    """The three as floating arrays whose embedding and vocabulary axes fit each other."""
    hidden, kernel = _checks.as_floating("hidden", hidden), _checks.as_floating("kernel", kernel)
    if hidden.ndim == 0:
        raise ValueError("hidden: expected shape [*batch, embed], got ()")
    if kernel.ndim != 2:
        raise ValueError(f"kernel: expected shape [embed, vocab], got {kernel.shape}")
    _checks.require_shape("kernel", kernel, (hidden.shape[-1], kernel.shape[1]), "[embed, vocab]")
    if bias is not None:
        bias = _checks.as_floating("bias", bias)
        _checks.require_shape("bias", bias, kernel.shape[1:], "[vocab]")
    return hidden, kernel, bias
