"""At which precision numbers are formed: float64 where an input is float64, else float32."""

from functools import partial

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.typing import DTypeLike


def accumulation_dtype(*dtypes: DTypeLike) -> jnp.dtype:
    """float64 if one of the dtypes is float64, else float32; named, as JAX may be set to refuse implicit promotion."""
    return jnp.dtype(jnp.float64 if any(jnp.dtype(d) == jnp.float64 for d in dtypes) else jnp.float32)


def widen(x: Array) -> Array:
    """`x` in its accumulation dtype; by `reduce_precision` XLA can't keep more bits of x in one use than in another."""
    wide = x.astype(accumulation_dtype(x.dtype))
    return wide if wide.dtype == x.dtype else _rounded_to(x.dtype, wide)


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def _rounded_to(dtype: jnp.dtype, wide: Array) -> Array:
    """`wide` rounded to the numbers of a narrower dtype, those below its smallest normal one too.

    `reduce_precision` to the dtype's own exponents takes those for 0, and the largest of a float8 for infinity.
    """
    info, wide_info = jnp.finfo(dtype), jnp.finfo(wide.dtype)
    normal = lax.reduce_precision(wide, wide_info.nexp, info.nmant)
    if info.smallest_normal <= wide_info.smallest_normal:
        return normal
    # Added to a number of the size at which their unit is the last bit, subnormal numbers are rounded to it.
    shift = jnp.asarray(1.5 * float(info.smallest_subnormal) / float(wide_info.eps), wide.dtype)
    subnormal = lax.reduce_precision(wide + shift, wide_info.nexp, wide_info.nmant) - shift
    size = jnp.abs(normal)
    finite = jnp.where(size < float(info.smallest_normal), subnormal, normal)
    return jnp.where(size > float(info.max), normal * jnp.inf, finite)


@_rounded_to.defjvp
def _rounded_to_jvp(dtype, primals, tangents):
    return _rounded_to(dtype, *primals), *tangents  # the input is rounded already; its derivative must not be
