"""The linear softmax classifier on real digits: the documents' loops, their vectorised form and the library agree.

First the loss and dW of one batch, with both regularisers λΣW² and ½λΣW² (M17), by every implementation, in float64.
Then the library's loss trains the classifier on scikit-learn's ``load_digits``, in float32 under ``jax.jit``, with a
quarter of the digits held out as a test set.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from matplotlib.figure import Figure
from rich.progress import Progress
from rich.table import Table

import jaxsoftmax
from experiments.data.digits import CLASSES, Digits, Metrics, Parameters, standardised_digits, train
from experiments.linear_classifier.cs231n_loops import LossAndGradient, csdn_native, csdn_vectorized, guangcity_naive
from experiments.runner.experiment import Experiment, Options, Outcome
from experiments.runner.results import significant

# Of the largest entry, in ulps of float64: each entry of dW sums a few hundred products.
TOLERANCE_ULPS = 64.0
ACCURACY = 0.95
_REGULARISER = 0.05
_STEPS, _STEPS_QUICK = 400, 200
_SAMPLES, _SAMPLES_QUICK = 300, 60


@dataclass(frozen=True)
class Agreement:
    """One implementation's distance from the first of its regulariser, in ulps of the largest entry."""

    regulariser: str
    implementation: str
    loss: float
    loss_ulps: float
    gradient_ulps: float

    @property
    def worst_ulps(self) -> float:
        """The larger of both distances; NaN if either is."""
        return float(np.max([self.loss_ulps, self.gradient_ulps]))

    @property
    def holds(self) -> bool:
        """Whether loss and gradient agree up to rounding."""
        return self.worst_ulps <= TOLERANCE_ULPS


def library_loss_and_gradient(
    factor: float, W: np.ndarray, X: np.ndarray, y: np.ndarray, reg: float
) -> LossAndGradient:
    """Returns the library's mean loss plus ``factor`` λΣW², and its gradient by ``jax.grad``."""

    def loss(weights: Float[Array, "pixels classes"]) -> Float[Array, ""]:
        return jaxsoftmax.cross_entropy(X @ weights, y) + factor * reg * jnp.sum(weights * weights)  # (M17)

    value, gradient = jax.jit(jax.value_and_grad(loss))(jnp.asarray(W))
    return float(value), np.asarray(gradient)


Implementation = Callable[[np.ndarray, np.ndarray, np.ndarray, float], LossAndGradient]


def _with_lambda_times(implementation: Implementation, factor: float) -> Implementation:
    """Returns ``implementation`` with its λ times ``factor``: λΣW² is ½(2λ)ΣW²."""
    return lambda W, X, y, reg: implementation(W, X, y, factor * reg)


IMPLEMENTATIONS: dict[str, dict[str, Implementation]] = {
    "λΣW²": {
        "guangcity, loop": guangcity_naive,
        "CSDN, loop, with 2λ": _with_lambda_times(csdn_native, 2.0),
        "CSDN, vectorised, with 2λ": _with_lambda_times(csdn_vectorized, 2.0),
        "jaxsoftmax, jax.grad": partial(library_loss_and_gradient, 1.0),
    },
    "½λΣW²": {
        "CSDN, loop": csdn_native,
        "CSDN, vectorised": csdn_vectorized,
        "guangcity, loop, with λ/2": _with_lambda_times(guangcity_naive, 0.5),
        "jaxsoftmax, jax.grad": partial(library_loss_and_gradient, 0.5),
    },
}


def compare(digits: Digits, seed: int, samples: int, advance: Callable[[], None] = lambda: None) -> list[Agreement]:
    """Returns each implementation's loss and dW on one batch, against the first of the same regulariser."""
    W = np.random.default_rng(seed).normal(scale=0.1, size=(digits.train_x.shape[1], CLASSES))
    X, y = digits.train_x[:samples], digits.train_y[:samples]
    eps = float(np.finfo(np.float64).eps)
    agreements = []
    with jax.enable_x64(True):
        for regulariser, implementations in IMPLEMENTATIONS.items():
            found = {}
            for name, implementation in implementations.items():
                found[name] = implementation(W, X, y, _REGULARISER)
                advance()
            loss, gradient = next(iter(found.values()))
            for name, (other_loss, other_gradient) in found.items():
                apart = float(np.abs(other_gradient - gradient).max() / np.abs(gradient).max())
                loss_apart = abs(other_loss - loss) / abs(loss)
                agreements.append(Agreement(regulariser, name, other_loss, loss_apart / eps, apart / eps))
    return agreements


def measure(options: Options, progress: Progress) -> Outcome:
    """Compares the implementations, then trains."""
    digits = standardised_digits(options.seed)
    comparing = progress.add_task("implementations", total=sum(map(len, IMPLEMENTATIONS.values())))
    samples = _SAMPLES_QUICK if options.quick else _SAMPLES
    agreements = compare(digits, options.seed, samples, partial(progress.advance, comparing))
    steps = _STEPS_QUICK if options.quick else _STEPS
    parameters, metrics = train(digits, steps)
    return judge(digits, agreements, samples, parameters, metrics)


def judge(
    digits: Digits, agreements: list[Agreement], samples: int, parameters: Parameters, metrics: Metrics
) -> Outcome:
    """Turns agreement and accuracy into a verdict."""
    accuracy = float(metrics.test_accuracy[-1])
    correct = round(accuracy * len(digits.test_y))
    worst = agreements[int(np.argmax([agreement.worst_ulps for agreement in agreements]))]  # the first NaN, if any
    conclusion = [
        f"{sum(agreement.holds for agreement in agreements)} of {len(agreements)} losses and gradients dW agree on "
        f"{samples} digits, with both regularisers; the furthest, {worst.implementation} with {worst.regulariser}, is "
        f"{worst.loss_ulps:.1f} ulps off in the loss and {worst.gradient_ulps:.1f} in dW "
        f"(allowed: {TOLERANCE_ULPS:.0f}).",
        f"After {len(metrics.test_accuracy)} steps the classifier names {correct} of {len(digits.test_y)} held-out "
        f"digits, {100 * accuracy:.1f} % (required: {100 * ACCURACY:.0f} %); training loss "
        f"{float(metrics.train_loss[-1]):.4f}, "
        f"test loss {float(metrics.test_loss[-1]):.4f}.",
    ]
    curves = {name: significant(values, 5) for name, values in metrics._asdict().items()}
    return Outcome(
        checks={
            "every implementation gives the same loss and dW": all(agreement.holds for agreement in agreements),
            f"the test accuracy is at least {100 * ACCURACY:.0f} %": accuracy >= ACCURACY,
        },
        conclusion=conclusion,
        measurements={"agreement": [asdict(agreement) for agreement in agreements], "curves": curves},
        tables=[_table(agreements)],
        figures={"linear_classifier": digits_figure(parameters, metrics)},
    )


def _table(agreements: list[Agreement]) -> Table:
    title = "Loss and dW of one batch, in ulps from the first implementation of each regulariser"
    table = Table("regulariser", "implementation", "loss", "loss, ulps", "dW, ulps", "verdict", title=title)
    for agreement in agreements:
        ulps = (f"{agreement.loss_ulps:.1f}", f"{agreement.gradient_ulps:.1f}")
        verdict = "ok" if agreement.holds else "WRONG"
        table.add_row(agreement.regulariser, agreement.implementation, f"{agreement.loss:.12f}", *ulps, verdict)
    return table


def digits_figure(parameters: Parameters, metrics: Metrics) -> Figure:
    """Returns the loss and accuracy curves above each class's weights as an image."""
    figure = Figure(figsize=(11.0, 4.8), layout="constrained")
    curves, images = figure.subfigures(2, 1, squeeze=False, height_ratios=(2.2, 1.0))[:, 0]
    losses, accuracies = curves.subplots(1, 2)
    recorded = metrics._asdict()
    steps = np.arange(1, len(metrics.train_loss) + 1)
    for name, style in (("train", "--"), ("test", "-")):
        losses.plot(steps, recorded[f"{name}_loss"], style, label=name)
        accuracies.plot(steps, 100.0 * recorded[f"{name}_accuracy"], style, label=name)
    losses.set_yscale("log")
    losses.set(xlabel="step", ylabel="cross-entropy [nats]")
    accuracies.axhline(100.0 * ACCURACY, color="gray", linestyle=":", label=f"required: {100 * ACCURACY:.0f} %")
    accuracies.set(xlabel="step", ylabel="accuracy [%]", ylim=(80.0, 100.5))
    for axes in (losses, accuracies):
        axes.grid(alpha=0.3)
        axes.legend()
    grid = images.subplots(1, CLASSES)
    weights = np.asarray(parameters.W)
    bound = float(np.abs(weights).max())
    for digit, axes in enumerate(grid):
        axes.imshow(weights[:, digit].reshape(8, 8), cmap="RdBu_r", vmin=-bound, vmax=bound)
        axes.set_title(f"weights of {digit}", fontsize=9)
        axes.set_axis_off()
    images.colorbar(grid[0].images[0], ax=grid, shrink=0.9, label="weight")
    return figure


EXPERIMENT = Experiment(
    "linear_classifier",
    "The documents' softmax classifier, loops and vectorised, is the library's, and learns digits.",
    measure,
)
