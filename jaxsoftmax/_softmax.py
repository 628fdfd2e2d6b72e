"""Softmax and log-softmax, with their Jacobian-vector products attached (M6, M10, M21)."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Float, Num

from jaxsoftmax import _checks
from jaxsoftmax._log_sums import masked_logits
from jaxsoftmax._math.lse_state import LseState
from jaxsoftmax._math.softmax import log_probabilities, probabilities
from jaxsoftmax._reduction import schedules
from jaxsoftmax._reduction.centring import jacobian_product
from jaxsoftmax._reduction.row_state import lse_state, softmax_and_state


def softmax(
    x: Num[ArrayLike, "..."], axis: int | tuple[int, ...] | None = -1, where: Num[ArrayLike, "..."] | None = None
) -> Float[Array, "..."]:
    """Probabilities s_i = exp(x_i) / Σ_k exp(x_k) (M4).

    A drop-in for `jax.nn.softmax` whose derivative keeps its tails: the Jacobian is diag(s) - s s^T (M5), and the
    row of a confident entry sums to 0 to its own last bits (jax#40344).

    Args:
      x: real array of any shape, in nats. Integers are promoted to floating.
      axis: axis or axes that sum to 1; None means all.
      where: boolean mask that broadcasts with `x`; elements left out have probability 0.

    Returns:
      Probabilities in `x`'s dtype, formed in at least float32. A row of -inf alone, or fully masked, gives 0s.
      A row with +inf or NaN is NaN throughout.

    Raises:
      TypeError: `x` or `where` is not a real array, or `axis` not made of ints.
      ValueError: the shapes don't broadcast, or an axis is out of range or given twice.

    Differentiation: both modes, to any order (`jax.custom_jvp`); saved are the probabilities, or `x` if its precision
    is less than float32, and three numbers a row.

    Source: M4, M5, M6, M21.

    >>> import jax, jax.numpy as jnp
    >>> print(softmax(jnp.array([0.0, 0.0])))
    [0.5 0.5]
    >>> print(jax.jacfwd(softmax)(jnp.array([0.0, 0.0])))
    [[ 0.25 -0.25]
     [-0.25  0.25]]
    """
    return _of_rows(_softmax, *_validate(x, axis, where))


def log_softmax(
    x: Num[ArrayLike, "..."], axis: int | tuple[int, ...] | None = -1, where: Num[ArrayLike, "..."] | None = None
) -> Float[Array, "..."]:
    """Log-probabilities log s_i = x_i - LSE(x), as (x_i - m) - log1p(r) (M10, M19).

    A drop-in for `jax.nn.log_softmax` that keeps the tail of a confident entry: `log_softmax([0, -20])[0]` is
    -2.06e-9, not 0.

    Args:
      x: real array of any shape, in nats. Integers are promoted to floating.
      axis: axis or axes that are normalised together; None means all.
      where: boolean mask that broadcasts with `x`; elements left out have log-probability -inf.

    Returns:
      Log-probabilities in `x`'s dtype, formed in at least float32. A row of -inf alone, or fully masked, gives -inf;
      the derivative of the first is the identity, as if nothing were normalised. A row with +inf or NaN is NaN
      throughout.

    Raises:
      TypeError: `x` or `where` is not a real array, or `axis` not made of ints.
      ValueError: the shapes don't broadcast, or an axis is out of range or given twice.

    Differentiation: both modes, to any order (`jax.custom_jvp`); saved are `x` and three numbers a row.

    Source: M10, M19, M21.

    >>> import jax.numpy as jnp
    >>> print(log_softmax(jnp.array([0.0, -20.0])))
    [-2.0611537e-09 -2.0000000e+01]
    """
    return _of_rows(_log_softmax, *_validate(x, axis, where))


def _validate(x: Any, axis: Any, where: Any) -> tuple[tuple[int, ...], Array, Array | None]:
    x = _checks.as_inexact("x", x)
    if where is None:
        return _checks.as_axes(axis, x.ndim), x, None
    where = _checks.as_mask("where", where)
    shape = _checks.broadcast_shape({"x": x, "where": where})
    return _checks.as_axes(axis, len(shape)), jnp.broadcast_to(x, shape), jnp.broadcast_to(where, shape)


@partial(jax.jit, static_argnums=(0, 1))  # else eager calls would compile their loops each time
def _of_rows(function: Callable[..., Array], axes: tuple[int, ...], x: Array, where: Array | None) -> Array:
    return function(axes, x, where).astype(x.dtype)


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def _softmax(axes: tuple[int, ...], x: Array, where: Array | None) -> Array:
    return softmax_and_state(masked_logits(x, where), axes)[0]  # (M4)


@_softmax.defjvp
def _softmax_jvp(axes, primals, tangents):
    (x, where), (x_dot, _) = primals, tangents
    wide = masked_logits(x, where)
    s, state = softmax_and_state(wide, axes)
    index = schedules.dominant_index(wide, state, axes)
    saved = s if x.dtype == s.dtype else x
    return s, _softmax_tangent(axes, saved, where, state, index, x_dot)


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def _log_softmax(axes: tuple[int, ...], x: Array, where: Array | None) -> Array:
    wide = masked_logits(x, where)
    return log_probabilities(wide, lse_state(wide, axes))  # (M10)


@_log_softmax.defjvp
def _log_softmax_jvp(axes, primals, tangents):
    (x, where), (x_dot, _) = primals, tangents
    wide = masked_logits(x, where)
    state = lse_state(wide, axes)
    index = schedules.dominant_index(wide, state, axes)
    return log_probabilities(wide, state), _log_softmax_tangent(axes, x, where, state, index, x_dot)


# `jax.checkpoint` saves only the arguments of these two: an array like x, and three numbers a row.
@partial(jax.checkpoint, prevent_cse=False, static_argnums=0)
def _softmax_tangent(
    axes: tuple[int, ...], saved: Array, where: Array | None, state: LseState, index: Array | None, x_dot: Array
) -> Array:
    """J v = s * (v - <s, v>) (M5, M6, M21). `saved` is s, or x if s has a wider dtype: then s is recomputed."""
    s = saved
    if saved.dtype != state.remainder.dtype:
        s = probabilities(masked_logits(saved, where), schedules.for_recomputation(state))
    return jacobian_product(s, state, index, _zero_where_masked(x_dot, where), axes)


@partial(jax.checkpoint, prevent_cse=False, static_argnums=0)
def _log_softmax_tangent(
    axes: tuple[int, ...], x: Array, where: Array | None, state: LseState, index: Array | None, x_dot: Array
) -> Array:
    """v - <s, v> (M10, M21)."""
    wide = masked_logits(x, where)
    v = _zero_where_masked(x_dot, where)
    return _zero_where_masked(schedules.subtract_mean(wide, state, index, v, axes), where)


def _zero_where_masked(array: Array, where: Array | None) -> Array:
    return array if where is None else jnp.where(where, array, 0)
