"""In which dtype and with which precision the fused head multiplies matrices, as the caller wants it."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import jax

from jaxsoftmax._head.chunk_sizes import Settings
from jaxsoftmax._head.problem import HeadInputs


def as_operands(settings: Settings, inputs: HeadInputs) -> HeadInputs:
    """The inputs with hidden and kernel in the dtype of the products; the bias is added at the logits' precision."""
    if settings.dtype is None:
        return inputs
    return inputs._replace(hidden=inputs.hidden.astype(settings.dtype), kernel=inputs.kernel.astype(settings.dtype))


def with_precision(settings: Settings) -> AbstractContextManager[Any]:
    """A context in which products are traced with the precision wanted."""
    return nullcontext() if settings.precision is None else jax.default_matmul_precision(settings.precision)
