"""One row's probabilities, and the arithmetic that keeps 1 - s_k when s_k rounds to one."""

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float

from jaxsoftmax._math.precision import accumulation_dtype
from jaxsoftmax._softmax import log_softmax, softmax


class Row(NamedTuple):
    """Probabilities of each row in at least float32; a logit of -inf has `probs` 0 and `complement` 1."""

    probs: Float[Array, "*batch vocab"]
    complement: Float[Array, "*batch vocab"]
    dominant: Bool[Array, "*batch vocab"]


def row_of(x: Float[Array, "*batch vocab"]) -> Row:
    """Return s, 1 - s without cancellation, and the at most one entry a row with s > 1/2."""
    x = x.astype(accumulation_dtype(x.dtype))
    probs = softmax(x)  # (M4)
    return Row(probs, -jnp.expm1(log_softmax(x)), probs > 0.5)  # (M20)


def centred(row: Row, v: Float[Array, "*batch vocab"]) -> Float[Array, "*batch vocab"]:
    """Return v - ⟨s,v⟩ 1 with h = v - v_k 1 at the dominant k, where h_k is zero exactly (M21)."""
    v = v.astype(accumulation_dtype(v.dtype, row.probs.dtype))
    centre = jnp.sum(jnp.where(row.dominant, v, 0), axis=-1, keepdims=True)
    h = jnp.where(row.dominant, 0, v - centre)
    mean = jnp.sum(row.probs * h, axis=-1, keepdims=True)
    return jnp.where(row.dominant, -mean, h - mean)  # a select, as h - mean alone is fused wrongly (jax#39103)


def target_residual(row: Row, t: Float[Array, "*batch vocab"]) -> Float[Array, "*batch vocab"]:
    """Return s Σt - t as (s_j - 1) t_j + s_j Σ_{i≠j} t_i, the last sum without t_k at the dominant k (M11, M20)."""
    t = t.astype(accumulation_dtype(t.dtype, row.probs.dtype))
    rest = jnp.sum(jnp.where(row.dominant, 0, t), axis=-1, keepdims=True)
    others = jnp.where(row.dominant, rest, jnp.sum(t, axis=-1, keepdims=True) - t)
    return row.probs * others - row.complement * t
