"""The judges of one claim: 50-digit arithmetic, autodiff of the formula as printed, and finite differences."""

import itertools
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxsoftmax.verify import _oracle, _transformations
from jaxsoftmax.verify._implementations import caught, said
from jaxsoftmax.verify._record import Row
from jaxsoftmax.verify._regimes import LOW_PRECISION
from jaxsoftmax.verify._theorem import Claim, Inputs, Theorem

TWIN = "forward_mode."
MPMATH = "mpmath, 50 digits"
TEXTBOOK = "textbook autodiff, float64"
DIFFERENCES = "finite differences, float64"
# Fourth-order central differences: h^4 f'''''/30 are truncated, some 1e-11 of f, and eps f/h rounded, far less.
STEP, DIFFERENCES_BOUND = 2.0**-8, 1e-9 / 2.0**-52
OTHER_JUDGES = {TEXTBOOK: 64.0, DIFFERENCES: DIFFERENCES_BOUND}  # with their bounds in ulps
LARGE = 256  # rows longer than this are not differentiated along each axis


@dataclass(frozen=True)
class Task:
    """One claim in one dtype, on a function and on its forward-mode twin if there is one."""

    theorem: Theorem
    claim: Claim
    functions: dict[str, Callable[..., Any]]  # by their dotted names
    dtype: str
    thorough: bool  # under every transformation, or the main ones


def judge(task: Task) -> tuple[list[Row], list[str]]:
    """The rows of a task, and what was refused; matrix products as precise as the device can."""
    with jax.enable_x64(task.dtype == "float64"), jax.default_matmul_precision("highest"):
        batches = _batches(task.claim.inputs(task.dtype))
        expected = {id(i): _expected(task.claim, i) for batch in batches for i in batch}
        arguments = [_arguments(batch, task.dtype) for batch in batches]
        results = _results(_calls(task, arguments, expected[id(batches[0][0])]), arguments)
    rows, refused = [], []
    for (name, i, transformation), result in results.items():
        reason = _refusal(result, name)
        if reason:
            refused.append(f"{name} under {transformation}: {reason}")
        elif transformation in OTHER_JUDGES:
            rows.append(_by_other_judge(task, batches[0][0], expected, transformation, result))
        else:
            rows += _rows(task, name, batches[i], expected, transformation, result)
    return rows, refused


def _batches(inputs: list[Inputs]) -> list[list[Inputs]]:
    """Regimes of one shape go together: one compilation serves them all."""
    shapes: dict[tuple, list[Inputs]] = {}
    for i in inputs:
        shapes.setdefault(tuple(a.shape[1:] for a in i.arrays), []).append(i)
    return list(shapes.values())


def _expected(claim: Claim, inputs: Inputs) -> _oracle.Expected:
    return _oracle.Expected.stack([claim.oracle(*row) for row in zip(*inputs.arrays, strict=True)])


def _arguments(batch: list[Inputs], dtype: str) -> list[jax.Array]:
    columns = (np.concatenate(column) for column in zip(*(i.arrays for i in batch), strict=True))
    return [jnp.asarray(c, dtype if np.issubdtype(c.dtype, np.floating) else c.dtype) for c in columns]


_Key = tuple[str, int, str]  # a function, a batch, a transformation or another judge


def _calls(task: Task, arguments: list[list[jax.Array]], expected: _oracle.Expected) -> dict[_Key, Callable[..., Any]]:
    """What is to be computed: every transformation that applies, and in float64 what the other judges compare."""
    claim, calls = task.claim, {}
    scalar = claim.order == 1 and expected.value.ndim == arguments[0][0].ndim
    for i, (x, *_) in enumerate(arguments):
        for name, function in task.functions.items():
            kept = _applicable(task, name, x[0].size, thorough=task.thorough and i == 0)
            for transformation, transformed in _transformed(claim, function, scalar).items():
                if transformation in kept:
                    calls[name, i, transformation] = transformed
    if task.dtype == "float64" and claim.order and claim.textbook and claim.function in task.functions:
        function = task.functions[claim.function]
        calls[claim.function, 0, TEXTBOOK] = _both(claim, function, _of_textbook)
        calls[claim.function, 0, DIFFERENCES] = _both(claim, function, _of_differences)
    return calls


def _transformed(claim: Claim, function: Callable[..., Any], scalar: bool) -> dict[str, Callable[..., Any]]:
    def call(*row):
        return claim.call(function, *row)

    return _transformations.transformations(call, claim.order, claim.rowwise, scalar)


def _applicable(task: Task, name: str, length: int, thorough: bool) -> set[str]:
    """The names of the transformations that a function is seen through, on rows of a length."""
    order = task.claim.order
    if name.startswith(TWIN):  # whose own is the rule: the values are its namesake's
        return set(_of_twin(task.dtype, order, thorough)) if length <= LARGE else set()
    if length > LARGE:
        return {"jit"} if order < 2 else {"vmap"}
    if task.dtype != "float32":
        return {_transformations.MAIN[order][-1] if order else "jit"}
    return set(_transformations.ALL if thorough else _transformations.MAIN[order])


def _of_twin(dtype: str, order: int, thorough: bool) -> tuple[str, ...]:
    if dtype == "float64" and not thorough:
        return ()
    if order == 0:
        return ("jit",)
    if dtype in LOW_PRECISION:
        return ("jacrev",)  # in forward mode, it is the loss's float32 that comes back
    return _transformations.TWIN if thorough and dtype == "float32" else _transformations.TWIN[:1]


def _results(calls: dict[_Key, Callable[..., Any]], arguments: list[list[jax.Array]]) -> dict[_Key, Any]:
    """Each call's result or exception: those to be compiled in one program, unless that fails."""
    errors: dict[_Key, BaseException] = {}

    def program(columns, keys):
        results = {}
        for key in keys:
            with caught() as raised:
                results[key] = calls[key](*columns[key[1]])
            if raised:
                errors[key] = raised[0]
        return results

    together = tuple(key for key in calls if key[2] not in _transformations.EAGER)
    apart = tuple(key for key in calls if key[2] in _transformations.EAGER)
    results: dict[_Key, Any] = program(arguments, apart)
    compiled = jax.jit(program, static_argnums=1)
    with caught() as raised:
        results |= jax.device_get(compiled(arguments, together))
    if raised:  # one of them breaks the program: which?
        for key in together:
            with caught() as raised:
                results |= jax.device_get(compiled(arguments, (key,)))
            if raised:
                errors[key] = raised[0]
    return {key: errors[key] if key in errors else results[key] for key in calls}


def _refusal(error: Any, name: str) -> str:
    """Why a call is no evidence against a function: JAX's limits, or an argument that it doesn't offer."""
    if not isinstance(error, TypeError):
        return ""
    message = said(error)
    if "forward-mode autodiff (jvp)" in message and "custom_vjp" in message and not name.startswith(TWIN):
        return "forward mode refused"
    lacking = re.search(r"unexpected keyword argument '(\w+)'", message)
    return f"argument {lacking[1]} not offered" if lacking else ""


def _rows(
    task: Task, name: str, batch: list[Inputs], expected: dict[int, _oracle.Expected], transformation: str, result: Any
) -> Iterator[Row]:
    ends = list(itertools.accumulate(len(i.arrays[0]) for i in batch))
    for inputs, end in zip(batch, ends, strict=True):
        error, detail = _compared(result, ends[-1], end - len(inputs.arrays[0]), expected[id(inputs)], task.dtype)
        yield _row(task, name, MPMATH, transformation, inputs.regime, error, task.claim.bound, detail)


def _compared(result: Any, rows: int, start: int, expected: _oracle.Expected, dtype: str) -> tuple[float, str]:
    """The error of a regime's rows in a batch's result, which may be an exception, or anything that a rule returns."""
    if isinstance(result, BaseException):
        return np.inf, _raised(result)
    if not isinstance(result, np.ndarray | np.generic | jax.Array):
        return np.inf, f"{type(result).__name__}, expected an array"
    got = np.asarray(result)
    if got.ndim == 0 or len(got) != rows:
        return np.inf, f"shape {got.shape} for {rows} rows, expected {(rows, *expected.value.shape[1:])}"
    return _oracle.ulps(got[start : start + len(expected.value)], expected, dtype)


def _raised(error: BaseException) -> str:
    return said(error).splitlines()[0]


def _row(
    task: Task, name: str, judge: str, transformation: str, regime: str, error: float, bound: float, detail: str
) -> Row:
    number, quantity = task.theorem.number, task.claim.quantity
    row = Row(number, name, quantity, judge, transformation, task.dtype, regime, float(error), bound, detail)
    return replace(row, detail="") if row.passed else row


def _both(claim: Claim, function: Callable[..., Any], other: Callable[..., Any]) -> Callable[..., Any]:
    """The first row's derivative, and the same as another judge has it."""

    def derivatives(*columns):
        x, *constants = (column[0] for column in columns)

        def call(x):
            return claim.call(function, x, *constants)

        return _derivative(claim.order)(call)(x), other(claim, call, x, constants)

    return derivatives


def _derivative(order: int) -> Callable[..., Any]:
    return jax.jacrev if order == 1 else jax.hessian


def _of_textbook(claim: Claim, call: Callable[..., Any], x: jax.Array, constants: list[jax.Array]) -> jax.Array:
    """Autodiff of the formula as printed."""
    del call
    textbook = claim.textbook
    assert textbook is not None
    return _derivative(claim.order)(lambda x: textbook(x, *constants))(x)


def _of_differences(claim: Claim, call: Callable[..., Any], x: jax.Array, constants: list[jax.Array]) -> jax.Array:
    """Differences of the function's own values, or of its gradient."""
    del constants
    return _transformations.finite_differences(call if claim.order == 1 else jax.jacrev(call), x, STEP)


def _by_other_judge(task: Task, inputs: Inputs, expected: dict[int, _oracle.Expected], judge: str, result: Any) -> Row:
    magnitude = expected[id(inputs)].high_magnitude[0]
    magnitude = _oracle.exact(np.maximum(magnitude, np.max(magnitude) / 8))  # an absolute error, all but for the tails
    error, detail = _compared_with_other(result, magnitude, task.dtype)
    how = "jacrev" if task.claim.order == 1 else "hessian"
    return _row(task, task.claim.function, judge, how, inputs.regime, error, OTHER_JUDGES[judge], detail)


def _compared_with_other(result: Any, magnitude: np.ndarray, dtype: str) -> tuple[float, str]:
    """The error of a derivative beside another judge's; the two come together, unless they are an exception."""
    if isinstance(result, BaseException):
        return np.inf, _raised(result)
    got, other = result
    if not isinstance(got, np.ndarray):
        return np.inf, f"{type(got).__name__}, expected an array"
    if got.shape != magnitude.shape:
        return np.inf, f"shape {got.shape}, expected {magnitude.shape}"
    return _oracle.ulps(got, _oracle.Expected(_oracle.exact(other), magnitude), dtype)
