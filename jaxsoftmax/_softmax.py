"""Softmax and log-softmax, with their Jacobian-vector products attached (M6, M10, M21).

Both rules are centred at the entry whose probability exceeds 1/2, if the row has one. There 1 - s cancels, and so
does v - <s, v>; with h = v - v_k 1 the k-th entry is exactly 0 and every remaining term is small of itself.
As J 1 = 0, centring changes no value, and its transpose gives the VJP the same accuracy.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Float, Num

from jaxsoftmax import _checks, _lse_state


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

    Differentiation: both modes, to any order (`jax.custom_jvp`); the probabilities are saved.

    Source: M4, M5, M6, M21.

    >>> import jax, jax.numpy as jnp
    >>> print(softmax(jnp.array([0.0, 0.0])))
    [0.5 0.5]
    >>> print(jax.jacfwd(softmax)(jnp.array([0.0, 0.0])))
    [[ 0.25 -0.25]
     [-0.25  0.25]]
    """
    rows = _rows(x, axis, where)
    return _softmax(rows.axes, rows.x, rows.where).astype(rows.dtype)


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
      Log-probabilities in `x`'s dtype, formed in at least float32. A row of -inf alone, or fully masked, gives -inf.
      A row with +inf or NaN is NaN throughout.

    Raises:
      TypeError: `x` or `where` is not a real array, or `axis` not made of ints.
      ValueError: the shapes don't broadcast, or an axis is out of range or given twice.

    Differentiation: both modes, to any order (`jax.custom_jvp`); the probabilities are saved.

    Source: M10, M19, M21.

    >>> import jax.numpy as jnp
    >>> print(log_softmax(jnp.array([0.0, -20.0])))
    [-2.0611537e-09 -2.0000000e+01]
    """
    rows = _rows(x, axis, where)
    return _log_softmax(rows.axes, rows.x, rows.where).astype(rows.dtype)


class _Rows(NamedTuple):
    x: Array  # at accumulation precision
    axes: tuple[int, ...]
    where: Array | None
    dtype: jnp.dtype


def _rows(x, axis, where) -> _Rows:
    x = _checks.as_inexact("x", x)
    if where is not None:
        where = _checks.as_mask("where", where)
        x = jnp.broadcast_to(x, _checks.broadcast_shape({"x": x, "where": where}))
    return _Rows(_lse_state.widen(x), _checks.as_axes(axis, x.ndim), where, x.dtype)


def _masked(array: Array, where: Array | None, outside: float) -> Array:
    return array if where is None else jnp.where(where, array, outside)


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def _softmax(axes: tuple[int, ...], x: Array, where: Array | None) -> Array:
    x = _masked(x, where, -jnp.inf)
    state = _lse_state.of_array(x, axes, True)
    return _lse_state.exponentials(x, state) / _lse_state.denominator(state)  # (M4)


@_softmax.defjvp
def _softmax_jvp(axes, primals, tangents):
    (x, where), (v, _) = primals, tangents
    s = _softmax(axes, x, where)
    return s, _times_less_mean(axes, s, _masked(v, where, 0))  # J v (M5, M6, M21)


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def _log_softmax(axes: tuple[int, ...], x: Array, where: Array | None) -> Array:
    x = _masked(x, where, -jnp.inf)
    state = _lse_state.of_array(x, axes)
    return _lse_state.gaps(x, state) - _lse_state.log_denominator(state)  # (M10)


@_log_softmax.defjvp
def _log_softmax_jvp(axes, primals, tangents):
    (x, where), (v, _) = primals, tangents
    s = _softmax(axes, x, where)
    return _log_softmax(axes, x, where), _masked(_less_mean(axes, s, _masked(v, where, 0)), where, 0)  # (M10, M21)


@partial(jax.checkpoint, prevent_cse=False, static_argnums=0)  # of all that it computes, only s is saved
def _times_less_mean(axes: tuple[int, ...], s: Array, v: Array) -> Array:
    """J v = s * (h - <s, h>) (M21)."""
    return s * _less_mean(axes, s, v)


@partial(jax.checkpoint, prevent_cse=False, static_argnums=0)
def _less_mean(axes: tuple[int, ...], s: Array, v: Array) -> Array:
    """v - <s, v>, as h - <s, h> where h = v - v_k 1 is exactly 0 at the dominant entry k, if there is one (M21)."""
    dominant = s > 0.5
    others = jnp.where(dominant, 0, s)
    centre = jnp.sum(jnp.where(dominant, v, 0), axes, keepdims=True)
    # <s, h>, as sums over v: one over h would wait for the centre. The selects end XLA's fusions: on the CPU jaxlib
    # 0.10.2 adds up wrong entries where a vmapped sum is fused with what isn't vmapped (jax#39103).
    rest = jnp.sum(others, axes, keepdims=True)
    mean = jnp.where(rest == 0, 0, jnp.sum(others * v, axes, keepdims=True)) - centre * rest
    return jnp.where(dominant, -mean, v - centre - mean)
