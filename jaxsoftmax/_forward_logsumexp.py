"""Log-sum-exp for pure forward mode, with its tangent attached (M8)."""

from functools import partial

import jax
import jax.numpy as jnp
from jax import Array

from jaxsoftmax import _log_sums, _logsumexp
from jaxsoftmax._rule_binding import variant_of
from jaxsoftmax._sharding import Shards
from jaxsoftmax._tangents import inner


@partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def _plain(shards: Shards, axes: tuple[int, ...], a: Array, where: Array | None) -> Array:
    return _log_sums.plain_sum(shards, axes, a, where)[0]


@_plain.defjvp
def _plain_jvp(shards, axes, primals, tangents):
    (a, where), (a_dot, _) = primals, tangents
    log_sum, state = _log_sums.plain_sum(shards, axes, a, where, shared=True)
    by_a = _log_sums.plain_gradient(a, where, state)
    return log_sum, shards.psum(inner(by_a, a_dot, axes)).astype(a.dtype)  # (M8)


@jax.custom_jvp
def _weighted(a: Array, b: Array, where: Array | None) -> tuple[Array, Array]:
    return _log_sums.weighted_sum(a, b, where)[0]


@partial(_weighted.defjvp, symbolic_zeros=True)
def _weighted_jvp(primals, tangents):
    (a, b, where), (a_dot, b_dot, _) = primals, tangents
    (log_sum, sign), state = _log_sums.weighted_sum(a, b, where)
    by_a, by_b = _log_sums.weighted_gradients(a, b, where, state)
    log_sum_dot = jnp.zeros_like(state.remainder) + inner(by_a, a_dot, -1) + inner(by_b, b_dot, -1)
    return (log_sum, sign), (log_sum_dot[..., 0].astype(a.dtype), jnp.zeros_like(sign))


@variant_of(_logsumexp.logsumexp, _log_sums.LogsumexpRules(_plain, _weighted))
def logsumexp() -> None:
    """`jaxsoftmax.logsumexp` with a forward-mode rule: the tangent is <softmax(a), v> (M8).

    Args, Returns, Raises, Source: as `jaxsoftmax.logsumexp`.

    Differentiation: both modes, to any order (`jax.custom_jvp`).

    >>> import jax, jax.numpy as jnp
    >>> print(jax.jacfwd(logsumexp)(jnp.array([0.0, 0.0])))
    [0.5 0.5]
    """
