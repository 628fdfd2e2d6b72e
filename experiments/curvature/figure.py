"""The figure of the curvature experiment: errors of confident digits' matrices."""

import numpy as np
from matplotlib.figure import Figure

from experiments.curvature.confident_rows import CONFIDENT, LIBRARY, OPTAX, ConfidentRows

_FLOOR = 1e-9  # of errors that are zero


def curvature_figure(rows: ConfidentRows) -> Figure:
    """Returns each digit's worst entry against the gap of its label's logit."""
    figure = Figure(figsize=(7.5, 4.5), layout="constrained")
    axes = figure.subplots()
    for method, color in {OPTAX: "tab:orange", LIBRARY: "tab:blue"}.items():
        errors = np.maximum(rows.errors_of(method, "float32"), _FLOOR)
        axes.plot(rows.gaps, errors, ".", markersize=3, color=color, label=method)
    axes.axvline(CONFIDENT, color="gray", linestyle=":")
    axes.axhline(float(np.finfo(np.float32).eps), color="gray", linewidth=0.8, linestyle="-.", label="1 ulp")
    axes.set(yscale="log", xlabel="gap of the label's logit [nats]", ylabel="worst relative error of an entry")
    axes.set_title("Hessians of the digits in float32, late in training", fontsize=10)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    return figure
