"""What the runs of the softmax collapse show: sentences, a table, a figure and a summary."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from rich.table import Table

from experiments.runner.results import significant
from experiments.softmax_collapse.training import (
    DOUBLE,
    LIBRARY,
    METHODS,
    OPTAX,
    SCALE,
    STEPS_A_CALL,
    UNSCALED,
    Method,
    Metrics,
    Setting,
)

Runs = dict[tuple[str, int], Metrics]

_STYLES: dict[str, dict[str, Any]] = {
    OPTAX.name: {"color": "tab:red"},
    LIBRARY.name: {"color": "tab:blue"},
    DOUBLE.name: {"color": "black", "linestyle": "--"},
}
_PANELS = {
    "exact_loss": ("mean cross-entropy [nats], computed by jaxsoftmax", 1.0),
    "gradient_norm": ("norm of the gradient that the run took", 1.0),
    "mean_gap": ("gap between the label's logit and the next, mean [nats]", 1.0),
    "test_accuracy": ("test accuracy [%]", 100.0),
}
_LOGARITHMIC = ("exact_loss", "gradient_norm")
_SHOWN = {"exact_loss": "loss", "gradient_norm": "gradient", "mean_gap": "gap", "parameter_norm": "parameters"}


def collapse_of(metrics: Metrics) -> int | None:
    """Returns the first recorded step at which the method's own loss is exactly 0."""
    return first_step(metrics.loss == 0)


def first_step(condition: np.ndarray) -> int | None:
    """Returns the first recorded step at which the condition holds."""
    return (int(np.argmax(condition)) + 1) * STEPS_A_CALL if condition.any() else None


def at(step: int | None, curve: np.ndarray) -> float:
    """Returns the recorded value at that step; NaN if there is none."""
    return np.nan if step is None else float(curve[step // STEPS_A_CALL - 1])


def sentences(setting: Setting, runs: Runs) -> list[str]:
    """Says what was found; several numbers are those of the seeds in turn."""
    optax, library, double = ([runs[method.name, seed] for seed in setting.seeds] for method in METHODS)
    collapses = [collapse_of(metrics) for metrics in optax]
    stuck = [at(step, metrics.exact_loss) for step, metrics in zip(collapses, optax, strict=True)]
    then = [at(step, metrics.loss) for step, metrics in zip(collapses, library, strict=True)]
    whole_zero = 100 * max(metrics.whole_zero.max() for metrics in optax)
    accuracies = "; ".join(f"{method.name}: {_accuracy(setting, runs, method)}" for method in METHODS)
    ahead = sum(of.test_accuracy[-1] > by.test_accuracy[-1] for of, by in zip(library, optax, strict=True))
    return [
        f"optax in float32: first step with a loss of exactly 0: {_steps(collapses)}; up to {_most_lost(optax)} % of "
        f"the labels have a gradient of 0. The other logits keep theirs (at most {whole_zero:g} % of the examples "
        f"ever have no gradient at all); the norm of the parameters ends at {_last(optax, 'parameter_norm')}, the mean "
        f"logit gap at {_last(optax, 'mean_gap')}. The loss of these networks, computed by this library, is "
        f"{_each(stuck)} at those steps and {_last(optax, 'exact_loss')} at the end.",
        f"This library in float32: at those steps the loss is {_each(then)}, at step {setting.steps} "
        f"{_last(library, 'loss')}, with a gap of {_last(library, 'mean_gap')} and a norm of "
        f"{_last(library, 'parameter_norm')}; up to {_most_lost(library)} % of the labels have a gradient of 0.",
        f"optax in float64: first step with a loss of exactly 0: {_steps(map(collapse_of, double))}; up to "
        f"{_most_lost(double)} % of the labels have a gradient of 0; the gap ends at {_last(double, 'mean_gap')}.",
        f"Test accuracy at the end, mean and range over the seeds: {accuracies}. In float32 this library's is above "
        f"optax's with {ahead} of {len(setting.seeds)} seeds.",
        _without_scale(setting, runs),
    ]


def table(setting: Setting, runs: Runs) -> Table:
    """Returns a row for each run."""
    headings = ("method", "seed", "loss first 0", "labels at 0, most", *_SHOWN.values(), "test accuracy")
    title = f"After {setting.steps} steps, modulo {setting.modulus}; the loss is computed by this library"
    found = Table(*headings, title=title)
    for (method, seed), metrics in runs.items():
        last = (_last([metrics], quantity) for quantity in _SHOWN)
        lost, accuracy = (f"{100 * share:.1f} %" for share in (metrics.label_zero.max(), metrics.test_accuracy[-1]))
        found.add_row(method, str(seed), _steps([collapse_of(metrics)]), lost, *last, accuracy)
    return found


def summary(method: str, seed: int, metrics: Metrics) -> dict[str, Any]:
    """Returns the curves of a run, rounded, and the step of its collapse."""
    curves = {name: significant(curve, 4) for name, curve in metrics._asdict().items()}
    return {"method": method, "seed": seed, "loss_first_zero": collapse_of(metrics), **curves}


def collapse_figure(setting: Setting, runs: Runs) -> Figure:
    """Returns four panels of curves over the steps: thin those of each seed, thick their median."""
    figure = Figure(figsize=(11.0, 7.0), layout="constrained")
    grid = figure.subplots(2, 2, sharex=True)
    steps = STEPS_A_CALL * np.arange(1, setting.records + 1)
    for axes, (quantity, (title, factor)) in zip(grid.flat, _PANELS.items(), strict=True):
        for method, style in _STYLES.items():
            of_seeds = factor * np.array([getattr(runs[method, seed], quantity) for seed in setting.seeds])
            axes.plot(steps, of_seeds.T, **style, linewidth=0.6, alpha=0.4)
            axes.plot(steps, np.median(of_seeds, axis=0), **style, linewidth=1.8, label=method)
            _mark_collapse(axes, style["color"], [collapse_of(runs[method, seed]) for seed in setting.seeds])
        axes.set_yscale("log" if quantity in _LOGARITHMIC else "linear")
        axes.set_title(title, fontsize=10)
        axes.grid(alpha=0.3)
    grid[1, 1].set_ylim(0.0, max(5.0, grid[1, 1].get_ylim()[1]))
    for axes in grid[-1]:
        axes.set_xlabel("step")
    handles, labels = grid[0, 0].get_legend_handles_labels()
    zero = Line2D([], [], color="gray", linewidth=1.0, linestyle=":")
    figure.legend([*handles, zero], [*labels, "its own loss is first exactly 0"], loc="outside upper center", ncols=4)
    return figure


def _mark_collapse(axes: Axes, color: str, steps: Sequence[int | None]) -> None:
    """Draws a line where the median seed collapses, if it does."""
    found = [step for step in steps if step is not None]
    if found:
        axes.axvline(float(np.median(found)), color=color, linewidth=1.0, linestyle=":")


def _without_scale(setting: Setting, runs: Runs) -> str:
    scaled, unscaled = (runs[method.name, setting.seeds[0]] for method in (LIBRARY, UNSCALED))
    broken = first_step(~(unscaled.parameter_norm < 2 * scaled.parameter_norm))
    if broken is None:
        found = f"ends with a loss of {unscaled.exact_loss[-1]:.3g} instead of {scaled.exact_loss[-1]:.3g}"
    else:
        found = (
            f"is thrown off by step {broken}: where a gradient's square underflows and the gradient doesn't, Adam "
            f"divides it by ε alone. The norm of the parameters is then "
            f"{at(broken, unscaled.parameter_norm):.1e} instead of {at(broken, scaled.parameter_norm):.3g}"
        )
    power = f"2**{np.log2(SCALE):.0f}"
    return f"All these losses are multiplied by {power}, and Adam's ε too; without, this library's first run {found}."


def _each(values: Iterable[float | None], form: str = ".3g") -> str:
    return ", ".join("none" if value is None else format(value, form) for value in values)


def _steps(values: Iterable[int | None]) -> str:
    return _each(values, "d")


def _most_lost(of_seeds: Sequence[Metrics]) -> str:
    return _each([100 * metrics.label_zero.max() for metrics in of_seeds], ".2g")


def _last(of_seeds: Sequence[Metrics], quantity: str) -> str:
    return _each([getattr(metrics, quantity)[-1] for metrics in of_seeds])


def _accuracy(setting: Setting, runs: Runs, method: Method) -> str:
    percents = [100 * runs[method.name, seed].test_accuracy[-1] for seed in setting.seeds]
    return f"{np.mean(percents):.1f} % ({min(percents):.1f} to {max(percents):.1f})"
