"""The judges of one claim: 50-digit arithmetic, autodiff of the formula as printed, and finite differences."""

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxsoftmax.verify import _oracle, _transformations
from jaxsoftmax.verify._record import Row
from jaxsoftmax.verify._theorem import Claim, Inputs, Theorem

TWIN = "forward_mode."
MPMATH = "mpmath, 50 digits"
TEXTBOOK = "textbook autodiff, float64"
DIFFERENCES = "finite differences, float64"
# Fourth-order central differences: truncation h^4 f'''''/30 and rounding eps f/h meet near 1e-11.
STEP, DIFFERENCES_BOUND = 2.0**-8, 1e-9 / 2.0**-52
TEXTBOOK_BOUND = 64.0
LARGE = 256  # rows longer than this are not differentiated along each axis


@dataclass(frozen=True)
class Task:
    """One claim in one dtype, on a function and on its forward-mode twin if there is one."""

    theorem: Theorem
    claim: Claim
    functions: dict[str, Callable[..., Any]]  # by their dotted names
    dtype: str

    @property
    def is_first(self) -> bool:
        """Whether this is the first claim that the theorem makes of the function."""
        return self.claim is next(c for c in self.theorem.claims if c.function == self.claim.function)


def judge(task: Task, quick: bool) -> tuple[list[Row], list[str]]:
    """The rows of a task, and what was refused."""
    rows, refused = [], []
    double = task.dtype == "float64"
    with jax.enable_x64(double):
        inputs = task.claim.inputs(task.dtype)
        if task.is_first or not double:  # in float64 the other claims differ by their formulas alone
            expected = {id(i): _expected(task.claim, i) for i in inputs}
            rows, refused = _by_transformations(task, _batches(inputs), expected, quick)
        if double and task.claim.order and task.claim.textbook and task.claim.function in task.functions:
            rows += _by_other_judges(task, inputs[0])
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


def _by_transformations(
    task: Task, batches: list[list[Inputs]], expected: dict[int, _oracle.Expected], quick: bool
) -> tuple[list[Row], list[str]]:
    arguments = [_arguments(batch, task.dtype) for batch in batches]
    calls: dict[_Key, Callable[..., Any]] = {}
    for i, batch in enumerate(batches):
        scalar = task.claim.order == 1 and expected[id(batch[0])].value.ndim == arguments[i][0].ndim
        for name, function in task.functions.items():
            kept = _applicable(task, name, arguments[i][0], quick)
            for transformation, transformed in _transformed(task.claim, function, scalar).items():
                if transformation in kept:
                    calls[name, i, transformation] = transformed
    rows, refused = [], []
    for (name, i, transformation), result in _results(calls, arguments).items():
        if _refuses_forward_mode(result):
            refused.append(f"{name} under {transformation}: forward mode refused")
        else:
            rows += _rows(task, name, batches[i], expected, transformation, result)
    return rows, refused


def _transformed(claim: Claim, function: Callable[..., Any], scalar: bool) -> dict[str, Callable[..., Any]]:
    def call(*row):
        return claim.call(function, *row)

    return _transformations.transformations(call, claim.order, claim.rowwise, scalar)


def _applicable(task: Task, name: str, x: jax.Array, quick: bool) -> set[str]:
    """Every transformation for a theorem's first claim on a function in float32, the main ones for the others."""
    if name.startswith(TWIN) and task.dtype == "float32":
        names = _transformations.TWIN if task.is_first else _transformations.FORWARD[:1]
        return set(names) if x[0].size <= LARGE else set()
    if x[0].size > LARGE:
        return {"jit"} if task.claim.order < 2 else {"vmap"}
    if task.dtype != "float32":
        return set(_transformations.BY_DTYPE)
    thorough = task.is_first and not name.startswith("analytic.") and not quick
    return set(_transformations.ALL if thorough else _transformations.QUICK)


_Key = tuple[str, int, str]  # a function, a batch, a transformation


def _results(calls: dict[_Key, Callable[..., Any]], arguments: list[list[jax.Array]]) -> dict[_Key, Any]:
    """Each call's result or exception: those to be compiled in one program, unless that fails."""
    errors: dict[_Key, Exception] = {}

    def program(columns, keys):
        results = {}
        for key in keys:
            try:
                results[key] = calls[key](*columns[key[1]])
            except Exception as error:
                errors[key] = error
        return results

    together = tuple(key for key in calls if key[2] not in _transformations.EAGER)
    apart = tuple(key for key in calls if key[2] in _transformations.EAGER)
    results: dict[_Key, Any] = program(arguments, apart)
    compiled = jax.jit(program, static_argnums=1)
    try:
        results |= jax.device_get(compiled(arguments, together))
    except Exception:  # one of them breaks the program: which?
        for key in together:
            try:
                results |= jax.device_get(compiled(arguments, (key,)))
            except Exception as error:
                errors[key] = error
    return {key: errors[key] if key in errors else results[key] for key in calls}


def _refuses_forward_mode(error: Any) -> bool:
    return isinstance(error, TypeError) and "forward-mode autodiff (jvp)" in str(error) and "custom_vjp" in str(error)


def _rows(
    task: Task, name: str, batch: list[Inputs], expected: dict[int, _oracle.Expected], transformation: str, result: Any
) -> Iterator[Row]:
    ends = list(itertools.accumulate(len(i.arrays[0]) for i in batch))
    for inputs, end in zip(batch, ends, strict=True):
        if isinstance(result, Exception):
            error, detail = np.inf, f"{type(result).__name__}: {str(result).splitlines()[0] if str(result) else ''}"
        else:
            got = np.asarray(result)[end - len(inputs.arrays[0]) : end]
            error, detail = _oracle.ulps(got, expected[id(inputs)])
        yield _row(task, name, MPMATH, transformation, inputs.regime, error, task.claim.bound, detail)


def _row(
    task: Task, name: str, judge: str, transformation: str, regime: str, error: float, bound: float, detail: str
) -> Row:
    number, quantity = task.theorem.number, task.claim.quantity
    row = Row(number, name, quantity, judge, transformation, task.dtype, regime, float(error), bound, detail)
    return replace(row, detail="") if row.passed else row


def _by_other_judges(task: Task, inputs: Inputs) -> list[Row]:
    """The derivative against autodiff of the textbook formula, and against differences of the function's own values."""
    claim, textbook = task.claim, task.claim.textbook
    function = task.functions[claim.function]
    assert textbook is not None

    @jax.jit
    def derivatives(x, *constants):
        def call(x):
            return claim.call(function, x, *constants)

        def naive(x):
            return textbook(x, *constants)

        derivative, below = (jax.jacrev(call), call) if claim.order == 1 else (jax.hessian(call), jax.jacrev(call))
        judged = jax.jacrev(naive) if claim.order == 1 else jax.hessian(naive)
        return derivative(x), judged(x), _transformations.finite_differences(below, x, STEP)

    row = [a[0] for a in inputs.arrays]
    magnitude = np.asarray(claim.oracle(*row).high_magnitude)
    magnitude = _oracle.exact(np.maximum(magnitude, np.max(magnitude) / 8))  # an absolute error, all but for the tails
    how, rows = "jacrev" if claim.order == 1 else "hessian", []
    try:
        got, *others = jax.device_get(derivatives(*(a[0] for a in _arguments([inputs], task.dtype))))
    except Exception as error:
        detail = f"{type(error).__name__}: {error}"
        return [_row(task, claim.function, TEXTBOOK, how, inputs.regime, np.inf, TEXTBOOK_BOUND, detail)]
    for judge, bound, other in zip((TEXTBOOK, DIFFERENCES), (TEXTBOOK_BOUND, DIFFERENCES_BOUND), others, strict=True):
        error, detail = _oracle.ulps(got, _oracle.Expected(_oracle.exact(other), magnitude))
        rows.append(_row(task, claim.function, judge, how, inputs.regime, error, bound, detail))
    return rows
