"""Log-log figures of a relative error along a sweep, one line a method."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

_BINS = 70
_CEILING = 100.0  # where larger errors, and those that are not finite, are drawn
_COLORS = ("tab:red", "tab:orange", "tab:purple", "tab:blue")
_STYLES = ("-", "--", ":", "-")


@dataclass(frozen=True)
class Panel:
    """One pair of axes: for each method its steps [n] and its relative errors [n, draws].

    From ``limit`` on, the exponentials of the differences are no longer normal numbers of the dtype.
    """

    title: str
    eps: float
    limit: float | None
    curves: Mapping[str, tuple[np.ndarray, np.ndarray]]


def error_figure(panels: Sequence[Panel], columns: int, x_label: str, y_labels: Sequence[str]) -> Figure:
    """Returns the panels in rows of ``columns``, with one legend above them all.

    Args:
        panels: row by row; a panel's errors below eps/8, zero included, are drawn at eps/8.
        columns: panels in a row.
        x_label: what the steps are.
        y_labels: what the errors are of, one a row.
    """
    rows = len(y_labels)
    figure = Figure(figsize=(5.5 * columns, 3.0 * rows + 0.6), layout="constrained")
    grid = figure.subplots(rows, columns, sharex="col", squeeze=False)
    for axes, panel in zip(grid.flat, panels, strict=True):
        _draw(axes, panel)
    for row, label in enumerate(y_labels):
        grid[row, 0].set_ylabel(f"relative error of the {label}")
    for axes in grid[-1]:
        axes.set_xlabel(x_label)
    handles, labels = grid[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=len(labels))
    return figure


def _draw(axes: Axes, panel: Panel) -> None:
    for (method, (steps, errors)), color, style in zip(panel.curves.items(), _COLORS, _STYLES, strict=True):
        x, worst = _binned(steps, errors.max(axis=1), panel.limit)
        shown = np.clip(np.where(np.isfinite(worst), worst, _CEILING), panel.eps / 8, _CEILING)
        axes.plot(x, shown, color=color, linestyle=style, linewidth=1.8, label=method)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_ylim(panel.eps / 16, 10 * _CEILING)
    axes.set_title(panel.title, fontsize=10)
    axes.grid(alpha=0.3)
    if panel.limit is not None:
        axes.axvline(panel.limit, color="gray", linewidth=0.8, linestyle=":")
        axes.annotate(
            "exp(−gap)\nunderflows",
            (panel.limit, 0.5),
            xycoords=("data", "axes fraction"),
            xytext=(-8, 0),
            textcoords="offset points",
            ha="right",
            fontsize=8,
            color="dimgray",
        )
    for height, text in ((1.0, "100 % wrong"), (_CEILING, "over 100,\nor overflow"), (panel.eps, "1 ulp")):
        axes.axhline(height, color="gray", linewidth=0.8, linestyle="-.")
        beside = (1.01, height)
        axes.annotate(text, beside, xycoords=("axes fraction", "data"), va="center", fontsize=8, color="dimgray")


def _binned(steps: np.ndarray, errors: np.ndarray, limit: float | None) -> tuple[np.ndarray, np.ndarray]:
    """Returns the worst error in each logarithmic bin, at the bin's first step; no bin reaches across the limit."""
    edges = np.geomspace(steps[0], steps[-1] * (1 + 1e-9), _BINS + 1)
    if limit is not None:
        edges = np.sort(np.append(edges, np.nextafter(limit, np.inf)))
    bins = np.searchsorted(edges, steps, side="right")
    kept = np.unique(bins)
    return (
        np.array([steps[bins == bin_].min() for bin_ in kept]),
        np.array([errors[bins == bin_].max() for bin_ in kept]),
    )
