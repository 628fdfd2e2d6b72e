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
    info = jnp.finfo(dtype)
    return lax.reduce_precision(wide, info.nexp, info.nmant)


@_rounded_to.defjvp
def _rounded_to_jvp(dtype, primals, tangents):
    return _rounded_to(dtype, *primals), *tangents  # the input is rounded already; its derivative must not be
