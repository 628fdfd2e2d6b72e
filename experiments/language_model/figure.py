"""The figure of the language model: curves and their differences, beside time and memory."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from experiments.language_model.runs import Kind, kind_of, relative_differences
from experiments.language_model.training import FUSED, MATERIALISED

_COLOURS = {MATERIALISED: "tab:orange", FUSED: "tab:blue"}


def language_figure(kinds: list[Kind], head: str, allowed: float) -> Figure:
    """Returns the training losses above their relative differences, beside the costs.

    Args:
        kinds: the trained models.
        head: the sizes of the head whose memory is shown.
        allowed: the largest relative difference.
    """
    figure = Figure(figsize=(11.0, 6.2), layout="constrained")
    left, right = figure.subfigures(1, 2, squeeze=False, width_ratios=(1.5, 1.0))[0]
    losses, differences = left.subplots(2, 1, sharex=True, height_ratios=(1.6, 1.0))
    for kind in kinds:
        _draw_curves(losses, kind)
        of_both = {f"{FUSED}, {kind_of(kind.tied)}": ("black", kind.losses[FUSED])}
        of_both[f"{MATERIALISED} from one ulp off"] = ("tab:orange", kind.nudged_losses)
        for label, (colour, losses_of_one) in of_both.items():
            apart = np.maximum(relative_differences(losses_of_one, kind.losses[MATERIALISED]), 1e-8)
            differences.plot(np.arange(1, len(apart) + 1), apart, _style(kind), color=colour, label=label)
    differences.axhline(allowed, color="gray", linestyle=":", label=f"allowed: {allowed:g}")
    losses.set(ylabel="training loss [nats a token]")
    differences.set(xlabel="step", ylabel="relative difference to optax", yscale="log", ylim=(6e-9, 10 * allowed))
    differences.set_title("0 is drawn at 1e-8", fontsize=9)
    differences.xaxis.set_major_locator(MaxNLocator(integer=True))
    times, memory = right.subplots(2, 1)
    medians = [{name: float(np.median(of)) for name, of in kind.costs.seconds.items()} for kind in kinds]
    _draw_bars(times, [f"step, {kind_of(kind.tied)}" for kind in kinds], medians, "median seconds", "{:.3g}")
    parts = [kind.costs.head_bytes for kind in kinds] + [kind.costs.step_bytes for kind in kinds]
    labels = [f"{part},\n{kind_of(kind.tied)}" for part in ("head", "step") for kind in kinds]
    mib = [{name: taken / 2**20 for name, taken in part.items()} for part in parts]
    _draw_bars(memory, labels, mib, "temporary MiB", "{:.0f}")
    memory.set_title(f"head: {head}", fontsize=9)
    for axes in (losses, differences):
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    return figure


def _draw_curves(axes: Axes, kind: Kind) -> None:
    """Draws the fused loss as a thin line inside a broad one: where both show, they are equal."""
    for name, width in {MATERIALISED: 4.0, FUSED: 1.2}.items():
        steps = np.arange(1, len(kind.losses[name]) + 1)
        label = f"{name}, {kind_of(kind.tied)}"
        axes.plot(steps, kind.losses[name], _style(kind), color=_COLOURS[name], linewidth=width, label=label)


def _style(kind: Kind) -> str:
    return "-" if kind.tied else "--"


def _draw_bars(axes: Axes, groups: list[str], heights: list[dict[str, float]], label: str, text: str) -> None:
    places = np.arange(len(groups))
    for side, (name, colour) in zip((-0.2, 0.2), _COLOURS.items(), strict=True):
        bars = axes.bar(places + side, [height[name] for height in heights], 0.4, color=colour, label=name)
        axes.bar_label(bars, fmt=text, fontsize=8)
    axes.set_xticks(places, groups, fontsize=8)
    axes.set_ylabel(label)
    axes.margins(y=0.3)
    axes.legend(loc="upper center", ncols=2, fontsize=8)
