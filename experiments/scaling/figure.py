"""The figure of the cost model: what more devices send, and how long a step of theirs takes."""

from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from experiments.scaling.cost_model import ACCELERATOR, collectives, fastest, of_large_model, seconds, sent

_GB = 1e9


def scaling_figure() -> Figure:
    """Returns bytes sent and time a step against devices, of the large model's head, by the model alone."""
    devices = [1 << power for power in range(10)]
    meshes = {
        "data-parallel, p_v = 1": [of_large_model(p, 1) for p in devices],
        "p_v = 8": [of_large_model(p, 8) for p in devices if p >= 8],
        "vocabulary-parallel, p_v = p": [of_large_model(p, p) for p in devices],
        "fastest p_v": [fastest(p) for p in devices],
    }
    figure = Figure(figsize=(11.0, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    products = [seconds(of_large_model(p, 1))["products"] for p in devices]
    right.plot(devices, products, color="black", linestyle=":", label="matrix products alone")
    for name, programs in meshes.items():
        style = {"linestyle": "--", "marker": "o"} if name.startswith("fastest") else {}
        several = [each for each in programs if each.devices > 1]
        at = [each.devices for each in several]
        left.plot(at, [sent(each, collectives(each, ACCELERATOR)) / _GB for each in several], label=name, **style)
        right.plot([p.devices for p in programs], [seconds(p)["step"] for p in programs], label=name, **style)
    left.set_ylim(1.0, 100.0)
    left.set(ylabel="bytes that a device sends a step [GB]", title="N = 65536, D = 8192, V = 1048576, bfloat16")
    right.set(ylabel="a step, by assumed speeds [s]", title="400 Tflop/s, 450 GB/s within 8, 50 GB/s between")
    for axes in (left, right):
        axes.set(xlabel="devices p", xscale="log", yscale="log")
        axes.set_xticks(devices, [str(p) for p in devices])
        axes.xaxis.set_minor_locator(NullLocator())
        axes.grid(alpha=0.3)
    right.legend()
    return figure
