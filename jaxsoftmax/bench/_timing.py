"""Interleaved rounds: A B C, A B C, …, so that whatever slows the machine down slows every subject."""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

FEWEST, MOST = 5, 201  # rounds


@dataclass(frozen=True)
class Spread:
    """Quartiles of one number seen in every round."""

    lower: float
    median: float
    upper: float


def spread(values: Sequence[float]) -> Spread:
    """Returns the quartiles of at least one value."""
    if len(values) == 1:
        return Spread(values[0], values[0], values[0])
    return Spread(*statistics.quantiles(values, n=4, method="inclusive"))


def seconds_of(call: Callable[[], Any]) -> float:
    """Returns the time of one call; its outputs are gone before the next.

    The call returns when it is done: what JAX computes is waited for with `jax.block_until_ready`.

    >>> clocks = {"a": lambda: seconds_of(lambda: sum(range(1000))), "b": lambda: seconds_of(lambda: sum(range(9000)))}
    >>> times = interleaved(clocks, budget=0.0, repetitions=9)
    >>> ratios(times["b"], times["a"]).median > 1.0
    True
    """
    start = time.perf_counter()
    outputs = call()
    elapsed = time.perf_counter() - start
    del outputs
    return elapsed


def interleaved(
    clocks: Mapping[str, Callable[[], float]], budget: float, repetitions: int | None
) -> dict[str, list[float]]:
    """Asks each clock in turn for the seconds of one call, round after round.

    Args:
      clocks: by subject.
      budget: seconds after which no round begins, once there are enough of them.
      repetitions: the number of rounds; if None, what fits in the budget.

    Returns:
      The seconds of each round, by subject.
    """
    times: dict[str, list[float]] = {subject: [] for subject in clocks}
    fewest, most = (FEWEST, MOST) if repetitions is None else (repetitions, repetitions)
    spent = 0.0
    for done in range(most):
        if done >= fewest and spent >= budget:
            break
        for subject, clock in clocks.items():
            times[subject].append(clock())
            spent += times[subject][-1]
    return times


def ratios(times: Sequence[float], base: Sequence[float]) -> Spread:
    """Returns the quartiles of the ratios within each round."""
    return spread([mine / theirs for mine, theirs in zip(times, base, strict=True)])
