"""The remainder r of a row's state, as XLA's CPU compiler forms it fast.

A row is cut into pieces of equal length, whose sums tell a confident row. Of that only the piece that has the maximum
is summed again without it: all others add up to less than 0.875.
"""

import jax.numpy as jnp
from jax import Array, lax

from jaxsoftmax._math.lse_state import CONFIDENT, NEAR_ONE, remainder
from jaxsoftmax._reduction.chosen_rows_cpu import with_rows_replaced

# Up to these lengths XLA CPU forms two sums at once in the time of one; the second is for exponentials not in memory.
SHORT_ROW = 32
SHORT_RECOMPUTED_ROW = 28
CUT_ROW = 256  # in shorter rows the sums of pieces cost more than they save
PIECES = 8
SHORTEST_PIECE, LONGEST_PIECE = 64, 512


def remainder_of_rows(
    x: Array, maximum: Array, axes: tuple[int, ...], e: Array | None = None, kept: bool = False
) -> Array:
    """r of x over `axes`, given its maximum, and perhaps the exponentials e = exp(x - maximum).

    Of confident rows e is formed once more, unless it is `kept` in memory.
    """
    width = x.shape[-1] if axes == (x.ndim - 1,) and x.size else 0
    if width <= (SHORT_RECOMPUTED_ROW if e is None else SHORT_ROW):
        return _of_two_sums(jnp.exp(x - maximum) if e is None else e, axes)
    length = _piece_length(width)
    count = width // length

    def cut(rows: Array) -> Array:
        return rows.reshape(-1, count, length)

    terms = jnp.exp(cut(x) - maximum.reshape(-1, 1, 1)) if e is None else cut(e)
    # The barrier, as XLA would make one sum of a sum of sums.
    sums = lax.optimization_barrier(jnp.sum(terms, -1))
    total = jnp.sum(sums, -1)

    rows = e if e is not None and kept else x

    def sums_of_others(indices: Array, sums: Array, pieces: Array) -> Array:
        own = sums[indices]
        has_maximum = own > NEAR_ONE
        piece = pieces.reshape(-1, length)[indices * count + lax.argmax(has_maximum, 1, jnp.int32)]
        # This piece's maximum is the row's; if that were taken from outside, XLA wouldn't fuse its reduction.
        terms = piece if rows is e else jnp.exp(piece - jnp.max(piece, -1, keepdims=True))
        return jnp.sum(jnp.where(has_maximum, 0, own), -1) + jnp.sum(_without_maximum(terms), -1)

    confident = (total < CONFIDENT) & (total > 0)
    others = with_rows_replaced(sums_of_others, confident, total, sums, cut(rows), width=length)
    return remainder(total, others).reshape(maximum.shape)


def _of_two_sums(e: Array, axes: tuple[int, ...]) -> Array:
    """r of rows over `axes` from the sums of their exponentials e with and without the maximum."""
    if axes != (e.ndim - 1,) or not e.size:
        return remainder(*(jnp.sum(terms, axes, keepdims=True) for terms in (e, _without_maximum(e))))
    zero = jnp.zeros((), e.dtype)
    total, others = lax.reduce((e, _without_maximum(e)), (zero, zero), _add_pairs, axes)
    return remainder(total[..., None], others[..., None])


def _add_pairs(a: tuple[Array, Array], b: tuple[Array, Array]) -> tuple[Array, Array]:
    return a[0] + b[0], a[1] + b[1]


def _piece_length(width: int) -> int:
    """The divisor of `width` nearest to that of a piece of PIECES, or to the shortest or longest one; else `width`."""
    wanted = min(max(width // PIECES, SHORTEST_PIECE), LONGEST_PIECE)
    lengths = [n for n in range(wanted // 2, 4 * wanted) if width >= CUT_ROW and width % n == 0]
    return min(lengths, key=lambda n: max(n / wanted, wanted / n), default=width)


def _without_maximum(e: Array) -> Array:
    """`lse_state.without_maximum` by rounding: a mask would keep XLA CPU from fusing the exponential and its sum."""
    return e - e * jnp.floor(e + (1 - NEAR_ONE))
