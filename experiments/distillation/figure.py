"""The figure of the distillation experiment: errors of gradients, the limit at high temperature, and accuracies."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.distillation.chain import HighTemperature
from experiments.distillation.findings import TEMPERATURE, Findings, Students
from experiments.distillation.gradients import LIBRARY, OPTAX, QUANTITIES, GradientErrors

_COLORS = {OPTAX: "tab:orange", LIBRARY: "tab:blue"}
_STYLES = ("-", "--", ":", "-.")
_EPS = float(np.finfo(np.float32).eps)


def distillation_figure(found: Findings) -> Figure:
    """Returns the errors of the three gradients above the limit and the accuracies."""
    figure = Figure(figsize=(12.0, 7.5), layout="constrained")
    upper, lower = figure.subfigures(2, 1, squeeze=False)[:, 0]
    panels = upper.subplots(1, len(QUANTITIES), sharey=True)
    for axes, quantity in zip(panels, QUANTITIES, strict=True):
        _draw_errors(axes, [each for each in found.gradients if each.quantity == quantity])
        axes.set_title(f"gradient in the {quantity}", fontsize=10)
    panels[0].set_ylabel("worst error of an entry, float32")
    left, right = lower.subplots(1, 2)
    _draw_limit(left, found.limit)
    _draw_students(right, found.students)
    for axes in panels:
        axes.legend(fontsize=7, loc="upper right", bbox_to_anchor=(1.0, 0.66))
    for axes in (left, right):
        axes.legend(fontsize=7)
    for axes in (*panels, left, right):
        axes.grid(alpha=0.3)
    return figure


def _draw_errors(axes: Axes, found: list[GradientErrors]) -> None:
    teachers = list(dict.fromkeys(each.teacher for each in found))
    for each in found:
        style = _STYLES[teachers.index(each.teacher)]
        errors = np.clip(each.errors, _EPS / 32, 10.0)
        axes.plot(each.gaps, errors, style, color=_COLORS[each.method], label=f"{each.method}; {each.teacher}")
    axes.axhline(_EPS, color="gray", linewidth=0.8, linestyle="-.")
    axes.set(yscale="log", xlabel="gap over T [nats]", ylim=(_EPS / 64, 1e3))


def _draw_limit(axes: Axes, limit: HighTemperature) -> None:
    for (dtype, errors), style in zip(limit.errors.items(), ("o-", "-"), strict=True):
        axes.plot(limit.temperatures, errors, style, markersize=3, label=dtype)
    ends = limit.temperatures[[0, -1]]
    axes.plot(ends, limit.errors["float64"][-1] * ends[-1] / ends, "k:", label="∝ 1 / T")
    axes.set(xscale="log", yscale="log", xlabel="temperature T", ylabel="distance from (z − v) / C, relative")
    axes.set_title("The student's gradient at high temperature", fontsize=10)


def _draw_students(axes: Axes, students: Students) -> None:
    columns = {"labels\nalone": students.labels}
    columns |= {f"teacher,\nT = {temperature:g}": each for temperature, each in students.taught.items()}
    columns |= {f"teacher of\nall, T = {TEMPERATURE:g}": students.taught_on_all}
    for place, accuracies in enumerate(columns.values()):
        spread = np.linspace(-0.15, 0.15, len(accuracies))
        axes.plot(place + spread, 100 * accuracies, ".", color="tab:gray", markersize=4)
        axes.plot([place - 0.3, place + 0.3], [100 * np.mean(accuracies)] * 2, color="tab:blue")
    axes.plot([], [], ".", color="tab:gray", label="a student")
    axes.plot([], [], color="tab:blue", label="mean")
    axes.axhline(100 * students.teacher, color="gray", linestyle=":", label="the teacher")
    axes.set_xticks(range(len(columns)), list(columns), fontsize=8)
    axes.set(ylabel="held-out digits named [%]")
    axes.set_title("Students with few labelled digits", fontsize=10)
