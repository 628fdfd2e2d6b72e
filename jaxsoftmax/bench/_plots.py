"""Time and temporary memory against vocabulary and tokens, on logarithmic axes, with the power of each line."""

import io
import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullLocator

from jaxsoftmax.bench._case import BATCH, Case
from jaxsoftmax.bench._record import Row
from jaxsoftmax.bench._subjects import FLOOR, SUBJECT

_COLOURS = {
    SUBJECT: "#0b5fd0",
    "optax": "#d1495b",
    "jax": "#edae49",
    "tokamax": "#6a994e",
    "torch": "#8e6bb8",
    FLOOR: "#8c959f",
}
_POSITIONS = {"V": -1, "N": 0}  # of an axis in a shape
_AXIS_NAMES = {"V": "classes V", "N": "tokens N"}
_QUANTITIES: dict[str, Callable[[Row], float | None]] = {
    "time (ms)": lambda row: None if row.seconds is None else 1e3 * row.seconds.median,
    # The floor holds all logits: no lower bound on memory.
    "temporary memory (MiB)": lambda row: (
        None if row.subject == FLOOR or not row.temp_bytes else row.temp_bytes / 2**20
    ),
}


@dataclass(frozen=True)
class Sweep:
    """Cases that differ along one axis of their shape alone."""

    axis: str  # "V" or "N"
    cases: tuple[Case, ...]

    def at(self, case: Case) -> int:
        """Returns where on the axis a case is."""
        return case.shape[_POSITIONS[self.axis]]

    @property
    def fixed(self) -> str:
        """The rest of the shape."""
        names = "NDV" if self.cases[0].kind == "linear" else "NV"
        return ", ".join(
            f"{name} = {size}" for name, size in zip(names, self.cases[0].shape, strict=True) if name != self.axis
        )


def sweeps(cases: Sequence[Case]) -> tuple[Sweep, ...]:
    """Returns the longest sweep along either axis, both of the same loss, dtype and pass; none of a single point."""
    families: dict[Case, list[Case]] = {}
    for case in cases:
        families.setdefault(replace(case, shape=(BATCH,) * len(case.shape)), []).append(case)
    found = [[sweep for axis in _POSITIONS if (sweep := _longest(axis, family))] for family in families.values()]
    return tuple(max(found, key=lambda both: sum(len(sweep.cases) for sweep in both), default=[]))


def _longest(axis: str, cases: Sequence[Case]) -> Sweep | None:
    lines: dict[tuple[int, ...], list[Case]] = {}
    for case in cases:
        rest = list(case.shape)
        del rest[_POSITIONS[axis]]
        lines.setdefault(tuple(rest), []).append(case)
    longest = max(lines.values(), key=len)
    sweep = Sweep(axis, tuple(longest))
    return replace(sweep, cases=tuple(sorted(longest, key=sweep.at))) if len(longest) > 1 else None


def draw(rows: Sequence[Row], drawn: Sequence[Sweep], caption: str) -> bytes:
    """Returns the figure as PNG: a column for each sweep, time above memory."""
    figure = Figure(figsize=(1.0 + 5.6 * len(drawn), 8.6), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(2, len(drawn), squeeze=False, sharey="row", sharex="col")
    for panels, (quantity, value) in zip(grid, _QUANTITIES.items(), strict=True):
        for axes, sweep in zip(panels, drawn, strict=True):
            _draw_panel(axes, rows, sweep, value)
        panels[0].set_ylabel(quantity)
    for axes, sweep in zip(grid[0], drawn, strict=True):
        axes.set_title(f"at {sweep.fixed}", fontsize=11)
    for axes, sweep in zip(grid[1], drawn, strict=True):
        axes.set_xlabel(_AXIS_NAMES[sweep.axis])
    first = drawn[0].cases[0]
    figure.suptitle(f"{first.kind} cross-entropy, {first.dtype}, {first.quantity}", fontsize=13)
    figure.supxlabel(caption, fontsize=7, color="#57606a")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120, metadata={"Software": None})
    return buffer.getvalue()


def _draw_panel(axes: Axes, rows: Sequence[Row], sweep: Sweep, value: Callable[[Row], float | None]) -> None:
    axes.set_xscale("log")
    axes.set_yscale("log")
    for subject in dict.fromkeys(row.subject for row in rows):
        points = [
            (sweep.at(case), y)
            for case in sweep.cases
            for row in rows
            if (row.case, row.subject) == (case, subject) and (y := value(row)) is not None
        ]
        if points:
            _draw_line(axes, subject, sweep.axis, points)
    ticks = [sweep.at(case) for case in sweep.cases]
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:.0f}"))
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0), numticks=20))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g}"))
    axes.grid(which="major", color="#d0d7de", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    if axes.lines:
        axes.legend(fontsize=9, frameon=False, loc="upper left")


def _draw_line(axes: Axes, subject: str, axis: str, points: Sequence[tuple[int, float]]) -> None:
    power = slope(points)
    mine = subject == SUBJECT
    axes.plot(
        *zip(*points, strict=True),
        marker="o",
        markersize=5 if mine else 3.5,
        linewidth=2.6 if mine else 1.5,
        linestyle="--" if subject == FLOOR else "-",
        color=_COLOURS.get(subject),
        zorder=3 if mine else 2,
        label=subject if power is None else f"{subject}  ∝ {axis}$^{{{power:.2f}}}$",
    )


def slope(points: Sequence[tuple[int, float]]) -> float | None:
    """Returns the power p of the best fit y ∝ x^p; None for a single point."""
    if len(points) < 2:
        return None
    return statistics.linear_regression([math.log(x) for x, _ in points], [math.log(y) for _, y in points]).slope
