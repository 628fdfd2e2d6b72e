"""Log-sum-exp for pure forward mode, with its tangent attached (M8)."""

from functools import partial
from typing import Literal, overload

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Float, Num

from jaxsoftmax import _logsumexp
from jaxsoftmax._sharding import Shards
from jaxsoftmax._tangents import inner


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


def logsumexp(
    a: Num[ArrayLike, "..."],
    axis: int | tuple[int, ...] | None = None,
    b: Num[ArrayLike, "..."] | None = None,
    keepdims: bool = False,
    return_sign: bool = False,
    where: Num[ArrayLike, "..."] | None = None,
    *,
    axis_name: str | tuple[str, ...] | None = None,
) -> Float[Array, "..."] | tuple[Float[Array, "..."], Float[Array, "..."]]:
    """`jaxsoftmax.logsumexp` with a forward-mode rule: the tangent is <softmax(a), v> (M8).

    Args, Returns, Raises, Source: as `jaxsoftmax.logsumexp`.

    Differentiation: both modes, to any order (`jax.custom_jvp`).

    >>> import jax, jax.numpy as jnp
    >>> print(jax.jacfwd(logsumexp)(jnp.array([0.0, 0.0])))
    [0.5 0.5]
    """
    return _logsumexp.logsumexp_with(_CUSTOM_JVP_RULES, a, axis, b, keepdims, return_sign, where, axis_name)


@partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def _plain(shards: Shards, axes: tuple[int, ...], a: Array, where: Array | None) -> Array:
    return _logsumexp.plain_sum(shards, axes, a, where)[0]


@_plain.defjvp
def _plain_jvp(shards, axes, primals, tangents):
    (a, where), (a_dot, _) = primals, tangents
    log_sum, state = _logsumexp.plain_sum(shards, axes, a, where, shared=True)
    by_a = _logsumexp.plain_gradient(a, where, state)
    return log_sum, shards.psum(inner(by_a, a_dot, axes)).astype(a.dtype)  # (M8)


@jax.custom_jvp
def _weighted(a: Array, b: Array, where: Array | None) -> tuple[Array, Array]:
    return _logsumexp.weighted_sum(a, b, where)[0]


@partial(_weighted.defjvp, symbolic_zeros=True)
def _weighted_jvp(primals, tangents):
    (a, b, where), (a_dot, b_dot, _) = primals, tangents
    (log_sum, sign), state = _logsumexp.weighted_sum(a, b, where)
    by_a, by_b = _logsumexp.weighted_gradients(a, b, where, state)
    log_sum_dot = jnp.zeros_like(state.others) + inner(by_a, a_dot, -1) + inner(by_b, b_dot, -1)
    return (log_sum, sign), (log_sum_dot[..., 0].astype(a.dtype), jnp.zeros_like(sign))


_CUSTOM_JVP_RULES = _logsumexp.LogsumexpRules(_plain, _weighted)
