"""Times as ratios to optax's, drawn as dots between their quartiles, for light and for dark pages."""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

Points = Mapping[str, Mapping[str, tuple[float, float, float]]]  # (lower, median, upper) by case and subject


@dataclass(frozen=True)
class _Scheme:
    ink: str
    faint: str
    own: str


SCHEMES = {"light": _Scheme("#1f2328", "#d0d7de", "#0b5fd0"), "dark": _Scheme("#e6edf3", "#484f58", "#58a6ff")}
_COLOURS = {"tokamax": "#6a994e", "torch": "#b07cd8", "floor": "#8c959f"}
_MARKERS = "oDs"  # by version of JAX
_TICKS = (0.1, 0.2, 0.3, 0.5, 0.7, 1.0, 1.5, 2.0, 3.0)


def draw(by_version: Mapping[str, Points], scheme: str) -> str:
    """Returns a figure as SVG: a row for each case, a dot for each subject and version of JAX."""
    colours = SCHEMES[scheme]
    cases = list(dict.fromkeys(case for points in by_version.values() for case in points))
    figure = Figure(figsize=(8.0, 1.5 + 0.42 * len(cases)), layout="constrained")
    FigureCanvasSVG(figure)
    axes: Axes = figure.add_subplot()
    subjects = _subjects(by_version)
    for at, (version, points) in enumerate(by_version.items()):
        for subject in subjects:
            _dots(axes, cases, points, subject, colours, at, f"{subject} (jax {version})")
    _frame(axes, cases, colours)
    axes.legend(
        loc="upper center",
        bbox_to_anchor=(0.4, -0.14 - 0.6 / len(cases)),
        ncols=2,
        frameon=False,
        labelcolor=colours.ink,
    )
    buffer = io.StringIO()
    with mpl.rc_context({"svg.hashsalt": "benchmarks"}):  # the same figure for the same numbers
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return buffer.getvalue()


def _subjects(by_version: Mapping[str, Points]) -> Sequence[str]:
    found = [subject for points in by_version.values() for of_case in points.values() for subject in of_case]
    return list(dict.fromkeys(found))


def _dots(
    axes: Axes, cases: Sequence[str], points: Points, subject: str, colours: _Scheme, at: int, label: str
) -> None:
    own = [(row, points[case][subject]) for row, case in enumerate(cases) if subject in points.get(case, {})]
    if not own:
        return
    colour = _COLOURS.get(subject, colours.own)
    rows = [row - 0.14 + 0.28 * at for row, _ in own]
    lower, median, upper = zip(*(spread for _, spread in own), strict=True)
    axes.hlines(rows, lower, upper, color=colour, linewidth=1.6, alpha=0.6)
    axes.scatter(median, rows, color=colour, marker=_MARKERS[at], s=30, zorder=3, label=label)


def _frame(axes: Axes, cases: Sequence[str], colours: _Scheme) -> None:
    axes.axvline(1.0, color=colours.ink, linewidth=1.0, linestyle="--", zorder=0)
    axes.set_xscale("log")
    axes.set_yticks(range(len(cases)), cases)
    axes.invert_yaxis()
    axes.xaxis.set_major_locator(FixedLocator(_TICKS))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
    axes.set_xlabel("time as a ratio to optax's (dashed: the same); less is faster", color=colours.ink)
    axes.tick_params(colors=colours.ink, length=0)
    axes.grid(axis="x", color=colours.faint, linewidth=0.6)
    axes.spines[:].set_visible(False)
