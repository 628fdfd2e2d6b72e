"""The fused head compiled for machines that aren't here: its time above the floor against its memory, as SVG."""

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from docs.generate.figures import SCHEMES, as_svg, logarithmic

Point = tuple[float, float]  # GiB, time as a ratio to the floor
_GIBIBYTES = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
_MARKERS = {"optax": "D", "jaxsoftmax": "o", "jaxsoftmax, 256 MiB": "v"}


def draw(by_shape: Mapping[str, Mapping[str, Mapping[str, Point]]], scheme: str) -> str:
    """Returns a panel for each shape, and in it a point for each target and program.

    Args:
      by_shape: by shape, target and program.
      scheme: light or dark.
    """
    colours = SCHEMES[scheme]
    figure = Figure(figsize=(8.0, 3.6), layout="constrained")
    panels = figure.subplots(1, len(by_shape), sharey=True, squeeze=False)[0]
    targets = list(dict.fromkeys(target for points in by_shape.values() for target in points))
    hues = dict(zip(targets, (colours.own, "#6a994e", "#b07cd8", "#d08770"), strict=False))
    for axes, (shape, by_target) in zip(panels, by_shape.items(), strict=True):
        for target, points in by_target.items():
            line = sorted(points.values())
            axes.plot(*zip(*line, strict=True), color=hues[target], linewidth=0.8, alpha=0.5)
            for program, (memory, ratio) in points.items():
                axes.plot(memory, ratio, _MARKERS[program], color=hues[target], markersize=6)
        axes.set_title(shape, color=colours.ink, fontsize=10)
        logarithmic(axes, _GIBIBYTES)
        axes.set_xlabel("temporary memory [GiB]", color=colours.ink)
        axes.tick_params(which="both", colors=colours.ink)
        axes.grid(color=colours.faint, linewidth=0.6)
        axes.spines[:].set_visible(False)
    panels[0].set_ylabel("time as a ratio to the floor", color=colours.ink)
    _legend(figure, targets, hues, colours.ink)
    return as_svg(figure, "compiled")


def _legend(figure: Figure, targets: Sequence[str], hues: Mapping[str, str], ink: str) -> None:
    of_targets = [Line2D([], [], color=hues[target], label=target) for target in targets]
    of_programs = [
        Line2D([], [], color=ink, marker=marker, linestyle="", label=program) for program, marker in _MARKERS.items()
    ]
    figure.legend(
        handles=[*of_targets, *of_programs], loc="outside lower center", ncols=4, frameon=False, labelcolor=ink
    )
