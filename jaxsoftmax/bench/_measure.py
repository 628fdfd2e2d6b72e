"""Every subject on every case: compiled, timed in interleaved rounds, checked, and its peak memory measured."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import Any

import jax
import numpy as np

from jaxsoftmax.bench._case import VALUE, Case
from jaxsoftmax.bench._inputs import inputs
from jaxsoftmax.bench._jax_runner import JaxRunner
from jaxsoftmax.bench._memory import PeakMemory
from jaxsoftmax.bench._record import Row
from jaxsoftmax.bench._reference import judge
from jaxsoftmax.bench._subjects import FLOOR, subjects_of
from jaxsoftmax.bench._timing import interleaved, ratios, spread
from jaxsoftmax.bench._torch_runner import RemoteTorch
from jaxsoftmax.bench._worker import Worker, WorkerError

Advance = Callable[[int, int, str], None]


@dataclass(frozen=True)
class Effort:
    """How long to measure."""

    seconds: float = 6.0  # a case
    repetitions: int | None = None  # rounds, instead of those seconds
    fresh: bool = True  # whether the peak of memory is taken, in a fresh process for each row


@dataclass
class _Steps:
    """Counts what is done."""

    total: int
    advance: Advance
    done: int = field(default=0)

    def next(self, label: str) -> None:
        self.advance(self.done, self.total, label)
        self.done += 1


class _SubjectError(Exception):
    """A call failed after its warm-up."""

    def __init__(self, subject: str, failure: str) -> None:
        super().__init__(failure)
        self.subject = subject


def measure(cases: Sequence[Case], peers: tuple[str, ...], effort: Effort, advance: Advance) -> tuple[Row, ...]:
    """Measures each case.

    Args:
      cases: what to measure.
      peers: beside jaxsoftmax, the base of its ratios and the floor; those that are installed.
      effort: how long.
      advance: called as advance(done, total, label) before each step.
    """
    by_case = {case: subjects_of(case, peers) for case in cases}
    steps = _Steps(sum((2 if effort.fresh else 1) * len(subjects) + 2 for subjects in by_case.values()), advance)
    device = "cuda" if jax.default_backend() == "gpu" else "cpu"
    with ExitStack() as stack:
        torch = RemoteTorch(device, stack)
        return tuple(
            row
            for case, subjects in by_case.items()
            for row in _Measurement(case, subjects, effort, steps, torch, device).rows()
        )


@dataclass
class _Measurement:
    """One case."""

    case: Case
    subjects: tuple[str, ...]
    effort: Effort
    steps: _Steps
    torch: RemoteTorch
    device: str
    failures: dict[str, str] = field(default_factory=dict)

    def rows(self) -> list[Row]:
        arrays, on_device = self._inputs()
        runners = self._runners(on_device)
        self.steps.next(f"{self.case.label}: rounds")
        times = self._times(runners)
        rows = {name: self._timed(name, runners[name], times) for name in times}
        self.steps.next(f"{self.case.label}: gradients in float64")
        if self.case.quantity != VALUE and runners:
            self._judge(rows, runners, arrays)
        runners.clear()
        on_device.clear()
        self.torch.release()
        if self.effort.fresh:
            self._weigh(rows)
        return [
            rows[name] if name in rows else Row(self.case, name, failure=self.failures[name]) for name in self.subjects
        ]

    def _inputs(self) -> tuple[tuple[np.ndarray, ...], list[jax.Array]]:
        """The inputs on the host and on the device, one copy for all subjects."""
        try:
            arrays = inputs(self.case)
            return arrays, jax.block_until_ready([jax.device_put(array) for array in arrays])
        except (MemoryError, jax.errors.JaxRuntimeError) as error:
            self.failures = dict.fromkeys(self.subjects, first_line(error))
            return (), []

    def _runners(self, arrays: Sequence[jax.Array]) -> dict[str, Any]:
        """Runners of the subjects that compiled, and ran once."""
        runners: dict[str, Any] = {}
        for name in self.subjects:
            self.steps.next(f"{self.case.label}: {name}")
            if name in self.failures:
                continue
            try:
                runner = self.torch.on(self.case) if name == "torch" else JaxRunner(name, self.case, arrays)
                runner.seconds()  # warm-up
                runners[name] = runner
            except Exception as error:
                self.failures[name] = first_line(error)
        return runners

    def _times(self, runners: dict[str, Any]) -> dict[str, list[float]]:
        while True:
            clocks = {name: _naming(name, runner.seconds) for name, runner in runners.items()}
            try:
                return interleaved(clocks, self.effort.seconds, self.effort.repetitions)
            except _SubjectError as error:
                self.failures[error.subject] = str(error)
                del runners[error.subject]

    def _timed(self, name: str, runner: Any, times: dict[str, list[float]]) -> Row:
        base, floor = times.get(self.case.base), times.get(FLOOR)
        return Row(
            self.case,
            name,
            rounds=len(times[name]),
            seconds=spread(times[name]),
            to_base=None if base is None else ratios(times[name], base),
            to_floor=None if floor is None else ratios(times[name], floor),
            compile_seconds=runner.compile_seconds,
            temp_bytes=runner.temp_bytes,
            output_bytes=runner.output_bytes,
        )

    def _judge(self, rows: dict[str, Row], runners: dict[str, Any], arrays: Sequence[np.ndarray]) -> None:
        try:
            error_of = judge(self.case, arrays)
        except MemoryError:  # float64 of this size: the errors stay unknown
            return
        for name in rows.keys() - {FLOOR}:
            try:
                error = error_of(runners[name].gradients())
            except Exception as failure:
                self.failures[name] = first_line(failure)
                del rows[name]
                continue
            rows[name] = replace(rows[name], gradient_error=error.norm, worst_token_error=error.worst_token)

    def _weigh(self, rows: dict[str, Row]) -> None:
        for name in self.subjects:
            self.steps.next(f"{self.case.label}: {name}, memory")
            if name in rows:
                with Worker(PeakMemory, self.device) as worker:
                    rows[name] = replace(rows[name], peak_bytes=_peak(worker, name, self.case))


def _naming(name: str, clock: Callable[[], float]) -> Callable[[], float]:
    def seconds() -> float:
        try:
            return clock()
        except Exception as error:
            raise _SubjectError(name, first_line(error)) from error

    return seconds


def _peak(worker: Worker, name: str, case: Case) -> int | None:
    try:
        return worker.ask("of", name, case)
    except WorkerError:  # such as one that the system has killed for want of memory
        return None


def first_line(error: Exception) -> str:
    """Returns what an exception says, in one line."""
    said = next(iter(str(error).splitlines()), "")
    return said if isinstance(error, WorkerError) else f"{type(error).__name__}: {said}"
