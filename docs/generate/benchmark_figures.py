"""Times as ratios to optax's, drawn as dots between their quartiles, for light and for dark pages."""

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from docs.generate.figures import SCHEMES, Scheme, as_svg, logarithmic

Points = Mapping[str, Mapping[str, tuple[float, float, float]]]  # (lower, median, upper) by case and subject

COLOURS = {"jax": "#d08c2e", "tokamax": "#6a994e", "torch": "#b07cd8", "floor": "#8c959f"}
_MARKERS = "oDs"  # by version of JAX
_TICKS = (0.1, 0.2, 0.3, 0.5, 0.7, 1.0, 1.5, 2.0, 3.0)


def draw(by_version: Mapping[str, Points], scheme: str) -> str:
    """Returns a figure as SVG: a row for each case, a dot for each subject and version of JAX."""
    colours = SCHEMES[scheme]
    cases = list(dict.fromkeys(case for points in by_version.values() for case in points))
    figure = Figure(figsize=(8.0, 1.5 + 0.42 * len(cases)), layout="constrained")
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
    return as_svg(figure, "benchmarks")


def _subjects(by_version: Mapping[str, Points]) -> Sequence[str]:
    found = [subject for points in by_version.values() for of_case in points.values() for subject in of_case]
    return list(dict.fromkeys(found))


def _dots(axes: Axes, cases: Sequence[str], points: Points, subject: str, colours: Scheme, at: int, label: str) -> None:
    own = [(row, points[case][subject]) for row, case in enumerate(cases) if subject in points.get(case, {})]
    if not own:
        return
    colour = (COLOURS | {"jaxsoftmax": colours.own})[subject]
    rows = [row - 0.14 + 0.28 * at for row, _ in own]
    lower, median, upper = zip(*(spread for _, spread in own), strict=True)
    axes.hlines(rows, lower, upper, color=colour, linewidth=1.6, alpha=0.6)
    axes.scatter(median, rows, color=colour, marker=_MARKERS[at], s=30, zorder=3, label=label)


def _frame(axes: Axes, cases: Sequence[str], colours: Scheme) -> None:
    axes.axvline(1.0, color=colours.ink, linewidth=1.0, linestyle="--", zorder=0)
    logarithmic(axes, _TICKS)
    axes.set_yticks(range(len(cases)), cases)
    axes.invert_yaxis()
    axes.set_xlabel("time as a ratio to optax's (dashed: the same); less is faster", color=colours.ink)
    axes.tick_params(colors=colours.ink, length=0)
    axes.grid(axis="x", color=colours.faint, linewidth=0.6)
    axes.spines[:].set_visible(False)
