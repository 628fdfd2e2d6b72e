"""What callers hand to the fused head, validated."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import ArrayLike, DTypeLike
from jaxtyping import Float

from jaxsoftmax import _checks
from jaxsoftmax._head.chunk_sizes import Settings
from jaxsoftmax._loss_arguments import LossKeywords, as_weights, class_indices
from jaxsoftmax._math.loss_options import LossOptions
from jaxsoftmax._sparse_labels import SparseLabels, sparse_labels

PrecisionLike = str | lax.Precision | lax.DotAlgorithmPreset | None


class HeadKeywords(LossKeywords, total=False):
    """What `linear_cross_entropy` and `sharded_linear_cross_entropy` take besides, for their overloads."""

    bias: Float[ArrayLike, " vocab"] | None
    transposed_kernel: bool
    dtype: DTypeLike | None
    precision: PrecisionLike
    chunk_size: int | None
    memory_budget: int | None
    schedule: str | None


class HeadArguments(NamedTuple):
    """The array arguments of a head."""

    hidden: Any  # [*batch, embed]
    labels: Any  # [*batch], or SparseLabels
    token_weights: Any  # [*batch], or None
    kernel: Any  # [embed, vocab]; or [vocab, embed], where the settings say that it is transposed
    bias: Any  # [vocab], or None
    class_weights: Any  # [vocab], or None

    @property
    def batch(self) -> tuple[int, ...]:
        """The shape of the tokens."""
        return self.hidden.shape[:-1]

    def with_embed_first(self, settings: Settings) -> "HeadArguments":
        """The arguments with the kernel as [embed, vocab]; under jit XLA can fold the transpose into the products."""
        return self._replace(kernel=self.kernel.T) if settings.transposed_kernel else self


def validate(
    settings: Settings,
    options: LossOptions,
    hidden: Any,
    kernel: Any,
    labels: Any,
    bias: Any = None,
    class_weights: Any = None,
    token_weights: Any = None,
    sparse: bool = True,
) -> HeadArguments:
    """Validates dtypes and shapes; an error names the argument at fault.

    Labels may be `SparseLabels` if `sparse`.
    """
    hidden, kernel = validate_product(settings, hidden, kernel)
    vocab = kernel.shape[0 if settings.transposed_kernel else 1]
    bias = validate_bias("bias", bias, vocab)
    batch = hidden.shape[:-1]
    if sparse and isinstance(labels, SparseLabels):
        labels = sparse_labels(options, labels, batch, vocab, of="hidden")
    else:
        labels = class_indices(labels, batch, vocab, of="hidden")
    class_weights, token_weights = as_weights(class_weights, token_weights, batch, vocab)
    return HeadArguments(hidden, labels, token_weights, kernel, bias, class_weights)


def validate_product(settings: Settings, hidden: Any, kernel: Any, prefix: str = "") -> tuple[Any, Any]:
    """Validates hidden states and kernel; errors put `prefix` before their names."""
    of_hidden, of_kernel = f"{prefix}hidden", f"{prefix}kernel"
    hidden, kernel = _checks.as_floating(of_hidden, hidden), _checks.as_floating(of_kernel, kernel)
    if hidden.ndim == 0:
        raise ValueError(f"{of_hidden}: expected shape [*batch, embed], got ()")
    embed, axis = hidden.shape[-1], 1 if settings.transposed_kernel else 0
    if kernel.ndim != 2 or kernel.shape[axis] != embed:
        shape = "[vocab, embed]" if settings.transposed_kernel else "[embed, vocab]"
        raise ValueError(f"{of_kernel}: expected shape {shape} with {of_hidden}'s embed = {embed}, got {kernel.shape}")
    if kernel.shape[1 - axis] == 0:
        raise ValueError(f"{of_kernel}: expected at least one class, got {kernel.shape}")
    return hidden, kernel


def validate_bias(name: str, bias: Any, vocab: int) -> Any:
    """Validates the bias, which may be None."""
    if bias is None:
        return None
    bias = _checks.as_floating(name, bias)
    _checks.require_shape(name, bias, (vocab,), "[vocab]")
    return bias


def as_settings(
    chunk_size: Any,
    memory_budget: Any = None,
    schedule: Any = None,
    dtype: Any = None,
    precision: Any = None,
    transposed_kernel: Any = False,
) -> Settings:
    """Validates the options of a call, and returns them as `Settings`."""
    sizes = {
        "chunk_size": None if chunk_size is None else _checks.as_int("chunk_size", chunk_size),
        "memory_budget": None if memory_budget is None else _checks.as_int("memory_budget", memory_budget, bits=64),
    }
    for name, size in sizes.items():
        if size is not None and size < 1:
            raise ValueError(f"{name}: expected an int >= 1 or None, got {size}")
    if schedule is not None and not (isinstance(schedule, str) and schedule == "pallas"):
        raise ValueError(f"schedule: expected 'pallas' or None, got {schedule!r}")
    transposed = _checks.as_flag("transposed_kernel", transposed_kernel)
    return Settings(
        **sizes,
        schedule=schedule,
        dtype=_as_dtype(dtype),
        precision=_as_precision(precision),
        transposed_kernel=transposed,
    )


def _as_dtype(dtype: Any) -> Any:
    """The dtype of the products' operands; None for those that they have."""
    if dtype is None:
        return None
    expected = "dtype: expected a floating dtype or None"
    if isinstance(dtype, (jax.Array, np.ndarray, np.generic)):
        raise TypeError(f"{expected}, got an array")
    try:
        given = jnp.dtype(dtype)
    except (TypeError, ValueError):
        raise TypeError(f"{expected}, got {dtype!r}") from None
    if not jnp.issubdtype(given, jnp.floating):
        raise TypeError(f"{expected}, got {given}")
    return jax.dtypes.canonicalize_dtype(given)


def _as_precision(precision: Any) -> str | None:
    """The name of a precision that `jax.default_matmul_precision` takes."""
    if precision is None:
        return None
    name = precision.name.lower() if isinstance(precision, lax.Precision) else precision
    name = precision.name if isinstance(precision, lax.DotAlgorithmPreset) else name
    try:
        with jax.default_matmul_precision(name):
            return name
    except (TypeError, ValueError):
        expected = "None, a jax.lax.Precision or DotAlgorithmPreset, or a name as in jax.default_matmul_precision"
        kind = ValueError if isinstance(precision, str) else TypeError
        raise kind(f"precision: expected {expected}, got {precision!r}") from None
