"""Where each way of writing −log softmax(x)_y loses its loss and its gradient, and that this library does not.

Two sweeps, judged with 50 digits. In the first the label's logit grows while the nine others stay near 0; in the second
the gap between them stays and the size of all ten grows. Logits are multiples of 1/16, so that their differences are
exact: what is measured is the formula, not the rounding of its input.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float
from matplotlib.figure import Figure
from rich.progress import Progress
from rich.table import Table

import jaxsoftmax
from experiments.judges.fifty_digits import fifty_digits, loss_and_label_gradient, relative_error
from experiments.runner.experiment import Experiment, Options, Outcome
from experiments.runner.results import significant
from experiments.stability.error_curves import Panel, error_figure

# exp, log1p, a sum of nine terms and a quotient; one table for both dtypes and both quantities.
TOLERANCE_ULPS = 8.0
_CLASSES = 10
_DRAWS = 4
_FIXED_GAP = 10.0
_DTYPES = ("float32", "float64")
QUANTITIES = ("loss", "label gradient")
LIBRARY, OPTAX, NAIVE = "jaxsoftmax", "optax", "naive"

Row = Float[Array, " vocab"]


def _naive(logits: Row) -> Array:
    return -jnp.log(jnp.exp(logits[0]) / jnp.sum(jnp.exp(logits)))


def _shifted(logits: Row) -> Array:
    return -jax.nn.log_softmax(logits)[0]


def _optax(logits: Row) -> Array:
    return optax.softmax_cross_entropy_with_integer_labels(logits, jnp.array(0))


def _library(logits: Row) -> Array:
    return jaxsoftmax.softmax_cross_entropy_with_integer_labels(logits, jnp.array(0))


METHODS: dict[str, Callable[[Row], Array]] = {
    NAIVE: _naive,
    "jax.nn.log_softmax": _shifted,
    OPTAX: _optax,
    LIBRARY: _library,
}


@dataclass(frozen=True)
class Sweep:
    """Losses and label gradients of one method along one sweep, [steps, draws], with their relative errors."""

    name: str
    dtype: str
    method: str
    steps: np.ndarray
    loss: np.ndarray
    gradient: np.ndarray
    exact_loss: np.ndarray
    errors: dict[str, np.ndarray]

    @property
    def eps(self) -> float:
        """The machine epsilon of the sweep's dtype."""
        return float(np.finfo(self.dtype).eps)

    def worst_ulps(self, within: float) -> tuple[float, float]:
        """Returns the largest errors of loss and label gradient in ulps, over steps up to ``within``."""
        kept = self.steps <= within
        loss, gradient = (float(self.errors[quantity][kept].max()) / self.eps for quantity in QUANTITIES)
        return loss, gradient

    def onset(self, condition: np.ndarray) -> float | None:
        """Returns the step from which ``condition`` [steps, draws] holds for every draw, to the end of the sweep."""
        holds_to_the_end = np.logical_and.accumulate(np.asarray(condition.all(axis=1))[::-1])[::-1]
        return float(self.steps[holds_to_the_end][0]) if holds_to_the_end.any() else None

    def exact_loss_at(self, step: float) -> float:
        """Returns the loss of the first draw at ``step``, rounded from 50 digits."""
        return float(self.exact_loss[self.steps == step][0, 0])


def gap_logits(steps: np.ndarray, lags: np.ndarray) -> np.ndarray:
    """Returns logits [steps, draws, vocab] whose label, class 0, is at the gap, and the others at minus their lag."""
    label = np.broadcast_to(steps[:, None, None], (len(steps), len(lags), 1))
    return np.concatenate([label, np.broadcast_to(-lags, (len(steps), *lags.shape))], axis=2)


def scale_logits(steps: np.ndarray, lags: np.ndarray) -> np.ndarray:
    """Returns logits [steps, draws, vocab] around the step's size, the label ahead of the others by a fixed gap."""
    return gap_logits(np.full(len(steps), _FIXED_GAP), lags) + (steps - _FIXED_GAP)[:, None, None]


def widest_gap(dtype: str) -> float:
    """Returns a gap at which exp of every logit difference is still a normal number; a lag adds at most 1 to it."""
    return float(np.floor(-np.log(np.finfo(dtype).tiny)) - 1.0)


def measure(options: Options, progress: Progress) -> Outcome:
    """Runs both sweeps in float32 and float64."""
    rng = np.random.default_rng(options.seed)
    lags = rng.integers(0, 17, size=(_DRAWS, _CLASSES - 1)) / 16.0
    lags[:, 0] = 0.0
    sweeps = []
    task = progress.add_task("sweeps", total=4 * len(METHODS))
    with fifty_digits(), jax.enable_x64(True):
        for dtype in _DTYPES:
            for name, steps, logits_of in _grids(dtype, options.quick):
                logits = logits_of(steps, lags)
                exact = np.array([[loss_and_label_gradient(row, 0) for row in rows] for rows in logits], dtype=object)
                for method in METHODS:
                    sweeps.append(_sweep(name, dtype, method, steps, logits, exact))
                    progress.advance(task)
    return judge(sweeps)


def _grids(dtype: str, quick: bool) -> list[tuple[str, np.ndarray, Callable[[np.ndarray, np.ndarray], np.ndarray]]]:
    """Returns each sweep's name, steps and logits; a scale stays small enough for 1/16 to be a whole ulp."""
    stride = (8.0 if quick else 1.0) * (1.0 if dtype == "float32" else 8.0) / 16.0
    gaps = np.arange(stride, -1.15 * np.log(float(np.finfo(dtype).tiny)), stride)
    doublings = np.arange(4, np.finfo(dtype).nmant - 4, 2 if quick else 0.5)
    return [("gap", gaps, gap_logits), ("scale", np.floor(2.0**doublings), scale_logits)]


def _sweep(name: str, dtype: str, method: str, steps: np.ndarray, logits: np.ndarray, exact: np.ndarray) -> Sweep:
    function = jax.jit(jax.vmap(jax.vmap(jax.value_and_grad(METHODS[method]))))
    loss, gradients = (np.asarray(array) for array in function(jnp.asarray(logits, dtype)))
    gradient = gradients[..., 0]
    error_of = np.frompyfunc(relative_error, 2, 1)
    errors = {
        quantity: np.asarray(error_of(values, exact[..., index]), np.float64)
        for index, (quantity, values) in enumerate(zip(QUANTITIES, (loss, gradient), strict=True))
    }
    return Sweep(name, dtype, method, steps, loss, gradient, exact[..., 0].astype(np.float64), errors)


@dataclass(frozen=True)
class Limits:
    """Where the methods end in one dtype: gaps in nats, errors in ulps (loss, label gradient)."""

    dtype: str
    naive_overflows: float | None
    optax_loss_is_zero: float | None
    optax_gradient_is_zero: float | None
    correct_loss_there: float | None
    judged_up_to_gap: float
    judged_up_to_scale: float
    ulps_along_gap: tuple[float, float]
    ulps_along_scale: tuple[float, float]


def limits_of(found: dict[tuple[str, str, str], Sweep], dtype: str) -> Limits:
    """Finds the limits of one dtype among the sweeps."""
    along_gap, along_scale = found["gap", dtype, LIBRARY], found["scale", dtype, LIBRARY]
    of_optax, of_naive = found["gap", dtype, OPTAX], found["gap", dtype, NAIVE]
    loss_is_zero = of_optax.onset(of_optax.loss == 0.0)
    return Limits(
        dtype=dtype,
        naive_overflows=of_naive.onset(~np.isfinite(of_naive.loss)),
        optax_loss_is_zero=loss_is_zero,
        optax_gradient_is_zero=of_optax.onset(of_optax.gradient == 0.0),
        correct_loss_there=None if loss_is_zero is None else along_gap.exact_loss_at(loss_is_zero),
        judged_up_to_gap=widest_gap(dtype),
        judged_up_to_scale=float(along_scale.steps[-1]),
        ulps_along_gap=along_gap.worst_ulps(widest_gap(dtype)),
        ulps_along_scale=along_scale.worst_ulps(np.inf),
    )


def judge(sweeps: list[Sweep]) -> Outcome:
    """Turns the sweeps into a verdict, its sentences and its figures."""
    found = {(sweep.name, sweep.dtype, sweep.method): sweep for sweep in sweeps}
    limits = [limits_of(found, dtype) for dtype in _DTYPES]
    checks = {}
    for limit in limits:
        worst = max(*limit.ulps_along_gap, *limit.ulps_along_scale)
        checks[f"this library keeps its relative accuracy in {limit.dtype}"] = worst <= TOLERANCE_ULPS
        checks[f"the naive formula overflows in {limit.dtype}"] = limit.naive_overflows is not None
    return Outcome(
        checks=checks,
        conclusion=[sentence for limit in limits for sentence in _sentences(limit)],
        measurements={"limits": [asdict(limit) for limit in limits], "sweeps": [_summary(sweep) for sweep in sweeps]},
        tables=[_table(sweeps)],
        figures={
            "stability_gap": _figure(found, "gap", "gap between the label's logit and the next [nats]"),
            "stability_scale": _figure(found, "scale", f"size of the logits, at a gap of {_FIXED_GAP:g} [nats]"),
        },
    )


def _sentences(limit: Limits) -> list[str]:
    naive, loss, gradient = (
        "nowhere" if gap is None else f"from gap {gap:g}"
        for gap in (limit.naive_overflows, limit.optax_loss_is_zero, limit.optax_gradient_is_zero)
    )
    instead = "" if limit.correct_loss_there is None else f" (there the loss is {limit.correct_loss_there:.3e})"
    return [
        f"{limit.dtype}: the naive formula overflows {naive}; optax's loss is exactly 0 {loss}{instead}, and its label "
        f"gradient exactly 0 {gradient}.",
        f"{limit.dtype}: this library's worst errors in loss and label gradient are {limit.ulps_along_gap[0]:.1f} and "
        f"{limit.ulps_along_gap[1]:.1f} ulps for gaps up to {limit.judged_up_to_gap:g}, and "
        f"{limit.ulps_along_scale[0]:.1f} and {limit.ulps_along_scale[1]:.1f} ulps for logits up to "
        f"{limit.judged_up_to_scale:.1e} (allowed: {TOLERANCE_ULPS:.0f}).",
    ]


def _figure(found: dict[tuple[str, str, str], Sweep], name: str, x_label: str) -> Figure:
    def panel(dtype: str, quantity: str) -> Panel:
        sweeps = {method: found[name, dtype, method] for method in METHODS}
        curves = {method: (sweep.steps, sweep.errors[quantity]) for method, sweep in sweeps.items()}
        return Panel(f"{quantity}, {dtype}", sweeps[LIBRARY].eps, widest_gap(dtype) if name == "gap" else None, curves)

    panels = [panel(dtype, quantity) for quantity in QUANTITIES for dtype in _DTYPES]
    return error_figure(panels, len(_DTYPES), x_label, QUANTITIES)


def _summary(sweep: Sweep) -> dict[str, object]:
    """Returns what the figure shows of a sweep: its worst errors at about a hundred of its steps."""
    shown = slice(None, None, max(1, len(sweep.steps) // 100))
    errors = {quantity: significant(sweep.errors[quantity].max(axis=1)[shown], 3) for quantity in QUANTITIES}
    steps = [float(step) for step in sweep.steps[shown]]
    return {"sweep": sweep.name, "dtype": sweep.dtype, "method": sweep.method, "steps": steps, "relative error": errors}


def _table(sweeps: list[Sweep]) -> Table:
    headings = ("sweep", "dtype", "method", "loss", "label gradient", "loss in ulps", "label gradient in ulps")
    table = Table(*headings, title="Largest relative error against 50 digits, while exp(−gap) is a normal number")
    for sweep in sweeps:
        ulps = sweep.worst_ulps(widest_gap(sweep.dtype) if sweep.name == "gap" else np.inf)
        errors = [f"{worst * sweep.eps:.1e}" if np.isfinite(worst) else "not finite" for worst in ulps]
        table.add_row(sweep.name, sweep.dtype, sweep.method, *errors, *(f"{worst:.3g}" for worst in ulps))
    return table


EXPERIMENT = Experiment(
    "stability",
    "However large the logits, and while exp(−gap) is a normal number, loss and gradient are relatively accurate.",
    measure,
)
