"""Log-sum-exp, with its gradient attached (M8)."""

import math
from functools import partial
from typing import Literal, overload

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Float, Num

from jaxsoftmax import _checks
from jaxsoftmax._explicit_axes import sharded_alike
from jaxsoftmax._log_sums import CUSTOM_VJP_RULES, LogsumexpRules
from jaxsoftmax._rule_binding import with_rules
from jaxsoftmax._sharding import Shards, match_vma, require_sharded, shards_of_axis


@overload
def logsumexp(
    a: Num[ArrayLike, "..."],
    axis: int | tuple[int, ...] | None = None,
    b: Num[ArrayLike, "..."] | None = None,
    keepdims: bool = False,
    return_sign: Literal[False] = False,
    where: Num[ArrayLike, "..."] | None = None,
    *,
    axis_name: str | tuple[str, ...] | None = None,
) -> Float[Array, "..."]: ...


@overload
def logsumexp(
    a: Num[ArrayLike, "..."],
    axis: int | tuple[int, ...] | None = None,
    b: Num[ArrayLike, "..."] | None = None,
    keepdims: bool = False,
    *,
    return_sign: Literal[True],
    where: Num[ArrayLike, "..."] | None = None,
    axis_name: str | tuple[str, ...] | None = None,
) -> tuple[Float[Array, "..."], Float[Array, "..."]]: ...


@overload
def logsumexp(
    a: Num[ArrayLike, "..."],
    axis: int | tuple[int, ...] | None = None,
    b: Num[ArrayLike, "..."] | None = None,
    keepdims: bool = False,
    return_sign: bool = False,
    where: Num[ArrayLike, "..."] | None = None,
    *,
    axis_name: str | tuple[str, ...] | None = None,
) -> Float[Array, "..."] | tuple[Float[Array, "..."], Float[Array, "..."]]: ...


@with_rules(CUSTOM_VJP_RULES)
def logsumexp(
    _rules: LogsumexpRules,
    /,
    a: Num[ArrayLike, "..."],
    axis: int | tuple[int, ...] | None = None,
    b: Num[ArrayLike, "..."] | None = None,
    keepdims: bool = False,
    return_sign: bool = False,
    where: Num[ArrayLike, "..."] | None = None,
    *,
    axis_name: str | tuple[str, ...] | None = None,
) -> Float[Array, "..."] | tuple[Float[Array, "..."], Float[Array, "..."]]:
    """Log of a (weighted) sum of exponentials, log Σ_i b_i exp(a_i) (M18).

    A drop-in for `jax.nn.logsumexp`, relatively accurate where the sum is near 1 too: `logsumexp([0, -20])`
    is 2.06e-9, which the textbook formula rounds to 0.

    Args:
      a: real array of any shape, in nats. Integers are promoted to floating.
      axis: axis or axes to sum over; None sums over all.
      b: real weights that broadcast with `a`; a weight 0 leaves its element out, even if that is infinite.
      keepdims: keep the summed axes with size 1.
      return_sign: return also the sign of the sum, and the log of its absolute value.
      where: boolean mask that broadcasts with `a`; the elements to include.
      axis_name: mesh axis, or several, of the `jax.shard_map` around whose devices' sums are added up too; without `b`.

    Returns:
      The log-sum-exp in the dtype of `a` and `b` together, formed in at least float32; with `return_sign` the pair
      (log |sum|, sign). An empty or fully masked sum, or one over -inf alone, gives -inf with gradient 0; so does one
      whose weights are all 0, with a NaN gradient in `b`, along which the log is infinitely steep. A +inf gives +inf,
      with a NaN gradient. A negative sum without `return_sign` gives NaN, with a NaN gradient.

    Raises:
      TypeError: `a`, `b` or `where` is not a real array, `axis` not made of ints, `keepdims` or `return_sign` no bool.
      ValueError: the shapes don't broadcast, or an axis is out of range or given twice; or `axis_name` comes with `b`,
        or isn't an axis of a `jax.shard_map` with `check_vma=True`.

    Differentiation: reverse mode in `a` and `b` to any order, and forward over reverse (`jax.custom_vjp`); saved are
    the arguments and two numbers a row, four with `b`. For pure forward mode use `jaxsoftmax.forward_mode.logsumexp`.

    Source: M8, M18, M22.

    >>> import jax, jax.numpy as jnp
    >>> float(logsumexp(jnp.array([0.0, -20.0])))
    2.061153...e-09
    >>> print(jax.grad(logsumexp)(jnp.array([0.0, 0.0])))
    [0.5 0.5]
    """
    keepdims, return_sign = _checks.as_flag("keepdims", keepdims), _checks.as_flag("return_sign", return_sign)
    shards = shards_of_axis(axis_name)
    if b is not None and shards.classes:
        raise ValueError(f"b: expected None with axis_name={axis_name!r}, got weights")
    given = {"a": _checks.as_real("a", a)} | ({} if b is None else {"b": _checks.as_real("b", b)})
    dtype = _checks.inexact_dtype(*given.values())
    if where is not None:
        given["where"] = _checks.as_mask("where", where)
    axes = _checks.as_axes(axis, len(_checks.broadcast_shape(given)))
    if b is None:
        require_sharded(shards, "a", given["a"])
    arrays = (given.get(name) for name in ("a", "b", "where"))
    log_sum, sign = _log_sum_and_sign(_rules, shards, axes, dtype, keepdims, *arrays)
    return (log_sum, sign) if return_sign else _of_positive(log_sum, sign)


@partial(jax.jit, static_argnums=(0, 1, 2, 3, 4))  # else eager calls would compile their branches each time
def _log_sum_and_sign(
    rules: LogsumexpRules,
    shards: Shards,
    axes: tuple[int, ...],
    dtype: jnp.dtype,
    keepdims: bool,
    a: Array,
    b: Array | None,
    where: Array | None,
) -> tuple[Array, Array]:
    """(log |sum|, sign) in the given dtype."""
    shape = jnp.broadcast_shapes(*(array.shape for array in (a, b, where) if array is not None))
    a = jnp.broadcast_to(a, shape).astype(dtype)
    b, where = (array if array is None else jnp.broadcast_to(array, shape) for array in (b, where))
    (a, b, where), _ = match_vma(shards, sharded_alike(a, b, where), ())
    if b is None or 0 in shape:
        log_sum = rules.plain(shards, axes, a, where)
        sign = jnp.where(log_sum == -jnp.inf, 0, jnp.where(jnp.isnan(log_sum), log_sum, 1))
    else:
        rows = (x if x is None else axes_last(x, axes) for x in (a, b.astype(dtype), where))
        kept = [1 if i in axes else n for i, n in enumerate(shape)]
        log_sum, sign = (x.reshape(kept) for x in rules.weighted(*rows))
    return (log_sum, sign) if keepdims else (jnp.squeeze(log_sum, axes), jnp.squeeze(sign, axes))


@jax.jit
def _of_positive(log_sum: Array, sign: Array) -> Array:
    """The log of a sum; NaN, and with a NaN gradient, where the sum is negative."""
    return log_sum * jnp.where(sign < 0, jnp.nan, 1).astype(log_sum.dtype)


def axes_last(array: Array, axes: tuple[int, ...]) -> Array:
    """The given axes, in their order, as one last axis."""
    if axes == (array.ndim - 1,):
        return array
    moved = jnp.moveaxis(array, axes, range(-len(axes), 0))
    batch = moved.shape[: array.ndim - len(axes)]
    return moved.reshape(*batch, math.prod(array.shape[axis] for axis in axes))
