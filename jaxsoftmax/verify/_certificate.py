"""The certificate: every theorem, on every function an implementation offers, through every transformation."""

import os
import platform
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from importlib.metadata import version
from typing import Any, NamedTuple

import jax
import mpmath
import numpy as np

import jaxsoftmax
from jaxsoftmax.verify import _oracle
from jaxsoftmax.verify._checks import VARIANT, Task, judge
from jaxsoftmax.verify._implementations import attribute, is_function, keywords_of, offered, optional_arguments
from jaxsoftmax.verify._record import DIFFERENTIAL, UNKNOWN, Gap, Report, Row
from jaxsoftmax.verify._theorem import Claim, Theorem
from jaxsoftmax.verify._theorems import THEOREMS
from jaxsoftmax.verify._transformations import ALL, MAIN, ONE

DTYPES = ("float32", "float64", "bfloat16", "float16")


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
      quick: fewer transformations, and forward-mode variants for the first claim of each theorem or order only.
      progress: called as progress(done, total, label) after each step.

    Returns:
      A `Report`; it passes if every function that is offered is judged, and holds. What couldn't be judged, an argument
      that isn't offered say, is among its `gaps`.

    Raises:
      ValueError: an unknown theorem or dtype, or an implementation that has none of the functions, or one that raises
        when it is read.

    >>> import jax
    >>> report = certify(jax.nn, theorems=["M18"], dtypes=["float32"], quick=True)
    >>> report.passed, {row.theorem for row in report.failed}
    (False, {'M18'})
    """
    start = time.monotonic()
    _require_something(implementation)
    name = attribute(implementation, "__name__") or type(implementation).__name__
    plan = _tasks(implementation, _chosen_theorems(theorems), _chosen_dtypes(dtypes), quick)
    rows: list[Row] = []
    gaps = list(plan.gaps)
    groups = _programs(plan.tasks)
    for done, ((task, *_), (judged, refused)) in enumerate(_in_parallel(judge, groups), 1):
        rows += judged
        gaps += refused
        if progress:
            progress(done, len(groups), f"{task.theorem.number} {task.claim.function}, {task.dtype}")
    took = time.monotonic() - start
    named = (plan.offered, plan.missing, tuple(rows), _joined(gaps))
    return Report(name, *named, _device(), _versions(), took, quick)


def functions_of(theorems: Iterable[Theorem]) -> list[str]:
    """Returns the functions that theorems speak of, each once, without JAX's own differential."""
    return list(dict.fromkeys(f for theorem in theorems for f in theorem.functions if f != DIFFERENTIAL))


def _require_something(implementation: Any) -> None:
    functions = functions_of(THEOREMS.values())
    if not offered(implementation, functions):
        got = f"the function {implementation!r}" if is_function(implementation) else repr(implementation)
        raise ValueError(f"implementation: expected an object with some of {', '.join(functions)}, got {got}")


def _chosen_theorems(numbers: Sequence[str] | None) -> list[Theorem]:
    if numbers is None:
        return list(THEOREMS.values())
    _require_some_of("theorems", numbers, dict.fromkeys([*THEOREMS, *(known.split("-")[0] for known in THEOREMS)]))
    return [t for known, t in THEOREMS.items() if known in numbers or known.split("-")[0] in numbers]


def _chosen_dtypes(names: Sequence[str] | None) -> tuple[str, ...]:
    if names is None:
        return DTYPES
    _require_some_of("dtypes", names, DTYPES)
    return tuple(d for d in DTYPES if d in names)


def _require_some_of(argument: str, names: Sequence[str], known: Collection[str]) -> None:
    if isinstance(names, str):
        raise ValueError(f"{argument}: expected a sequence of names, got {names!r}; write [{names!r}]")
    unknown = [str(name) for name in names if name not in known]
    if unknown:
        raise ValueError(f"{argument}: expected some of {', '.join(known)}, got {', '.join(unknown)}")


class _Plan(NamedTuple):
    """What is to be judged."""

    tasks: list[Task]
    offered: tuple[str, ...]
    missing: tuple[str, ...]
    gaps: list[Gap]


def _tasks(implementation: Any, theorems: list[Theorem], dtypes: tuple[str, ...], quick: bool) -> _Plan:
    """Every claim on a function that is offered.

    The first claim of each theorem, and of each function and order, runs under all transformations, later ones under
    the main ones. If quick, under the main ones, and later ones under one, without the forward-mode variant.
    """
    tasks: list[Task] = []
    gaps: list[Gap] = []
    seen: dict[str, bool] = {}  # functions, and whether they are offered
    begun: set[Any] = set()
    for theorem, claim in ((t, c) for t in theorems for c in t.claims if set(c.dtypes) & set(dtypes)):
        functions = _functions(implementation, claim)
        seen |= {claim.function: seen.get(claim.function, False)} | dict.fromkeys(functions, True)
        claim, functions = _narrowed(claim, functions, quick)
        if claim is None or not functions:
            continue
        reason = _unmet(implementation, claim)
        if reason:
            unjudged = (f"{claim.quantity} ({theorem.number})",)
            gaps += [Gap(name, reason, unjudged, (theorem.number,)) for name in functions]
            continue
        if claim.devices == jax.device_count() == 1:
            gaps += [Gap(name, "one device is a mesh of one shard", ("several shards",)) for name in functions]
        kinds = {theorem.number, (claim.function, claim.order)}
        first = not kinds <= begun
        if quick and not first and claim.function in functions:
            functions = {claim.function: functions[claim.function]}
        transformations = (MAIN if quick else ALL) if first else ONE if quick else MAIN
        tasks += [Task(theorem, claim, functions, d, transformations, first) for d in dtypes if d in claim.dtypes]
        begun |= kinds
    seen.pop(DIFFERENTIAL, None)
    gaps += _unknown_arguments(implementation, [name for name, there in seen.items() if there])
    offered, missing = (tuple(name for name, there in seen.items() if there == wanted) for wanted in (True, False))
    return _Plan(tasks, offered, missing, gaps)


def _narrowed(
    claim: Claim, functions: dict[str, Callable[..., Any]], quick: bool
) -> tuple[Claim | None, dict[str, Callable[..., Any]]]:
    """The claim with those of its keywords that a function has, and the functions that it is judged on."""
    if claim.only_in_full:
        functions = {name: f for name, f in functions.items() if not quick and not name.startswith(VARIANT)}
    if claim.narrowed is None or not functions:
        return claim, functions
    known = [keywords_of(function) for function in functions.values()]
    if None in known:
        return claim, functions
    return claim.narrowed(frozenset.intersection(*filter(None, known))), functions


def _functions(implementation: Any, claim: Claim) -> dict[str, Callable[..., Any]]:
    """What a claim speaks of: the function, and its forward-mode variant if that is another."""
    function, variant = (_offered(implementation, prefix + claim.function) for prefix in ("", VARIANT))
    named = {claim.function: function, VARIANT + claim.function: None if variant is function else variant}
    return {name: f for name, f in named.items() if f is not None}


def _unmet(implementation: Any, claim: Claim) -> str:
    """Why a claim can't be judged here; empty if it can."""
    if claim.requires and _offered(implementation, claim.requires) is None:
        return f"no {claim.requires}"
    count = jax.device_count()
    if claim.devices > count:
        return f"{claim.devices} devices are needed, and there is {count}"
    return ""


def _unknown_arguments(implementation: Any, functions: Iterable[str]) -> Iterator[Gap]:
    """The optional arguments that a function has and this library's doesn't: nothing passes them."""
    for name in functions:
        function, ours = attribute(implementation, name), attribute(jaxsoftmax, name)
        unknown = optional_arguments(function) - optional_arguments(ours)
        if unknown:
            yield Gap(name, UNKNOWN, tuple(sorted(unknown)))


def _joined(gaps: Iterable[Gap]) -> tuple[Gap, ...]:
    """The gaps with those of one function and reason as one."""
    joined: dict[tuple[str, str], Gap] = {}
    for gap in gaps:
        known = joined.setdefault((gap.function, gap.reason), replace(gap, unjudged=(), theorems=()))
        unjudged, theorems = known.unjudged + gap.unjudged, known.theorems + gap.theorems
        named = {"unjudged": tuple(dict.fromkeys(unjudged)), "theorems": tuple(dict.fromkeys(theorems))}
        joined[gap.function, gap.reason] = replace(known, **named)
    return tuple(joined.values())


def _offered(implementation: Any, name: str) -> Callable[..., Any] | None:
    if name == DIFFERENTIAL:  # M1-M3 are about the differential itself
        return jax.jvp
    return attribute(implementation, name)


def _programs(tasks: list[Task]) -> list[list[Task]]:
    """The tasks, in one list those that are compiled together: of one theorem, function and dtype they share work."""
    groups: dict[Any, list[Task]] = {}
    for task in tasks:
        program = (task.theorem.number, task.claim.function, task.dtype, task.claim.devices > 0)
        groups.setdefault(program, []).append(task)
    return list(groups.values())


_Group = list[Task]


def _in_parallel(function: Callable[[_Group], Any], groups: list[_Group]) -> Iterator[tuple[_Group, Any]]:
    """Each group of tasks with its result; an interrupt doesn't wait for the rest.

    Those over a mesh come last and one by one: two at once might have each device wait for the other's.
    """
    executor = ThreadPoolExecutor(os.cpu_count())
    at_once, alone = ([g for g in groups if (g[0].claim.devices > 0) == on_mesh] for on_mesh in (False, True))
    try:
        with mpmath.workdps(_oracle.DIGITS):
            yield from zip(at_once, executor.map(function, at_once), strict=True)
            yield from ((group, function(group)) for group in alone)
    finally:
        executor.shutdown(wait=False, cancel_futures=True)


def _device() -> str:
    device = jax.devices()[0]
    return f"{device.device_kind} ({jax.device_count()} {device.platform})"


def _versions() -> dict[str, str]:
    return {
        "jaxsoftmax": jaxsoftmax.__version__,
        "jax": jax.__version__,
        "jaxlib": version("jaxlib"),
        "numpy": np.__version__,
        "mpmath": mpmath.__version__,
        "python": platform.python_version(),
    }
