"""The curvature of a trained network's loss: products with the Hessian in every mode, and the tails it keeps.

A network of one tanh layer learns scikit-learn's digits. Early in its training, while it still errs, every way to a
product with the Hessian is compared in float64, with the whole matrix and with differences of gradients. Late in it,
when many digits are confident, products in float32 are compared with float64.
"""

from dataclasses import asdict
from functools import partial
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from rich.console import RenderableType
from rich.progress import Progress
from rich.table import Table

from experiments.curvature.agreement import DIFFERENCE_TOLERANCE, TOLERANCE_ULPS
from experiments.curvature.confident_rows import (
    CONFIDENT,
    LIBRARY,
    OPTAX,
    OPTAX_PRODUCT,
    PEER_HESSIANS,
    PRODUCT_TOLERANCE,
    ROW_TOLERANCE_ULPS,
    ConfidentRows,
)
from experiments.curvature.findings import PARTS, Findings, Size, find
from experiments.data.digits import standardised_digits
from experiments.runner.experiment import Experiment, Options, Outcome

_FLOOR = 1e-9  # where errors of zero are drawn


def measure(options: Options, progress: Progress) -> Outcome:
    """Trains, measures and judges."""
    task = progress.add_task("parts", total=PARTS)
    size = Size(200, 2000, 8) if options.quick else Size(1347, 6000, 1)
    return judge(find(standardised_digits(options.seed), size, options.seed, partial(progress.advance, task)))


def judge(found: Findings) -> Outcome:
    """Turns the findings into a verdict."""
    judged = [each for each in found.rows.found if each.method not in PEER_HESSIANS]
    ours = float(np.max([error for name, error in found.products.items() if name != OPTAX_PRODUCT]))
    return Outcome(
        checks={
            "every product with the Hessian is that of jax.hessian and of differences": found.agreement.holds,
            "Gauss–Newton's product is the Hessian's where the network is linear, and there alone": found.split.holds,
            "each digit's matrix is relatively accurate in float32 and float64": all(each.holds for each in judged),
            "confident digits keep their curvature in float32": ours <= PRODUCT_TOLERANCE,
        },
        conclusion=[_on_products(found), *_on_confident(found, ours)],
        measurements=_measurements(found),
        tables=[_table_of_products(found), _table_of_rows(found)],
        figures={"curvature": _figure(found.rows)},
    )


def _on_products(found: Findings) -> str:
    agreement, split = found.agreement, found.split
    return (
        f"{len(agreement.ulps)} ways to a product with the Hessian of {found.parameters} parameters are within "
        f"{max(agreement.ulps.values()):.1f} ulps of jax.hessian's, and vᵀHv in forward mode alone within "
        f"{agreement.forward_twice_ulps:.1f} (allowed: {TOLERANCE_ULPS:.0f}); differences of gradients are "
        f"{agreement.difference:.1e} off (allowed: {DIFFERENCE_TOLERANCE:.0e}). Gauss–Newton's product is within "
        f"{split.linear_ulps:.1f} ulps of the Hessian's for the head alone, which is linear; for the network the rest "
        f"is {100 * split.rest:.0f} % of the whole."
    )


def _on_confident(found: Findings, ours: float) -> list[str]:
    rows = found.rows
    worst = max(each.worst_ulps for each in rows.found if each.method not in PEER_HESSIANS)
    return [
        f"Late in training, in float32, the Hessian through optax's loss is exactly 0 along the label of "
        f"{rows.zeros_of(OPTAX, 'float32')} of {rows.confident} digits that are over {CONFIDENT:g} nats ahead; this "
        f"library's matrices are within {worst:.1f} ulps of 50 digits (allowed: {ROW_TOLERANCE_ULPS:.0f}).",
        f"A product with the parameters, over all {rows.of_all} such digits, is {found.products[OPTAX_PRODUCT]:.0e} "
        f"off through optax's loss, and {ours:.0e} through this library's (allowed: {PRODUCT_TOLERANCE:.0e}).",
    ]


def _measurements(found: Findings) -> dict[str, Any]:
    return {
        "size": found.size._asdict(),
        "parameters": found.parameters,
        "agreement": asdict(found.agreement),
        "gauss_newton_and_the_rest": asdict(found.split),
        "rows": [
            {"method": each.method, "dtype": each.dtype, "worst_ulps": each.worst_ulps}
            | {"zero_at_the_label": found.rows.zeros_of(each.method, each.dtype), "of": found.rows.confident}
            for each in found.rows.found
        ],
        "float32_product_errors": found.products,
    }


def _table_of_products(found: Findings) -> RenderableType:
    table = Table("product", "ulps", title="One product: distance from jax.hessian times v in float64")
    for subject, ulps in found.agreement.ulps.items():
        table.add_row(subject, f"{ulps:.1f}")
    return table


def _table_of_rows(found: Findings) -> RenderableType:
    rows = found.rows
    title = f"Hessians of {len(rows.gaps)} digits against 50 digits, late in training"
    table = Table("method", "dtype", "worst, ulps", f"0 at the label, of {rows.confident} confident", title=title)
    for each in rows.found:
        table.add_row(each.method, each.dtype, f"{each.worst_ulps:.3g}", str(rows.zeros_of(each.method, each.dtype)))
    return table


def _figure(rows: ConfidentRows) -> Figure:
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


EXPERIMENT = Experiment(
    "curvature",
    "Hessian and Gauss–Newton products agree in every mode, and keep float32's accuracy for confident digits.",
    measure,
)
