"""The printed tables of the curvature experiment."""

from rich.console import RenderableType
from rich.table import Table

from experiments._curvature_findings import Findings


def tables(found: Findings) -> list[RenderableType]:
    """Returns the products, the matrices of single digits, and the head's blocks."""
    return [_products(found), _rows(found), _blocks(found)]


def _products(found: Findings) -> Table:
    title = "One product: distance from jax.hessian times v in float64, milliseconds in float32 and ratio to optax's"
    table = Table("product", "ulps", *found.times, title=title)
    for subject in next(iter(found.times.values())):
        ulps = found.agreement.ulps.get(subject)
        timed = [of[subject] for of in found.times.values()]
        shown = (f"{each.seconds * 1e3:.2f} ({each.ratio.median:.2f})" for each in timed)
        table.add_row(subject, "" if ulps is None else f"{ulps:.1f}", *shown)
    return table


def _rows(found: Findings) -> Table:
    rows = found.rows
    title = f"Hessians of {len(rows.gaps)} digits against 50 digits, late in training"
    table = Table("method", "dtype", "worst, ulps", f"0 at the label, of {rows.confident} confident", title=title)
    for each in rows.found:
        table.add_row(each.method, each.dtype, f"{each.worst_ulps:.3g}", str(rows.zeros_of(each.method, each.dtype)))
    return table


def _blocks(found: Findings) -> Table:
    title = "The head's block: K-FAC's against the exact one"
    headings = ("steps", "exact from jax.hessian, ulps", "of one digit, ulps", "error", "largest λ", "K-FAC's")
    table = Table(*headings, title=title)
    for steps, each in found.blocks.items():
        eigenvalues = (f"{value:.3g}" for value in each.largest_eigenvalues)
        ulps = (f"{value:.1f}" for value in (each.exact_ulps, each.one_row_ulps))
        table.add_row(str(steps), *ulps, f"{100 * each.error:.0f} %", *eigenvalues)
    return table
