"""The certificate: every theorem, on every function an implementation offers, through every transformation."""

import itertools
import os
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from operator import attrgetter
from typing import Any

import jax
import jax.numpy as jnp
import mpmath
import numpy as np

import jaxsoftmax
from jaxsoftmax.verify import _oracle, _regimes, _transformations
from jaxsoftmax.verify._cross_entropy_theorems import CROSS_ENTROPY_THEOREMS
from jaxsoftmax.verify._linear_theorems import LINEAR_THEOREMS
from jaxsoftmax.verify._log_sum_exp_theorems import LOG_SUM_EXP_THEOREMS
from jaxsoftmax.verify._record import Report, Row
from jaxsoftmax.verify._softmax_theorems import SOFTMAX_THEOREMS
from jaxsoftmax.verify._theorem import Claim, Inputs, Theorem
from jaxsoftmax.verify._training_loss_theorems import TRAINING_LOSS_THEOREMS


def _number(theorem: Theorem) -> tuple[int, str]:
    number, _, part = theorem.number.partition("-")
    return int(number[1:]), part


THEOREMS: dict[str, Theorem] = {
    theorem.number: theorem
    for theorem in sorted(
        SOFTMAX_THEOREMS + LOG_SUM_EXP_THEOREMS + CROSS_ENTROPY_THEOREMS + LINEAR_THEOREMS + TRAINING_LOSS_THEOREMS,
        key=_number,
    )
}
DTYPES = ("float32", "float64", "bfloat16", "float16")
MPMATH = "mpmath, 50 digits"
TEXTBOOK = "textbook autodiff, float64"
DIFFERENCES = "finite differences, float64"
# Fourth-order central differences: truncation h^4 f'''''/30 and rounding eps f/h meet near 1e-11.
STEP, DIFFERENCES_BOUND = 2.0**-8, 1e-9 / 2.0**-52
TEXTBOOK_BOUND = 64.0
LARGE = 256  # rows longer than this are neither differentiated along each axis nor twice


@dataclass(frozen=True)
class _Task:
    theorem: Theorem
    claim: Claim
    name: str  # of the function, with `forward_mode.` for a twin
    function: Callable[..., Any]
    dtype: str


def certify(
    implementation: Any = jaxsoftmax,
    *,
    theorems: Sequence[str] | None = None,
    dtypes: Sequence[str] | None = None,
    quick: bool = False,
    progress: Callable[[int, int, str], None] | None = None,
) -> Report:
    """Judge whatever functions an implementation offers, theorem by theorem.

    Args:
      implementation: any object with some of the functions of `jaxsoftmax` as attributes, under the same names and
        signatures; those it lacks are skipped and listed. A `forward_mode` attribute is judged too.
      theorems: numbers such as "M5"; all if None. "M8" stands for its named parts too ("M8-empty").
      dtypes: of "float32", "float64", "bfloat16", "float16"; all if None.
      quick: float32, bfloat16 and float64 through the main transformations only.
      progress: called as progress(done, total, label) before each step.

    Returns:
      A `Report`; it passes if every row does.

    Raises:
      ValueError: an unknown theorem or dtype.

    >>> import jax
    >>> report = certify(jax.nn, theorems=["M18"], dtypes=["float32"], quick=True)
    >>> report.passed, {row.theorem for row in report.failed}
    (False, {'M18'})
    """
    start = time.monotonic()
    chosen = _chosen_theorems(theorems)
    tasks, skipped = _tasks(implementation, chosen, _chosen_dtypes(dtypes))
    rows: list[Row] = []
    for done, (task, (judged, refused)) in enumerate(_in_parallel(partial(_judge, quick=quick), tasks), 1):
        rows += judged
        skipped += refused
        if progress:
            progress(done, len(tasks), f"{task.theorem.number} {task.name}, {task.claim.quantity}, {task.dtype}")
    name = getattr(implementation, "__name__", type(implementation).__name__)
    return Report(name, tuple(rows), tuple(dict.fromkeys(skipped)), _device(), _versions(), time.monotonic() - start)


def _chosen_theorems(numbers: Sequence[str] | None) -> list[Theorem]:
    if numbers is None:
        return list(THEOREMS.values())
    unknown = [n for n in numbers if not any(known.split("-")[0] == n or known == n for known in THEOREMS)]
    if unknown:
        raise ValueError(f"theorems: expected some of {', '.join(THEOREMS)}, got {', '.join(unknown)}")
    return [t for known, t in THEOREMS.items() if known in numbers or known.split("-")[0] in numbers]


def _chosen_dtypes(names: Sequence[str] | None) -> tuple[str, ...]:
    unknown = set(names or ()) - set(DTYPES)
    if unknown:
        raise ValueError(f"dtypes: expected some of {', '.join(DTYPES)}, got {', '.join(sorted(unknown))}")
    return tuple(d for d in DTYPES if names is None or d in names)


def _tasks(implementation: Any, theorems: list[Theorem], dtypes: tuple[str, ...]) -> tuple[list[_Task], list[str]]:
    tasks, skipped = [], []
    for theorem, claim in ((t, c) for t in theorems for c in t.claims):
        function, twin = (_offered(implementation, prefix + claim.function) for prefix in ("", "forward_mode."))
        if function is None:
            skipped.append(f"{claim.function}: not offered")
        named = {claim.function: function, f"forward_mode.{claim.function}": None if twin is function else twin}
        for name, offered in named.items():
            if offered is not None:
                tasks += [_Task(theorem, claim, name, offered, d) for d in dtypes if d in claim.dtypes]
    return tasks, skipped


def _offered(implementation: Any, name: str) -> Callable[..., Any] | None:
    if name == "jax.jvp":  # M1-M3 are about the differential itself
        return jax.jvp
    try:
        return attrgetter(name)(implementation)
    except AttributeError:
        return None


def _in_parallel(function: Callable[[_Task], Any], tasks: list[_Task]) -> Iterator[tuple[_Task, Any]]:
    """Each task with its result, in order; XLA compiles on every core, and an interrupt doesn't wait for the rest."""
    executor = ThreadPoolExecutor(os.cpu_count())
    try:
        with mpmath.workdps(_oracle.DIGITS):
            yield from zip(tasks, executor.map(function, tasks), strict=True)
    finally:
        executor.shutdown(wait=False, cancel_futures=True)


def _judge(task: _Task, quick: bool) -> tuple[list[Row], list[str]]:
    with jax.enable_x64(task.dtype == "float64"):
        inputs = task.claim.inputs(task.dtype)
        expected = {id(i): _expected(task.claim, i) for i in inputs}
        rows, refused = _by_transformations(task, _batches(inputs), expected, quick)
        if task.dtype == "float64" and task.claim.order and task.claim.textbook and "forward_mode" not in task.name:
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
    task: _Task, batches: list[list[Inputs]], expected: dict[int, _oracle.Expected], quick: bool
) -> tuple[list[Row], list[str]]:
    arguments = [_arguments(batch, task.dtype) for batch in batches]
    calls: dict[tuple[int, str], Callable[[], jax.Array]] = {}
    for i, batch in enumerate(batches):
        for name, transformed in _applicable(task, arguments[i][0], expected[id(batch[0])], quick).items():
            calls[i, name] = lambda columns, i=i, transformed=transformed: transformed(*columns[i])
    rows, refused = [], []
    for (i, name), result in _results(calls, arguments).items():
        if _refuses_forward_mode(result):
            refused.append(f"{task.name} under {name}: forward mode refused")
        else:
            rows += _rows(task, batches[i], expected, name, result)
    return rows, refused


def _applicable(task: _Task, x: jax.Array, expected: _oracle.Expected, quick: bool) -> dict[str, Any]:
    claim = task.claim

    def call(*row):
        return claim.call(task.function, *row)

    scalar = claim.order == 1 and expected.value.ndim == x.ndim
    names = _transformations.transformations(call, claim.order, claim.rowwise, scalar)
    kept = set(names)
    if x[0].size > LARGE:
        kept &= set(_transformations.LARGE_ROWS if claim.order < 2 else ("vmap",))
    if task.dtype in _regimes.LOW_PRECISION:
        kept &= set(_transformations.LOW_PRECISION)
    if task.dtype != "float32" or task.name.startswith("analytic."):
        kept &= set(_transformations.QUICK)
    if task.name.startswith("forward_mode."):
        kept &= {*_transformations.FORWARD, "jit", "vmap", "jacrev"}
    if quick:
        kept &= set(_transformations.QUICK)
    return {name: transformed for name, transformed in names.items() if name in kept}


def _results(calls: dict[tuple[int, str], Callable], arguments: list) -> dict[tuple[int, str], Any]:
    """Each call's result or exception: those to be compiled in one program, unless that fails."""
    errors: dict[tuple[int, str], Exception] = {}

    def program(columns, keys):
        results = {}
        for key in keys:
            try:
                results[key] = calls[key](columns)
            except Exception as error:
                errors[key] = error
        return results

    together = tuple(key for key in calls if key[1] not in _transformations.EAGER)
    apart = tuple(key for key in calls if key[1] in _transformations.EAGER)
    results: dict[tuple[int, str], Any] = program(arguments, apart)
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
    task: _Task, batch: list[Inputs], expected: dict[int, _oracle.Expected], transformation: str, result: Any
) -> Iterator[Row]:
    ends = list(itertools.accumulate(len(i.arrays[0]) for i in batch))
    for inputs, end in zip(batch, ends, strict=True):
        if isinstance(result, Exception):
            error, detail = np.inf, f"{type(result).__name__}: {str(result).splitlines()[0] if str(result) else ''}"
        else:
            got = np.asarray(result)[end - len(inputs.arrays[0]) : end]
            error, detail = _oracle.ulps(got, expected[id(inputs)])
        yield _row(task, MPMATH, transformation, inputs.regime, error, task.claim.bound, detail)


def _row(task: _Task, judge: str, transformation: str, regime: str, error: float, bound: float, detail: str) -> Row:
    row = Row(
        task.theorem.number,
        task.name,
        task.claim.quantity,
        judge,
        transformation,
        task.dtype,
        regime,
        float(error),
        bound,
        detail,
    )
    return replace(row, detail="") if row.passed else row


def _by_other_judges(task: _Task, inputs: Inputs) -> list[Row]:
    """The derivative against autodiff of the textbook formula, and against differences of the function's own values."""
    claim, textbook = task.claim, task.claim.textbook
    assert textbook is not None

    @jax.jit
    def derivatives(x, *constants):
        def call(x):
            return claim.call(task.function, x, *constants)

        def naive(x):
            return textbook(x, *constants)

        derivative, below = (jax.jacrev(call), call) if claim.order == 1 else (jax.hessian(call), jax.jacrev(call))
        judged = jax.jacrev(naive) if claim.order == 1 else jax.hessian(naive)
        return derivative(x), judged(x), _transformations.finite_differences(below, x, STEP)

    row = [a[0] for a in inputs.arrays]
    magnitude = np.asarray(claim.oracle(*row).high_magnitude)
    magnitude = _oracle.exact(np.maximum(magnitude, np.max(magnitude) / 8))  # an absolute error, all but for the tails
    name, rows = "jacrev" if claim.order == 1 else "hessian", []
    try:
        got, *others = jax.device_get(derivatives(*(a[0] for a in _arguments([inputs], task.dtype))))
    except Exception as error:
        return [_row(task, TEXTBOOK, name, inputs.regime, np.inf, TEXTBOOK_BOUND, f"{type(error).__name__}: {error}")]
    for judge, bound, other in zip((TEXTBOOK, DIFFERENCES), (TEXTBOOK_BOUND, DIFFERENCES_BOUND), others, strict=True):
        error, detail = _oracle.ulps(got, _oracle.Expected(_oracle.exact(other), magnitude))
        rows.append(_row(task, judge, name, inputs.regime, error, bound, detail))
    return rows


def _device() -> str:
    device = jax.devices()[0]
    return f"{device.device_kind} ({jax.device_count()} {device.platform})"


def _versions() -> dict[str, str]:
    import jaxlib

    return {
        "jaxsoftmax": jaxsoftmax.__version__,
        "jax": jax.__version__,
        "jaxlib": jaxlib.__version__,
        "numpy": np.__version__,
        "mpmath": mpmath.__version__,
        "python": platform.python_version(),
    }
