"""The state (m, r) of a log-sum-exp, on which every function of this package rests.

For one row x let m = max x and r = Σ_j exp(x_j - m) with ONE maximum left out. Then

    LSE(x)  = m + log1p(r)                        (M18)
    nll_y   = (m - x_y) + log1p(r)                (M19)
    s_j     = e_j / (1 + r),  e_j = exp(x_j - m)
    s_k - 1 = -r / (1 + r)                        (M20)

and each of these is relatively accurate however confident the row is: a tail of 1e-30 survives in r, which
`1 + 1e-30` would absorb. In the last line k is the *dominant* entry, the one with s_k > 1/2, if the row has one:
the only one for which s - 1 would cancel. It is where 2e > 1 + r.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.typing import DTypeLike

# Rows from SHORT_ROW on are summed in pieces, if a length near PIECE (in short rows an eighth) divides theirs: XLA CPU
# is slow at long sums, and of a confident row only one piece is summed again. From LONG_ROW on a piece is a small part.
SHORT_ROW = 1 << 9
LONG_ROW = 1 << 12
PIECE = 1 << 8
# Below this sum of exponentials, taking the maximum's own 1 away again would cost bits.
CONFIDENT = 1.875


class LseState(NamedTuple):
    """The pair (m, r); an empty sum is (-inf, -1)."""

    maximum: Array
    remainder: Array


def accumulation_dtype(*dtypes: DTypeLike) -> jnp.dtype:
    """float64 if one of them is, else float32; named, as JAX may be set to refuse implicit promotion."""
    return jnp.dtype(jnp.float64 if any(jnp.dtype(d) == jnp.float64 for d in dtypes) else jnp.float32)


def axes_last(array: Array, axes: tuple[int, ...]) -> Array:
    """The given axes, in their order, as one last axis."""
    moved = jnp.moveaxis(array, axes, range(-len(axes), 0))
    batch = moved.shape[: array.ndim - len(axes)]
    return moved.reshape(*batch, math.prod(array.shape[axis] for axis in axes))


def widen(x: Array) -> Array:
    """`x` at accumulation precision, rounded to its own dtype in every place where XLA computes it anew."""
    wide = x.astype(accumulation_dtype(x.dtype))
    return wide if wide.dtype == x.dtype else _rounded(wide, x.dtype)


@partial(jax.custom_jvp, nondiff_argnums=(1,))
def _rounded(wide: Array, dtype: jnp.dtype) -> Array:
    info = jnp.finfo(dtype)
    return lax.reduce_precision(wide, info.nexp, info.nmant)


@_rounded.defjvp
def _rounded_jvp(dtype, primals, tangents):
    return _rounded(*primals, dtype), *tangents  # already rounded: a derivative is not to be rounded again


@partial(jax.custom_jvp, nondiff_argnums=(1, 2))
def of_array(x: Array, axes: tuple[int, ...], reused: bool = False) -> LseState:
    """The state of `x` over `axes`, which are kept with size 1; `x` at accumulation precision.

    `reused` says that the caller takes `exponentials` of all of `x` as well: then XLA forms them once for both.
    """
    return _of_array(x, axes, reused)


@partial(jax.jit, static_argnums=(1, 2))  # outside of jit, a bare `lax.cond` would be compiled anew at every call
def _of_array(x: Array, axes: tuple[int, ...], reused: bool) -> LseState:
    maximum = jnp.max(x, axes, keepdims=True, initial=-jnp.inf)
    piece = _piece(x.shape[-1]) if axes == (x.ndim - 1,) else None
    total, others = _of_pieces(x, maximum, piece, reused) if piece else _of_whole(x, maximum, axes)
    confident = total < CONFIDENT

    def left_out() -> Array:
        return jnp.where(confident, jnp.where(maximum == -jnp.inf, -1, others()), total - 1)

    return LseState(maximum, lax.cond(jnp.any(confident), left_out, lambda: total - 1))


@of_array.defjvp
def _of_array_jvp(axes, reused, primals, tangents):
    """Any dm goes with dr = sum e_j (dx_j - dm); dm = dx_k at a dominant entry k keeps the tail of dr, else dm = 0."""
    (x,), (v,) = primals, tangents
    state = of_array(x, axes, reused)
    e = exponentials(x, state)
    leads = dominant(e, state)
    maximum_dot = jnp.sum(jnp.where(leads, v, 0), axes, keepdims=True)
    # The select, where the sum is 0 anyway, keeps XLA CPU of jaxlib 0.10.2 from fusing a vmapped sum with what isn't
    # vmapped: it adds up wrong entries then (jax#39103).
    others_dot = jnp.where(is_empty(state), 0, jnp.sum(jnp.where(leads, 0, e) * v, axes, keepdims=True))
    return state, LseState(maximum_dot, others_dot - state.remainder * maximum_dot)


def gaps(x: Array, state: LseState) -> Array:
    """x - m, exactly and constantly 0 at the dominant entry.

    XLA may compute x anew where it is used, a rounding apart from the x that m was taken of: the dominant entry is
    known by its probability, not by x = m. Nor is it differentiated as if it varied: a transpose would add and
    subtract 1 where it should see the tail alone.
    """
    above_half = jnp.where(state.remainder < 1, log_denominator(state) - jnp.log(2.0).astype(x.dtype), jnp.inf)
    gap = shifted(x, state.maximum)
    return jnp.where(gap > above_half, 0, gap)


@jax.custom_jvp
def exponentials(x: Array, state: LseState) -> Array:
    """e = exp(x - m); 0 throughout an empty row."""
    return exp_shifted(x, state.maximum)


@exponentials.defjvp
def _exponentials_jvp(primals, tangents):
    """e (dx - dm), constant at the dominant entry: there a transpose would add and take away what absorbs the tail."""
    (x, state), (v, state_dot) = primals, tangents
    e = exponentials(x, state)
    return e, jnp.where(dominant(e, state), 0, e * (v - state_dot.maximum))


def dominant(e: Array, state: LseState) -> Array:
    """Where the probability exceeds 1/2: at most one entry of a row."""
    return 2 * e > denominator(state)


def shifted(x: Array, maximum: Array) -> Array:
    """x - m; -inf throughout an empty row."""
    return x - jnp.where(maximum == -jnp.inf, 0, maximum)


def exp_shifted(x: Array, maximum: Array) -> Array:
    """exp(x - m); 0 throughout an empty row."""
    return jnp.exp(shifted(x, maximum))


def denominator(state: LseState) -> Array:
    """1 + r, by which exponentials become probabilities; 1 for an empty row, whose probabilities are 0."""
    return jnp.where(is_empty(state), 1, 1 + state.remainder)


def log_denominator(state: LseState) -> Array:
    """log1p(r): the log-sum-exp above the maximum; 0 for an empty row."""
    return jnp.log1p(jnp.where(is_empty(state), 0, state.remainder))


def log_sum_exp(state: LseState) -> Array:
    """m + log1p(r) (M18)."""
    return jnp.where(state.maximum == jnp.inf, jnp.inf, state.maximum + log_denominator(state))


def is_empty(state: LseState) -> Array:
    """No element, or -inf alone."""
    return state.maximum == -jnp.inf


# The sums of all exponentials, and in a confident row of those but the maximum's.
_Sums = tuple[Array, Callable[[], Array]]


def _of_whole(x: Array, maximum: Array, axes: tuple[int, ...]) -> _Sums:
    def others() -> Array:
        return jnp.sum(_less_maximum(exp_shifted(x, maximum)), axes, keepdims=True)

    return jnp.sum(exp_shifted(x, maximum), axes, keepdims=True), others


def _of_pieces(x: Array, maximum: Array, piece: int, reused: bool) -> _Sums:
    """Only the piece with the maximum is summed again: in a confident row, the one whose sum is the largest."""
    shape = (*x.shape[:-1], x.shape[-1] // piece, piece)
    e = exp_shifted(x, maximum)
    # In one shape or the other: XLA CPU knows two exponentials for the same, or fuses one with its sum, by its shape.
    pieces = e.reshape(shape) if reused else exp_shifted(x.reshape(shape), maximum[..., None])
    sums = lax.optimization_barrier(jnp.sum(pieces, -1))  # without the barrier XLA makes one sum of all of them

    def lead() -> Array:
        return jnp.argmax(sums, -1, keepdims=True)

    # Outside of the `lax.cond`, where e is in memory: an operand of it could not give its place to the gradient.
    ready = _piece_of(e, lead(), piece) if reused and x.shape[-1] >= LONG_ROW else None

    def others() -> Array:
        leading = exp_shifted(_piece_of(x, lead(), piece), maximum) if ready is None else ready
        rest = jnp.sum(_less_maximum(leading), -1, keepdims=True)
        return rest + jnp.sum(jnp.where(jnp.arange(sums.shape[-1]) == lead(), 0, sums), -1, keepdims=True)

    return jnp.sum(sums, -1, keepdims=True), others


def _piece_of(rows: Array, number: Array, piece: int) -> Array:
    """The piece of each row that bears its number; by slices, as XLA CPU would keep a reshaped copy."""
    part = partial(lax.dynamic_slice_in_dim, slice_size=piece)
    for _ in rows.shape[:-1]:
        part = jax.vmap(part)
    return part(rows, piece * number[..., 0])


def _less_maximum(e: Array) -> Array:
    """e, but 0 where that is 15/16 or more: at the maximum alone, in a row whose sum is below CONFIDENT.

    Rounding needs no mask and no argmax, either of which keeps XLA from fusing the exponential and its sum.
    """
    return e - e * jnp.floor(e + 0.0625)


def _piece(length: int) -> int | None:
    """The divisor nearest to PIECE or an eighth of the length, a quarter to 16 times that; None where there is none."""
    if length < SHORT_ROW:
        return None
    aim = min(PIECE, length // 8)
    divisors = [n for n in range(aim // 4, 16 * aim + 1) if length % n == 0 and n < length]
    return min(divisors, key=lambda n: max(n / aim, aim / n), default=None)
