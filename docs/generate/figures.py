"""What the figures of the pages share: colours for light and for dark pages, a logarithmic axis, and SVG."""

import io
from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator


@dataclass(frozen=True)
class Scheme:
    """The colours of text, of lines in the background and of this library."""

    ink: str
    faint: str
    own: str


_ASSETS = "assets/benchmarks"
SCHEMES = {"light": Scheme("#1f2328", "#d0d7de", "#0b5fd0"), "dark": Scheme("#e6edf3", "#484f58", "#58a6ff")}


def pictures(name: str, alt: str) -> str:
    """Returns Markdown that shows the figure of that name, the one for light or the one for dark pages."""
    return "\n".join(f"![{alt}](/{path_of(name, scheme)}#only-{scheme})" for scheme in SCHEMES)


def path_of(name: str, scheme: str) -> str:
    """Returns where a figure lies on the site."""
    return f"{_ASSETS}/{name}-{scheme}.svg"


def logarithmic(axes: Axes, ticks: Sequence[float]) -> None:
    """Makes the horizontal axis logarithmic, with these ticks as plain numbers."""
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))


def as_svg(figure: Figure, name: str) -> str:
    """Returns the figure as SVG, the same for the same name and numbers."""
    buffer = io.StringIO()
    with mpl.rc_context({"svg.hashsalt": name}):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return buffer.getvalue()
