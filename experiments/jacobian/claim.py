"""Every way JAX has of differentiating the library gives the one matrix diag(s) − ssᵀ.

The matrix is ``jaxsoftmax.analytic.softmax_jacobian`` (M5), itself judged with 50 digits. Its structure is checked too:
symmetric, positive semidefinite, with null space spanned by 1 and rank n − 1 (M6).
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from matplotlib.figure import Figure
from rich.progress import Progress
from rich.table import Table

import jaxsoftmax
from experiments.judges.fifty_digits import fifty_digits, relative_error, softmax_jacobian
from experiments.runner.experiment import Experiment, Options, Outcome
from jaxsoftmax import forward_mode

# Entrywise, in ulps of the dtype: an entry is a product of two probabilities, each a few roundings deep.
TOLERANCE_ULPS = 16.0
_CLASSES = 8
_ROWS, _ROWS_QUICK = 24, 6

Row = Float[Array, " n"]
Rows = Float[Array, "rows n"]
Matrix = Float[Array, "n n"]
Matrices = Float[Array, "rows n n"]


def _component_gradients(x: Row) -> Matrix:
    def component(i: int) -> Callable[[Row], Array]:
        return lambda z: jaxsoftmax.softmax(z)[i]

    return jnp.stack([jax.grad(component(i))(x) for i in range(x.shape[0])])


def _vjp_of_basis(x: Row) -> Matrix:
    _, pullback = jax.vjp(jaxsoftmax.softmax, x)
    return jax.vmap(lambda e: pullback(e)[0])(jnp.eye(x.shape[0], dtype=x.dtype))


def _jvp_of_basis(x: Row) -> Matrix:
    columns = jax.vmap(lambda e: jax.jvp(jaxsoftmax.softmax, (x,), (e,))[1])(jnp.eye(x.shape[0], dtype=x.dtype))
    return columns.T


def _linearized(x: Row) -> Matrix:
    _, tangent_map = jax.linearize(jaxsoftmax.softmax, x)
    return jax.vmap(tangent_map)(jnp.eye(x.shape[0], dtype=x.dtype)).T


def _label_loss(x: Row) -> Array:
    return jaxsoftmax.softmax_cross_entropy_with_integer_labels(x, jnp.argmax(x))


def _mean_loss(x: Row) -> Array:
    return jaxsoftmax.cross_entropy(x[None], jnp.argmin(x)[None])


def _compiled(route: Callable[[Row], Matrix]) -> Callable[[Rows], Matrices]:
    return jax.jit(jax.vmap(route))


def _row_by_row(logits: Rows) -> Matrices:
    return jnp.stack([jax.jacrev(jaxsoftmax.softmax)(row) for row in logits])


# Each maps logits [rows, n] to matrices [rows, n, n]; where not said otherwise, under jit and vmap.
ROUTES: dict[str, Callable[[Rows], Matrices]] = {
    "jacfwd(softmax)": _compiled(jax.jacfwd(jaxsoftmax.softmax)),
    "jacrev(softmax)": _compiled(jax.jacrev(jaxsoftmax.softmax)),
    "jacrev(softmax), row by row without jit": _row_by_row,
    "grad of each component of softmax": _compiled(_component_gradients),
    "vjp of softmax, over the basis": _compiled(_vjp_of_basis),
    "jvp of softmax, over the basis": _compiled(_jvp_of_basis),
    "linearize(softmax), over the basis": _compiled(_linearized),
    "jacfwd(forward_mode.softmax)": _compiled(jax.jacfwd(forward_mode.softmax)),
    "hessian(logsumexp)": _compiled(jax.hessian(jaxsoftmax.logsumexp)),
    "jacrev(grad(logsumexp))": _compiled(jax.jacrev(jax.grad(jaxsoftmax.logsumexp))),
    "jacfwd(jacfwd(forward_mode.logsumexp))": _compiled(jax.jacfwd(jax.jacfwd(forward_mode.logsumexp))),
    "hessian(softmax_cross_entropy_with_integer_labels)": _compiled(jax.hessian(_label_loss)),
    "hessian(cross_entropy)": _compiled(jax.hessian(_mean_loss)),
    "analytic.logsumexp_hessian": jaxsoftmax.analytic.logsumexp_hessian,
    "analytic.softmax_jacobian": jaxsoftmax.analytic.softmax_jacobian,
}
_PEER = "jacfwd(jax.nn.softmax), for comparison"
NOT_JUDGED: dict[str, Callable[[Rows], Matrices]] = {_PEER: _compiled(jax.jacfwd(jax.nn.softmax))}


@dataclass(frozen=True)
class RouteResult:
    """How far one route's matrices are from diag(s) − ssᵀ, the worst entry over all logits."""

    route: str
    dtype: str
    judged: bool
    absolute: float
    ulps: float
    ulps_from_fifty_digits: float

    @property
    def agrees(self) -> bool:
        """Whether every entry is within the tolerance of both references."""
        return max(self.ulps, self.ulps_from_fifty_digits) <= TOLERANCE_ULPS


@dataclass(frozen=True)
class Structure:
    """What (M6) says of the matrix, as measured in float64; the worst over the ordinary logits."""

    asymmetry: float
    row_sum: float
    smallest_eigenvalue: float
    ranks: list[int]

    @property
    def holds(self) -> bool:
        """Whether J = Jᵀ, J1 = 0 and J ⪰ 0 up to rounding, and the rank is n − 1."""
        bound = TOLERANCE_ULPS * float(np.finfo(np.float64).eps)
        small = max(self.asymmetry, self.row_sum, -self.smallest_eigenvalue) <= bound
        return small and self.ranks == [_CLASSES - 1]


def draw_logits(rng: np.random.Generator, ordinary: int) -> np.ndarray:
    """Returns ordinary rows first, then a tie, a confident row, a shifted row and two equal maxima.

    The entries are multiples of 1/16, exact in float32, so that both dtypes and mpmath see the same numbers.
    """
    rows = rng.normal(scale=3.0, size=(ordinary, _CLASSES))
    special = rng.normal(size=(4, _CLASSES))
    special[0] = 0.0
    special[1, 0] += 40.0
    special[2] += 1e4
    special[3, :2] = special[3].max() + 2.0
    return np.round(np.concatenate([rows, special]) * 16.0) / 16.0


def measure(options: Options, progress: Progress) -> Outcome:
    """Evaluates every route in float32 and float64 and compares it with both references."""
    logits = draw_logits(np.random.default_rng(options.seed), _ROWS_QUICK if options.quick else _ROWS)
    task = progress.add_task("routes", total=2 * (len(ROUTES) + len(NOT_JUDGED)))
    with fifty_digits(), jax.enable_x64(True):
        exact = [softmax_jacobian(row) for row in logits]
        results = []
        for dtype in (np.float32, np.float64):
            for name, route in (ROUTES | NOT_JUDGED).items():
                results.append(compare(name, route, jnp.asarray(logits, dtype), exact))
                progress.advance(task)
        structure = structure_of(np.asarray(ROUTES["jacfwd(softmax)"](jnp.asarray(logits[:-4]))))
        figure = _figure(jnp.asarray(logits[0]) / 4.0)  # flatter, so that every entry shows
    return judge(results, structure, len(logits), figure)


def compare(name: str, route: Callable[[Rows], Matrices], logits: Rows, exact: list) -> RouteResult:
    """Returns the worst entry of one route over all rows, against the closed form and against 50 digits."""
    matrices = np.asarray(route(logits))
    closed_form = np.asarray(jaxsoftmax.analytic.softmax_jacobian(logits))
    eps = float(np.finfo(matrices.dtype).eps)
    wide, reference = matrices.astype(np.float64), closed_form.astype(np.float64)
    distance = np.abs(wide - reference)
    far = [
        relative_error(float(wide[row, i, j]), exact[row][i][j])
        for row in range(len(exact))
        for i in range(_CLASSES)
        for j in range(_CLASSES)
    ]
    ulps = float((distance / np.abs(reference)).max()) / eps
    return RouteResult(name, matrices.dtype.name, name in ROUTES, float(distance.max()), ulps, max(far) / eps)


def structure_of(matrices: np.ndarray) -> Structure:
    """Measures symmetry, row sums, eigenvalues and rank of float64 matrices [rows, n, n]."""
    eigenvalues = np.linalg.eigvalsh(matrices)
    threshold = _CLASSES * np.finfo(np.float64).eps * eigenvalues[:, -1:]
    return Structure(
        asymmetry=float(np.abs(matrices - matrices.swapaxes(1, 2)).max()),
        row_sum=float(np.abs(matrices.sum(axis=2)).max()),
        smallest_eigenvalue=float(eigenvalues.min()),
        ranks=sorted({int(rank) for rank in (eigenvalues > threshold).sum(axis=1)}),
    )


def judge(results: list[RouteResult], structure: Structure, rows: int, figure: Figure) -> Outcome:
    """Turns the measurements into a verdict and its sentences."""
    judged = [result for result in results if result.judged]
    disagreeing = [f"{result.route} in {result.dtype}" for result in judged if not result.agrees]
    worst = {
        dtype: max((result for result in judged if result.dtype == dtype), key=lambda result: result.ulps)
        for dtype in ("float32", "float64")
    }
    fifty = {dtype: max(result.ulps_from_fifty_digits for result in judged if result.dtype == dtype) for dtype in worst}
    of_peer = {
        result.dtype: result.ulps_from_fifty_digits * float(np.finfo(result.dtype).eps)
        for result in results
        if result.route == _PEER
    }
    conclusion = [
        f"{len(judged) - len(disagreeing)} of {len(judged)} routes ({len(ROUTES)} in each dtype) give diag(s) − ssᵀ on "
        f"{rows} rows of {_CLASSES} logits, entry by entry.",
        *(
            f"{dtype}: the worst entry is {result.ulps:.1f} ulps from the closed form ({result.route}), and "
            f"{fifty[dtype]:.1f} ulps from 50 digits (allowed: {TOLERANCE_ULPS:.0f})."
            for dtype, result in worst.items()
        ),
        f"For comparison, the worst entry of jacfwd(jax.nn.softmax) is {100 * of_peer['float32']:.3g} % off in float32 "
        f"and {100 * of_peer['float64']:.3g} % in float64.",
        f"J − Jᵀ is at most {structure.asymmetry:.1e}, J1 at most {structure.row_sum:.1e}, no eigenvalue is below "
        f"{structure.smallest_eigenvalue:.1e}, and the rank is {' or '.join(map(str, structure.ranks))} of {_CLASSES}.",
    ]
    return Outcome(
        checks={
            "every route gives diag(s) − ssᵀ" + "".join(f"; not {name}" for name in disagreeing): not disagreeing,
            "the matrix is symmetric, positive semidefinite, with null space 1": structure.holds,
        },
        conclusion=conclusion,
        measurements={"routes": [asdict(result) for result in results], "structure": asdict(structure)},
        tables=[_table(results)],
        figures={"jacobian": figure},
    )


def _table(results: list[RouteResult]) -> Table:
    title = "Distance from diag(s) − ssᵀ, the worst entry over all logits (under jit and vmap, unless said)"
    table = Table("route", "dtype", "absolute", "ulps", "ulps from 50 digits", "verdict", title=title)
    for result in results:
        verdict = ("ok" if result.agrees else "WRONG") if result.judged else "not judged"
        numbers = (f"{result.absolute:.1e}", f"{result.ulps:.3g}", f"{result.ulps_from_fifty_digits:.3g}")
        table.add_row(result.route, result.dtype, *numbers, verdict)
    return table


def _figure(x: Row) -> Figure:
    """Returns heat maps of the closed form, of autodiff, and of their difference."""
    closed_form = np.asarray(jaxsoftmax.analytic.softmax_jacobian(x))
    autodiff = np.asarray(jax.jacrev(jaxsoftmax.softmax)(x))
    panels = {"closed form: diag(s) − ssᵀ": closed_form, "autodiff: jax.jacrev(jaxsoftmax.softmax)": autodiff}
    figure = Figure(figsize=(11.0, 3.9), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    bound = float(np.abs(closed_form).max())
    for axes, (title, matrix) in zip((left, middle), panels.items(), strict=True):
        axes.imshow(matrix, cmap="RdBu_r", vmin=-bound, vmax=bound)
        axes.set_title(title, fontsize=10)
    figure.colorbar(left.images[0], ax=[left, middle], shrink=0.85)
    difference = autodiff - closed_form
    spread = max(float(np.abs(difference).max()), float(np.finfo(np.float64).eps))
    image = right.imshow(difference, cmap="PuOr_r", vmin=-spread, vmax=spread)
    right.set_title(f"autodiff − closed form (largest: {np.abs(difference).max():.1e})", fontsize=10)
    figure.colorbar(image, ax=right, shrink=0.85)
    for axes in (left, middle, right):
        axes.set_xlabel("j")
        axes.set_ylabel("i")
        axes.set_xticks(range(_CLASSES))
        axes.set_yticks(range(_CLASSES))
    return figure


EXPERIMENT = Experiment("jacobian", "Every transformation of JAX gives the same Jacobian, diag(s) − ssᵀ.", measure)
