"""Argument errors: each names the argument, what was expected and what came."""

import math
import operator
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.core import Tracer


def as_array(name: str, value: Any) -> Array:
    """`value` as a real array; TypeError for anything else."""
    if isinstance(value, (str, bytes)) or value is None or hasattr(value, "_fields"):  # or a NamedTuple of arrays
        raise TypeError(f"{name}: expected an array, got {type(value).__name__}")
    if isinstance(value, (np.ndarray, np.generic)) and (value.dtype.kind in "OSUMm" or value.dtype.names):
        raise TypeError(f"{name}: expected an array of numbers, got {value.dtype}")
    try:
        array = jnp.asarray(value)
    except OverflowError as error:
        raise ValueError(f"{name}: expected numbers in the range of their dtype, got {error}") from None
    except (TypeError, ValueError) as error:
        raise TypeError(f"{name}: expected an array, got {type(value).__name__} ({error})") from None
    if jnp.issubdtype(array.dtype, jax.dtypes.extended):
        raise TypeError(f"{name}: expected an array of numbers, got {array.dtype}")
    if jnp.issubdtype(array.dtype, jnp.complexfloating):
        raise TypeError(f"{name}: expected a real dtype, got {array.dtype}")
    return array


def as_labels(name: str, value: Any) -> Array:
    """`value` as a real array; ValueError if an integer overflows JAX's dtype (`jax_enable_x64` off)."""
    array = as_array(name, value)
    changed = _narrowed(value, array)
    if changed.size:
        raise ValueError(f"{name}: expected integers in the range of {array.dtype}, got {changed[0]}")
    return array


def as_real(name: str, value: Any) -> Array:
    """`value` as a real array; as float32 if an integer in a NumPy array overflows JAX's integer dtype."""
    array = as_array(name, value)
    return jnp.asarray(np.asarray(value).astype(np.float32)) if _narrowed(value, array).size else array


def _narrowed(value: Any, array: Array) -> np.ndarray:
    """The integers in `value` that changed when JAX converted it to `array`."""
    nothing = np.zeros(0, np.int64)
    if not jnp.issubdtype(array.dtype, jnp.integer) or not isinstance(value, (np.ndarray, np.generic, list, tuple)):
        return nothing
    if isinstance(value, (list, tuple)) and isinstance(array, Tracer):
        return nothing  # of traced numbers, which are JAX's already
    given = np.asarray(value)
    return nothing if given.dtype == array.dtype else given[given != given.astype(array.dtype)]


def as_inexact(name: str, value: Any) -> Array:
    """`value` as a floating array; integers and booleans are promoted, as jax.nn does."""
    array = as_real(name, value)
    return array if jnp.issubdtype(array.dtype, jnp.floating) else array.astype(inexact_dtype(array))


def inexact_dtype(*arrays: Array) -> jnp.dtype:
    """jax.nn's result dtype: the promoted dtype; for integers float64 if that has 64 bits, else float32."""
    dtype = jnp.result_type(*arrays)
    if jnp.issubdtype(dtype, jnp.floating):
        return dtype
    return jnp.dtype("float64" if dtype.itemsize == 8 else "float32")


def as_floating(name: str, value: Any) -> Array:
    """`value` as an array that must already be floating."""
    array = as_array(name, value)
    if not jnp.issubdtype(array.dtype, jnp.floating):
        raise TypeError(f"{name}: expected a floating dtype, got {array.dtype}")
    return array


def as_integer(name: str, value: Any, hint: str = "") -> Array:
    """`value` as an array that must already be of an integer dtype."""
    array = as_labels(name, value)
    if not jnp.issubdtype(array.dtype, jnp.integer):
        raise TypeError(f"{name}: expected an integer dtype, got {array.dtype}{hint}")
    return array


def as_mask(name: str, value: Any) -> Array:
    """`value` as a boolean array; numbers are compared with zero."""
    array = as_array(name, value)
    return array if array.dtype == bool else array != 0


def require_shape(name: str, array: Array, shape: Sequence[int], meaning: str) -> None:
    """ValueError unless `array.shape == shape`."""
    if array.shape != tuple(shape):
        raise ValueError(f"{name}: expected shape {tuple(shape)} ({meaning}), got {array.shape}")


def broadcast_shape(arrays: dict[str, Array]) -> tuple[int, ...]:
    """The common shape of named arrays; ValueError naming each where there is none."""
    try:
        return jnp.broadcast_shapes(*(array.shape for array in arrays.values()))
    except ValueError:
        shapes = ", ".join(f"{name} {array.shape}" for name, array in arrays.items())
        names = " and ".join(arrays)
        raise ValueError(f"{names}: expected shapes that broadcast together, got {shapes}") from None


def as_axes(axis: Any, ndim: int) -> tuple[int, ...]:
    """`axis` (None, an int or ints) as a tuple of distinct axes in [0, ndim)."""
    if axis is None:
        return tuple(range(ndim))
    given = tuple(axis) if isinstance(axis, Sequence) else (axis,)
    if not all(_is_int(a) for a in given):
        raise TypeError(f"axis: expected None, an int or a tuple of ints, got {axis!r}")
    if ndim == 0 and given:
        raise ValueError(f"axis: expected None or () for a scalar, got {axis!r}")
    if not all(-ndim <= a < ndim for a in given):
        raise ValueError(f"axis: expected axes in [{-ndim}, {ndim}), got {axis!r}")
    axes = tuple(int(a) % ndim for a in given)
    if len(set(axes)) != len(axes):
        raise ValueError(f"axis: expected distinct axes, got {axis!r}")
    return axes


def as_axis_names(name: str, value: Any, others: str = "") -> tuple[str, ...]:
    """`value` (None, a mesh axis or several) as a tuple of names."""
    names = () if value is None else (value,) if isinstance(value, str) else value
    if not isinstance(names, tuple) or not all(isinstance(axis, str) for axis in names):
        raise TypeError(f"{name}: expected None, the name of a mesh axis or a tuple of them{others}, got {value!r}")
    if len(set(names)) < len(names):
        raise ValueError(f"{name}: expected distinct axes, got {value!r}")
    return names


def _is_int(value: Any) -> bool:
    try:
        operator.index(value)
    except (TypeError, ValueError):
        return False
    return not isinstance(value, bool)


def require_broadcastable(name: str, array: Array, shape: Sequence[int], owner: str) -> None:
    """ValueError unless `array` broadcasts to `shape`."""
    fits = array.ndim <= len(shape) and all(n in (1, m) for n, m in zip(array.shape[::-1], shape[::-1], strict=False))
    if not fits:
        raise ValueError(f"{name}: expected a shape that broadcasts to the {owner} {tuple(shape)}, got {array.shape}")


def as_int(name: str, value: Any, bits: int = 32) -> int:
    """`value` as a Python int of so many bits, known when tracing."""
    if isinstance(value, Tracer):
        raise TypeError(f"{name}: expected an int or None, known when tracing, got a traced value")
    if not _is_int(value):
        raise TypeError(f"{name}: expected an int or None, got {type(value).__name__}")
    if not -(2 ** (bits - 1)) <= int(value) < 2 ** (bits - 1):
        raise ValueError(f"{name}: expected an int of {bits} bits or None, got {value}")
    return int(value)


def as_flag(name: str, value: Any) -> bool:
    """`value` as a Python bool, known when tracing."""
    if not isinstance(value, (bool, np.bool_, int, np.integer)):
        raise TypeError(f"{name}: expected a bool, got {type(value).__name__}")
    return bool(value)


def as_number(name: str, value: Any, expected: str) -> float:
    """`value` as a finite Python float, known when tracing."""
    if isinstance(value, Tracer):
        raise TypeError(f"{name}: expected {expected}, known when tracing, got a traced value")
    try:
        number = float(value)
    except OverflowError:
        raise ValueError(f"{name}: expected {expected}, got an int beyond the range of a float") from None
    except (TypeError, ValueError):
        got = f"shape {shape}" if (shape := getattr(value, "shape", ())) else type(value).__name__
        raise TypeError(f"{name}: expected {expected}, got {got}") from None
    if isinstance(value, (str, bytes)):
        raise TypeError(f"{name}: expected {expected}, got {type(value).__name__}")
    if not math.isfinite(number):
        raise ValueError(f"{name}: expected {expected} and finite, got {number}")
    return number
