"""The constants of a loss, and its logits z: the model's under a soft cap and a temperature."""

import math
from dataclasses import dataclass, fields
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

Number = float | Array  # a Python number, known when tracing; or a scalar that may be traced


@jax.tree_util.register_pytree_node_class
@dataclass(frozen=True)
class LossOptions:
    """The constants of a loss; the defaults are the plain negative log-likelihood.

    Python numbers, and None, are part of the type: they are known when tracing. All else is data, and has no gradient.
    """

    ignore_index: int | None = None
    label_smoothing: Number = 0.0
    z_loss: Number = 0.0
    logit_softcap: Number | None = None
    temperature: Number = 1.0

    def tree_flatten(self) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
        """The traced constants; and per field whether it is static, with its value if so."""
        values = [getattr(self, field.name) for field in fields(self)]
        known = [value is None or isinstance(value, (int, float)) for value in values]
        data = tuple(value for value, is_known in zip(values, known, strict=True) if not is_known)
        return data, tuple((k, v if k else None) for k, v in zip(known, values, strict=True))

    @classmethod
    def tree_unflatten(cls, known: tuple[Any, ...], data: tuple[Any, ...]) -> "LossOptions":
        """The options, of what `tree_flatten` returns."""
        left = iter(data)
        return cls(*(value if is_known else next(left) for is_known, value in known))

    def astype(self, dtype: jnp.dtype) -> "LossOptions":
        """The options with their data in this dtype."""
        return jax.tree.map(lambda number: number.astype(dtype), self)

    @property
    def smooths(self) -> bool:
        """Whether labels are smoothed, as far as is known."""
        return _may_differ(self.label_smoothing, 0)

    @property
    def has_z_loss(self) -> bool:
        """Whether there is a z-loss, as far as is known."""
        return _may_differ(self.z_loss, 0)


def _may_differ(number: Number, known: float) -> bool:
    return not (isinstance(number, (int, float)) and number == known)


@jax.custom_jvp
def loss_logits(options: LossOptions, logits: Array) -> Array:
    """z = c tanh(x / c) / T (M23, M32).

    Without a soft cap, and where x / c is so small that tanh doesn't change it, z = x / T.
    """
    z = logits
    if options.logit_softcap is not None:
        cap = _cap(options.logit_softcap, logits)
        unchanged = jnp.abs(logits) < cap * (math.sqrt(jnp.finfo(logits.dtype).eps) / 2)
        z = jnp.where(unchanged, logits, cap * jnp.tanh(logits / cap))
    return z / options.temperature if _may_differ(options.temperature, 1) else z


@loss_logits.defjvp
def _loss_logits_jvp(primals, tangents):
    options, logits = primals
    return loss_logits(options, logits), loss_logits_slope(options, logits) * tangents[1]  # options are constants


def loss_logits_slope(options: LossOptions, logits: Array | None) -> Array | float:
    """dz/dx = sech^2(x / c) / T = 4q / (1 + q)^2 / T with q = exp(-2|x| / c), which never cancels (M23, M32).

    Without a soft cap the logits aren't looked at.
    """
    slope = 1.0
    if options.logit_softcap is not None and logits is not None:
        q = jnp.exp(-2 * jnp.abs(logits / _cap(options.logit_softcap, logits)))
        slope = 4 * q / jnp.square(1 + q)
    return slope / options.temperature if _may_differ(options.temperature, 1) else slope


def _cap(cap: Number, logits: Array) -> Number:
    """The cap; the largest number of the logits' dtype for one that is out of its range."""
    largest = float(jnp.finfo(logits.dtype).max)
    return min(cap, largest) if isinstance(cap, (int, float)) else jnp.minimum(cap, largest)
