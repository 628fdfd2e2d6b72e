"""The judges of one claim: 50-digit arithmetic, autodiff of the formula as printed, and finite differences."""

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxsoftmax.verify import _oracle, _transformations
from jaxsoftmax.verify._comparison import compared, explained, of_regime, worst_entry
from jaxsoftmax.verify._implementations import NotOfferedError, caught, said, watched
from jaxsoftmax.verify._record import NO_ARGUMENT, Gap, Row
from jaxsoftmax.verify._regimes import LOW_PRECISION
from jaxsoftmax.verify._theorem import Claim, Inputs, Theorem

VARIANT = "forward_mode."
MPMATH = "mpmath, 50 digits"
TEXTBOOK = "textbook autodiff, float64"
DIFFERENCES = "finite differences, float64"
# Fourth-order central differences: truncation error h^4 f^(5)/30, about 1e-11 f; rounding error eps f/h is less.
STEP, DIFFERENCES_BOUND = 2.0**-8, 1e-9 / 2.0**-52
OTHER_JUDGES = {TEXTBOOK: 64.0, DIFFERENCES: DIFFERENCES_BOUND}  # with their bounds in ulps
_TRACING = threading.Lock()  # two threads that trace one function at once may have JAX fail (StoreException)
LARGE = 256  # rows longer than this are not differentiated along each axis


@dataclass(frozen=True)
class Task:
    """One claim in one dtype, on a function and on its forward-mode variant if there is one."""

    theorem: Theorem
    claim: Claim
    functions: dict[str, Callable[..., Any]]  # by their dotted names
    dtype: str
    transformations: tuple[tuple[str, ...], ...]  # to run in float32, indexed by the claim's order
    first: bool = True  # of its theorem, or of its order on the function
    passed: dict[str, set[str]] = field(default_factory=dict)  # the keywords that each function was given


def judge(tasks: Sequence[Task]) -> tuple[list[Row], list[Gap]]:
    """The rows of tasks of one dtype, in one program, and what was refused; products as precise as the device can."""
    with jax.enable_x64(tasks[0].dtype == "float64"), jax.default_matmul_precision("highest"):
        prepared = [_prepared(task) for task in tasks]
        results = _results([work.calls for work in prepared], [work.arguments for work in prepared])
    rows: list[Row] = []
    refused: list[Gap] = []
    for work, of_task in zip(prepared, results, strict=True):
        for key, result in of_task.items():
            gap = _refusal(work.task, result, key)
            if gap:
                refused.append(gap)
            else:
                rows += _rows(work, key, result)
    return rows, refused


class _Work(NamedTuple):
    """A task with all that is compared."""

    task: Task
    batches: list[list[Inputs]]
    arguments: list[list[jax.Array]]  # of each batch
    expected: dict[int, _oracle.Expected]  # by the identity of the inputs
    calls: dict["_Key", Callable[..., Any]]


def _prepared(task: Task) -> _Work:
    task = _watched(task)
    batches = _batches(task.claim.inputs(task.dtype))
    expected = {id(i): _expected(task.claim, i) for batch in batches for i in batch}
    arguments = [_arguments(batch, task.dtype) for batch in batches]
    calls = _calls(task, arguments, expected[id(batches[0][0])])
    return _Work(task, batches, arguments, expected, calls)


def _watched(task: Task) -> Task:
    """The task with functions that note what keywords they are given, and refuse those that they don't have."""
    passed = {name: set[str]() for name in task.functions}
    functions = {name: watched(function, passed[name]) for name, function in task.functions.items()}
    return replace(task, functions=functions, passed=passed)


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
            kept = _applicable(task, name, x[0].size, first=i == 0)
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


def _applicable(task: Task, name: str, length: int, first: bool) -> set[str]:
    """The names of the transformations that a function is seen through, on rows of a length."""
    order, every = task.claim.order, task.transformations == _transformations.ALL
    if task.claim.through:
        return set(task.claim.through)
    if name.startswith(VARIANT):  # only its rules differ: the values are the plain function's
        return set(_of_variant(task, every and first)) if length <= LARGE else set()
    if length > LARGE:
        return {"jit"} if order < 2 else {"vmap"}
    if task.dtype != "float32":
        return {_transformations.MAIN[order][-1] if order else "jit"}
    return set((_transformations.MAIN if every and not first else task.transformations)[order])


def _of_variant(task: Task, every: bool) -> tuple[str, ...]:
    if task.dtype == "float64" and not task.first:
        return ()
    if task.claim.order == 0:
        return ("jit",)
    if task.dtype in LOW_PRECISION:
        return ("jacrev",)  # forward mode returns the loss's dtype, float32
    return _transformations.VARIANT if every and task.dtype == "float32" else _transformations.VARIANT[:1]


def _results(
    calls: list[dict[_Key, Callable[..., Any]]], arguments: list[list[list[jax.Array]]]
) -> list[dict[_Key, Any]]:
    """Each task's calls' results or exceptions: those to be compiled in one program, unless that fails."""
    errors: dict[tuple[int, _Key], BaseException] = {}
    distinct, places = _pooled(arguments)

    def program(distinct, keys):
        results = {}
        for task, key in keys:
            columns = [distinct[place] for place in places[task][key[1]]]
            with caught() as raised:
                results[task, key] = calls[task][key](*columns)
            if raised:
                errors[task, key] = raised[0]
        return results

    every = [(task, key) for task, of_task in enumerate(calls) for key in of_task]
    together = tuple(place for place in every if place[1][2] not in _transformations.EAGER)
    apart = tuple(place for place in every if place[1][2] in _transformations.EAGER)
    with _TRACING:
        results: dict[tuple[int, _Key], Any] = program(distinct, apart)

    def compiled(keys):
        with _TRACING:
            lowered = jax.jit(program, static_argnums=1).lower(distinct, keys)
        return jax.device_get(lowered.compile()(distinct))

    with caught() as raised:
        results |= compiled(together)
    if raised:  # one of them breaks the program: which?
        for place in together:
            with caught() as raised:
                results |= compiled((place,))
            if raised:
                errors[place] = raised[0]
    results |= errors
    return [{key: results[task, key] for key in of_task} for task, of_task in enumerate(calls)]


def _pooled(arguments: list[list[list[jax.Array]]]) -> tuple[list[jax.Array], list[list[list[int]]]]:
    """Distinct arrays, so that XLA shares work between calls, and each batch's indices into them."""
    distinct: dict[tuple[str, tuple[int, ...], bytes], tuple[int, jax.Array]] = {}

    def place(array: jax.Array) -> int:
        key = (str(array.dtype), array.shape, np.asarray(array).tobytes())
        return distinct.setdefault(key, (len(distinct), array))[0]

    places = [[[place(array) for array in batch] for batch in of_task] for of_task in arguments]
    return [array for _, array in distinct.values()], places


def _refusal(task: Task, error: Any, key: _Key) -> Gap | None:
    """Why a call is no evidence against a function: an argument that it doesn't offer, or no forward mode."""
    name, _, transformation = key
    number = task.theorem.number
    claim = (f"{task.claim.quantity} ({number})",), (number,)
    if isinstance(error, NotOfferedError):
        return Gap(name, f"{NO_ARGUMENT}{error.keyword}", *claim)
    if task.claim.may_refuse and isinstance(error, TypeError | ValueError) and not _is_forward_mode_refused(error):
        return Gap(name, f"{task.claim.may_refuse} are refused", *claim)
    if name.startswith(VARIANT) or not _is_forward_mode_refused(error):
        return None
    if transformation in _transformations.FORWARD[task.claim.order]:
        return Gap(name, "forward mode is refused", (transformation,))
    return None if task.claim.order else Gap(name, "forward mode is refused", *claim)


def _is_forward_mode_refused(error: Any) -> bool:
    if not isinstance(error, TypeError):
        return False
    message = said(error)
    return "forward-mode autodiff (jvp)" in message and "custom_vjp" in message


def _rows(work: _Work, key: _Key, result: Any) -> Iterator[Row]:
    name, i, transformation = key
    task, batch, expected = work.task, work.batches[i], work.expected
    if transformation in OTHER_JUDGES:
        yield _by_other_judge(task, work.batches[0][0], expected, transformation, result)
        return
    rows, start = sum(len(inputs.arrays[0]) for inputs in batch), 0
    for inputs in batch:
        seen = compared(of_regime(result, rows, start, expected[id(inputs)]), expected[id(inputs)], task.dtype)
        start += len(inputs.arrays[0])
        row = _row(task, name, MPMATH, transformation, inputs.regime, seen.error, task.claim.bound)
        yield row if row.passed else explained(row, task.claim, inputs, seen)


def _row(task: Task, name: str, judge: str, transformation: str, regime: str, error: float, bound: float) -> Row:
    number, quantity = task.theorem.number, task.claim.quantity
    keywords = tuple(sorted(task.passed[name]))
    return Row(number, name, quantity, judge, transformation, task.dtype, regime, error, bound, keywords)


def _both(claim: Claim, function: Callable[..., Any], other: Callable[..., Any]) -> Callable[..., Any]:
    """The first row's derivative, and another oracle's value of it."""

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
    textbook = claim.textbook
    assert textbook is not None
    return _derivative(claim.order)(lambda x: textbook(x, *constants))(x)


def _of_differences(claim: Claim, call: Callable[..., Any], x: jax.Array, constants: list[jax.Array]) -> jax.Array:
    """Differences of the function's own values, or of its gradient."""
    return _transformations.finite_differences(call if claim.order == 1 else jax.jacrev(call), x, STEP)


def _by_other_judge(task: Task, inputs: Inputs, expected: dict[int, _oracle.Expected], judge: str, result: Any) -> Row:
    magnitude = expected[id(inputs)].high_magnitude[0]
    magnitude = _oracle.exact(np.maximum(magnitude, np.max(magnitude) / 8))  # an absolute error, all but for the tails
    how = "jacrev" if task.claim.order == 1 else "hessian"
    own, other = (result, magnitude) if isinstance(result, BaseException) else result  # they come together
    other = other if np.shape(other) == magnitude.shape else magnitude  # a wrong shape: `compared` reports it for `own`
    seen = compared(own, _oracle.Expected(_oracle.exact(other), magnitude, expected[id(inputs)].parts), task.dtype)
    row = _row(task, task.claim.function, judge, how, inputs.regime, seen.error, OTHER_JUDGES[judge])
    if row.passed:
        return row
    return replace(row, detail=seen.reason or _oracle.difference(seen.got, seen.expected, worst_entry(seen.errors)))
