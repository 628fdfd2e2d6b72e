"""Three users' programs train on digits, with the loss they have and with this library's: one import line changes.

The programs are in `examples/`: optax with parameters in a dict, flax's NNX, and equinox. Each is run as it is,
and with that line replaced in its source. A third run, as it is but with every pixel moved by one ulp, shows how far
rounding alone moves the losses.
"""

from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure
from rich.markup import escape
from rich.progress import Progress
from rich.table import Table

from experiments.data.digits import standardised_digits
from experiments.drop_in.import_line import ImportLine
from experiments.drop_in.runs import BATCH, EPS, Comparison, compare
from experiments.runner.experiment import Experiment, Options, Outcome
from experiments.runner.results import significant

OURS = "jaxsoftmax"
ACCURACY = 0.95
# In ulps of 1 nat: 8 are 9.5e-7 nats. The functions that are replaced round a loss to about an ulp of its logits, and
# training goes on from there. The programs' activations are smooth: where one of ReLU's rounds to the other side of 0,
# the gradient jumps, and an ulp in the pixels can move the losses by thousands of ulps.
TOLERANCE_ULPS = 8.0
_EPOCHS, _EPOCHS_QUICK = 40, 20
_FLOOR = 3e-9  # where a distance of 0 is drawn
_PROGRAMS = Path(__file__).parent / "examples"
EXAMPLES = {
    "optax": ImportLine(_PROGRAMS / "optax_digits.py", "optax", "softmax_cross_entropy"),
    "flax": ImportLine(_PROGRAMS / "flax_digits.py", "optax", "softmax_cross_entropy_with_integer_labels"),
    "equinox": ImportLine(_PROGRAMS / "equinox_digits.py", "jax.nn", "log_softmax"),
}


def measure(options: Options, progress: Progress) -> Outcome:
    """Runs each program three times on the same batches."""
    digits = standardised_digits(options.seed)
    epochs = _EPOCHS_QUICK if options.quick else _EPOCHS
    steps = epochs * (len(digits.train_y) // BATCH)
    found = {}
    for name, line in EXAMPLES.items():
        task = progress.add_task(f"steps of the {name} program, three times", total=3 * steps)
        found[name] = compare(line, OURS, digits, epochs, options.seed, partial(progress.advance, task))
    return judge(found, len(digits.test_y), len(digits.train_y))


def judge(found: dict[str, Comparison], held_out: int, training: int) -> Outcome:
    """Turns the comparisons into a verdict."""
    accuracies = [trained.correct / held_out for one in found.values() for trained in (one.theirs, one.ours)]
    return Outcome(
        checks={
            f"every batch's loss agrees within {TOLERANCE_ULPS:.0f} ulps of a nat": all(
                np.max(one.ulps_apart) <= TOLERANCE_ULPS for one in found.values()
            ),
            "the test accuracies are equal": all(one.theirs.correct == one.ours.correct for one in found.values()),
            f"every test accuracy is at least {100 * ACCURACY:.0f} %": min(accuracies) >= ACCURACY,
        },
        conclusion=[sentence for name, one in found.items() for sentence in _sentences(name, one, held_out, training)],
        measurements={"tolerance_ulps": TOLERANCE_ULPS, **{name: _summary(one) for name, one in found.items()}},
        tables=[_changes(found), _table(found, held_out)],
        figures={"drop_in": _figure(found)},
    )


def _sentences(name: str, one: Comparison, held_out: int, training: int) -> list[str]:
    theirs, ours = one.theirs, one.ours
    same, relative = int(np.sum(one.ulps_apart == 0.0)), np.max(_relative(one))
    return [
        f"{name}: with {one.line.from_library(OURS)!r} the losses of {same} of {len(ours.losses)} batches are the same "
        f"to the last bit, and all within {np.max(one.ulps_apart):.1f} ulps of a nat (allowed: {TOLERANCE_ULPS:.0f}; "
        f"an ulp in the pixels moves them by {np.max(one.nudged_ulps_apart):.1f}), {relative:.1e} of the loss at most. "
        f"The programs name {theirs.correct} and {ours.correct} of {held_out} held-out digits.",
        f"{name}: at the end {theirs.no_loss} of {training} training digits have a loss of exactly 0 by "
        f"{one.line.library}, and {theirs.no_gradient} a derivative of exactly 0 in the label's logit; by {OURS} "
        f"{ours.no_loss} and {ours.no_gradient}, with gaps of up to {ours.widest_gap:.1f} nats.",
    ]


def _relative(one: Comparison) -> Float[np.ndarray, " steps"]:
    return one.ulps_apart * EPS / one.theirs.losses


def _changes(found: dict[str, Comparison]) -> Table:
    table = Table("program", "all that changes", title="The programs' differences")
    for one in found.values():
        table.add_row(one.line.program.name, escape("\n".join(one.line.change_to(OURS))))
    return table


def _table(found: dict[str, Comparison], held_out: int) -> Table:
    headings = ("program", "function of", "last loss", f"of {held_out} right", "losses of 0", "label gradients of 0")
    table = Table(*headings, title="Each program as it is, and with this library's function")
    for name, one in found.items():
        for library, trained in ((one.line.library, one.theirs), (OURS, one.ours)):
            counts = (trained.correct, trained.no_loss, trained.no_gradient)
            table.add_row(name, library, f"{trained.losses[-1]:.6e}", *map(str, counts))
    return table


def _summary(one: Comparison) -> dict[str, Any]:
    """Returns what the figure shows of a comparison, and the digits without a loss or a gradient."""
    runs = {one.line.library: one.theirs, OURS: one.ours}
    return {
        "program": one.line.program.name,
        "change": one.line.change_to(OURS),
        "ulps apart": significant(one.ulps_apart, 5),
        "ulps apart with pixels one ulp off": significant(one.nudged_ulps_apart, 5),
        "runs": {name: asdict(trained) | {"losses": significant(trained.losses, 5)} for name, trained in runs.items()},
    }


def _figure(found: dict[str, Comparison]) -> Figure:
    """Returns each program's two loss curves, and below how far they are from one another, relatively."""
    figure = Figure(figsize=(10.0, 4.8), layout="constrained")
    above, below = figure.subplots(2, len(found), sharex="col", sharey="row", squeeze=False)
    for losses, distances, (name, one) in zip(above, below, found.items(), strict=True):
        steps, theirs = np.arange(1, len(one.ours.losses) + 1), one.theirs.losses
        losses.plot(steps, theirs, color="tab:orange", linewidth=4.0, alpha=0.6, label="as it is")
        losses.plot(steps, one.ours.losses, color="tab:blue", linewidth=1.0, label=f"with {OURS}")
        losses.set_title(f"{name}: {one.line.function}", fontsize=9)
        for label, color, ulps in (
            ("as it is, pixels one ulp off", "tab:gray", one.nudged_ulps_apart),
            (f"with {OURS}", "tab:blue", one.ulps_apart),
        ):
            apart = np.maximum(ulps * EPS / theirs, _FLOOR)
            distances.plot(steps, apart, ".", color=color, markersize=3, label=label)
        distances.plot(steps, TOLERANCE_ULPS * EPS / theirs, color="black", linewidth=0.8, label="allowed")
        distances.set_xlabel("step")
        for axes in (losses, distances):
            axes.set_yscale("log")
            axes.grid(alpha=0.3)
    above[0].set_ylabel("loss of the batch [nats]")
    below[0].set_ylabel(f"relative distance\n(0 is drawn at {_FLOOR:.0e})")
    above[0].legend(fontsize=8)
    below[len(found) // 2].legend(fontsize=8, loc="upper left")
    return figure


EXPERIMENT = Experiment(
    "drop_in",
    "Programs of optax, flax and equinox train the same when the loss's import line, and nothing else, changes.",
    measure,
)
