"""The figure of the curvature experiment: spectra, ranks, confident digits and times."""

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments._confident_curvature import CONFIDENT, LIBRARY, OPTAX, ConfidentRows
from experiments._curvature_spectrum import FewRows, Spectrum
from experiments._curvature_times import Times

_COLORS = {"Hessian": "tab:orange", "Gauss–Newton": "tab:blue"}
_FLOOR = 1e-9  # of float32 errors that are zero


def curvature_figure(
    spectra: Mapping[str, Spectrum], few: FewRows, rows: ConfidentRows, times: Mapping[str, Mapping[str, Times]]
) -> Figure:
    """Returns the four panels."""
    figure = Figure(figsize=(11.5, 8.0), layout="constrained")
    (upper_left, upper_right), (lower_left, lower_right) = figure.subplots(2, 2)
    _draw_spectra(upper_left, spectra)
    _draw_ranks(upper_right, few)
    _draw_rows(lower_left, rows)
    _draw_times(lower_right, times)
    for axes in (upper_left, upper_right, lower_left):
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    return figure


def _draw_spectra(axes: Axes, spectra: Mapping[str, Spectrum]) -> None:
    for name, found in spectra.items():
        place = np.arange(1, len(found.dense) + 1)
        positive = np.where(found.dense > 0, found.dense, np.nan)[::-1]
        axes.plot(place, positive, color=_COLORS[name], label=f"{name}, dense")
        negative = -found.dense[found.dense < 0]
        if name == "Hessian":
            axes.plot(place[: len(negative)], negative, ":", color=_COLORS[name], label="its negative ones, as −λ")
        largest = found.lanczos.values
        axes.plot(place[: len(largest)], largest, "o", color=_COLORS[name], mfc="none", label=f"{name}, Lanczos")
    largest = max(found.dense[-1] for found in spectra.values())
    axes.set(xscale="log", yscale="log", ylim=(1e-9 * largest, 3 * largest))
    axes.set(xlabel="eigenvalue, by size", ylabel="λ")
    axes.set_title("Spectra, early in training", fontsize=10)


def _draw_ranks(axes: Axes, few: FewRows) -> None:
    sizes = {"Hessian": np.abs(few.hessian), "Gauss–Newton": np.abs(few.gauss_newton)}
    for name, size in sizes.items():
        shown = np.sort(size)[::-1][: 5 * few.bound]
        axes.plot(np.arange(1, len(shown) + 1), shown, ".", markersize=3, color=_COLORS[name], label=name)
    axes.axvline(few.bound + 0.5, color="gray", linestyle=":", label=f"N (C − 1) = {few.bound}")
    axes.set(yscale="log", xlabel="eigenvalue, by size", ylabel="|λ|")
    axes.set_title("Rank of a batch of few digits", fontsize=10)


def _draw_rows(axes: Axes, rows: ConfidentRows) -> None:
    for method, color in {OPTAX: "tab:orange", LIBRARY: "tab:blue"}.items():
        errors = np.maximum(rows.errors_of(method, "float32"), _FLOOR)
        axes.plot(rows.gaps, errors, ".", markersize=3, color=color, label=method)
    axes.axvline(CONFIDENT, color="gray", linestyle=":")
    axes.axhline(float(np.finfo(np.float32).eps), color="gray", linewidth=0.8, linestyle="-.", label="1 ulp")
    axes.set(yscale="log", xlabel="gap of the label's logit [nats]", ylabel="worst relative error of an entry")
    axes.set_title("Hessians of the digits in float32, late in training", fontsize=10)


def _draw_times(axes: Axes, times: Mapping[str, Mapping[str, Times]]) -> None:
    subjects = list(next(iter(times.values())))
    height = 0.8 / len(times)
    for index, (name, of) in enumerate(times.items()):
        ratios = [of[subject].ratio for subject in subjects]
        median = np.array([ratio.median for ratio in ratios])
        beyond = [median - [ratio.lower for ratio in ratios], [ratio.upper for ratio in ratios] - median]
        places = np.arange(len(subjects)) + (index - (len(times) - 1) / 2) * height
        axes.barh(places, median, height, xerr=beyond, label=name, error_kw={"linewidth": 1.0})
    axes.axvline(1.0, color="gray", linestyle=":")
    axes.set_yticks(range(len(subjects)), subjects, fontsize=8)
    axes.invert_yaxis()
    axes.grid(alpha=0.3, axis="x")
    axes.legend(fontsize=8)
    axes.set(xlabel="time over that of optax's jvp of grad")
    axes.set_title("One product, medians and quartiles", fontsize=10)
