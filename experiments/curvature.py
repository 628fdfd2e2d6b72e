"""The curvature of a trained network's loss: Hessian and Gauss–Newton products, eigenvalues, and K-FAC's block.

A network of one tanh layer learns scikit-learn's digits. Early in its training, while it still errs, every way to a
product with the Hessian is compared in float64, with the whole matrix and with differences of gradients. Late in it,
when many digits are confident, products in float32 are compared with float64.
"""

import argparse
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

import numpy as np
from rich.progress import Progress

from experiments._confident_curvature import (
    CONFIDENT,
    OPTAX,
    OPTAX_PRODUCT,
    PEER_HESSIANS,
    PRODUCT_TOLERANCE,
    ROW_TOLERANCE_ULPS,
)
from experiments._curvature_agreement import DIFFERENCE_TOLERANCE, TOLERANCE_ULPS
from experiments._curvature_figure import curvature_figure
from experiments._curvature_findings import PARTS, Findings, Size, find
from experiments._curvature_spectrum import NULL_TOLERANCE
from experiments._curvature_tables import tables
from experiments._digits_training import standardised_digits
from experiments._experiment import Experiment, Options, Outcome, OwnOptions, leave, positive, run
from experiments._results import significant

_EIGENVALUES, _MOST_EIGENVALUES = 8, 100


def measure(options: Options, progress: Progress) -> Outcome:
    """Trains, measures and judges."""
    task = progress.add_task("parts", total=PARTS)
    found = find(standardised_digits(options.seed), options.own, options.seed, partial(progress.advance, task))
    return judge(found)


def judge(found: Findings) -> Outcome:
    """Turns the findings into a verdict."""
    judged = [each for each in found.rows.found if each.method not in PEER_HESSIANS]
    ours = float(np.max([error for name, error in found.products.items() if name != OPTAX_PRODUCT]))
    return Outcome(
        checks={
            "every product with the Hessian is that of jax.hessian and of differences": found.agreement.holds,
            "Gauss–Newton's product is the Hessian's where the network is linear, and there alone": found.split.holds,
            "Lanczos finds the largest eigenvalues of both matrices": all(
                spectrum.largest_agree for spectrum in found.spectra.values()
            ),
            "Gauss–Newton's matrix has no negative eigenvalue": found.spectra["Gauss–Newton"].semidefinite,
            "its rank is at most N (C − 1), and the Hessian's is not": found.few.holds,
            "a change common to all classes has no curvature": found.null <= NULL_TOLERANCE,
            "the head's block is a mean of Kronecker products, and K-FAC's exact for one digit": all(
                each.holds for each in found.blocks.values()
            ),
            "each digit's matrix is relatively accurate in float32 and float64": all(each.holds for each in judged),
            "confident digits keep their curvature in float32": ours <= PRODUCT_TOLERANCE,
        },
        conclusion=[_on_products(found), _on_spectra(found), _on_blocks(found), *_on_confident(found, ours)],
        measurements=_measurements(found),
        tables=tables(found),
        figures={"curvature": curvature_figure(found.spectra, found.few, found.rows, found.times)},
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


def _on_spectra(found: Findings) -> str:
    hessian, matrix = found.spectra["Hessian"], found.spectra["Gauss–Newton"]
    ranks = found.few.ranks
    return (
        f"The {len(hessian.lanczos.values)} largest eigenvalues took Lanczos {hessian.lanczos.products} products with "
        f"the Hessian and {matrix.lanczos.products} with Gauss–Newton's matrix, and are within "
        f"{max(hessian.difference, matrix.difference):.0e} of the dense ones; the smallest are "
        f"{hessian.smallest:.2f} and {matrix.smallest:.0e} of the largest. Of a few digits, with N (C − 1) = "
        f"{found.few.bound}, Gauss–Newton's matrix has rank {ranks[0]}, the Hessian {ranks[1]}."
    )


def _on_blocks(found: Findings) -> str:
    errors = ", ".join(f"{100 * each.error:.0f} % after {steps} steps" for steps, each in found.blocks.items())
    one = max(each.one_row_ulps for each in found.blocks.values())
    return (
        f"K-FAC's block of the head is within {one:.1f} ulps for one digit, and an approximation for "
        f"{found.size.digits}: {errors}."
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
        "spectra": {
            name: {
                "lanczos": significant(each.lanczos.values, 6),
                "products": each.lanczos.products,
                "dense": significant(each.dense[::-1][:100], 6),
                "difference": each.difference,
                "smallest": each.smallest,
            }
            for name, each in found.spectra.items()
        },
        "along_null_directions": found.null,
        "few_digits": {"bound": found.few.bound, "ranks": dict(zip(found.spectra, found.few.ranks[::-1], strict=True))},
        "blocks": {str(steps): asdict(each) for steps, each in found.blocks.items()},
        "rows": [
            {"method": each.method, "dtype": each.dtype, "worst_ulps": each.worst_ulps}
            | {"zero_at_the_label": found.rows.zeros_of(each.method, each.dtype), "of": found.rows.confident}
            for each in found.rows.found
        ],
        "float32_product_errors": found.products,
        "times": {name: {subject: asdict(each) for subject, each in of.items()} for name, of in found.times.items()},
    }


def _add_own_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--eigenvalues",
        type=positive,
        default=_EIGENVALUES,
        help=f"how many Lanczos finds, at most {_MOST_EIGENVALUES} (default: {_EIGENVALUES})",
    )


def _read_own_options(options: argparse.Namespace) -> Size:
    count = options.eigenvalues
    if count > _MOST_EIGENVALUES:
        raise ValueError(f"argument --eigenvalues: expected at most {_MOST_EIGENVALUES}, got {count}")
    return Size(200, 2000, 8, count, (), 5) if options.quick else Size(1347, 6000, 1, count, ((1024, 8192),), 31)


EXPERIMENT = Experiment(
    "curvature",
    "Hessian and Gauss–Newton products agree in every mode, and keep float32's accuracy for confident digits.",
    measure,
    OwnOptions(_add_own_options, _read_own_options),
)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the experiment; see ``--help``."""
    return run(EXPERIMENT, argv)


if __name__ == "__main__":
    leave(main())
