"""Three users' programs train on digits, with the loss they have and with this library's: one import line changes.

The programs are in `drop_in_examples/`: optax with parameters in a dict, flax's NNX, and equinox. Each is run as it is,
and with that line replaced in its source. A third run, as it is but with every pixel moved by one ulp, shows how far
rounding alone moves the losses.
"""

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure
from rich.progress import Progress
from rich.table import Table

from experiments._digits_training import Digits, standardised_digits
from experiments._experiment import Experiment, Options, Outcome, run
from experiments._import_line import ImportLine
from experiments._sharded_training import Batch, batches

OURS = "jaxsoftmax"
ACCURACY = 0.95
TOLERANCE = 1e-3
_STEPS, _STEPS_QUICK = 440, 110  # 40 epochs, and 10
_PROGRAMS = Path(__file__).parent / "drop_in_examples"
EXAMPLES = {
    "optax": ImportLine(_PROGRAMS / "optax_digits.py", "optax", "softmax_cross_entropy"),
    "flax": ImportLine(_PROGRAMS / "flax_digits.py", "optax", "softmax_cross_entropy_with_integer_labels"),
    "equinox": ImportLine(_PROGRAMS / "equinox_digits.py", "jax.nn", "log_softmax"),
}


@dataclass(frozen=True)
class Trained:
    """What one run of a program gives."""

    losses: Float[np.ndarray, " steps"]
    correct: int  # of the held-out digits
    no_loss: int  # training digits whose loss is exactly 0 at the end
    no_gradient: int  # … whose loss has a derivative of exactly 0 in the label's logit
    widest_gap: float  # between a training digit's label and its next class, in nats


@dataclass(frozen=True)
class Comparison:
    """A program as it is, with this library's function, and as it is on pixels that are one ulp off."""

    line: ImportLine
    theirs: Trained
    ours: Trained
    nudged: Trained

    @property
    def apart(self) -> Float[np.ndarray, " steps"]:
        """How far this library's losses are from those of the program as it is, relatively."""
        return _apart(self.ours, self.theirs)

    @property
    def nudged_apart(self) -> Float[np.ndarray, " steps"]:
        """How far an ulp in the pixels moves the losses of the program as it is, relatively."""
        return _apart(self.nudged, self.theirs)


def measure(options: Options, progress: Progress) -> Outcome:
    """Runs each program three times on the same batches."""
    digits = standardised_digits(options.seed)
    steps = _STEPS_QUICK if options.quick else _STEPS
    found = {}
    for name, line in EXAMPLES.items():
        task = progress.add_task(f"steps with {name}, three times", total=3 * steps)
        found[name] = compare(line, OURS, digits, steps, options.seed, partial(progress.advance, task))
    return judge(found, len(digits.test_y), len(digits.train_y))


def compare(
    line: ImportLine, library: str, digits: Digits, steps: int, seed: int, advance: Callable[[], None] = lambda: None
) -> Comparison:
    """Trains with the loss that a program has, and with that of ``library``."""

    def advancing() -> Iterator[Batch]:
        for batch in batches(digits, steps, seed):
            advance()
            yield batch

    theirs, ours = line.program_with(line.library), line.program_with(library)
    return Comparison(
        line,
        _trained(theirs, digits, advancing(), seed),
        _trained(ours, digits, advancing(), seed),
        _trained(theirs, digits, map(_one_ulp_off, advancing()), seed),
    )


def _one_ulp_off(batch: Batch) -> Batch:
    return batch._replace(x=np.nextafter(batch.x, np.float32(np.inf)))


def _trained(program: ModuleType, digits: Digits, each: Iterator[Batch], seed: int) -> Trained:
    losses, predict = program.train(each, seed)
    named = np.argmax(predict(digits.test_x.astype(np.float32)), axis=1)
    logits, labels = predict(digits.train_x.astype(np.float32)), jnp.asarray(digits.train_y)
    final, pull_back = jax.vjp(partial(program.example_losses, labels=labels), logits)
    (gradients,) = pull_back(jnp.ones_like(final))
    of_label = np.arange(len(labels)), digits.train_y
    others = np.array(logits)
    others[of_label] = -np.inf
    return Trained(
        losses=np.array(losses),
        correct=int(np.sum(named == digits.test_y)),
        no_loss=int(np.sum(np.asarray(final) == 0.0)),
        no_gradient=int(np.sum(np.asarray(gradients)[of_label] == 0.0)),
        widest_gap=float(np.max(np.asarray(logits)[of_label] - others.max(axis=1))),
    )


def _apart(run: Trained, other: Trained) -> Float[np.ndarray, " steps"]:
    return np.abs(run.losses - other.losses) / other.losses


def judge(found: dict[str, Comparison], held_out: int, training: int) -> Outcome:
    """Turns the comparisons into a verdict."""
    accuracies = [trained.correct / held_out for one in found.values() for trained in (one.theirs, one.ours)]
    return Outcome(
        checks={
            "each program differs from the original by its import line alone": all(
                one.line.only_the_import_changes_to(OURS) for one in found.values()
            ),
            f"every batch's loss agrees within {TOLERANCE:.0e}": all(
                np.max(one.apart) <= TOLERANCE for one in found.values()
            ),
            "the test accuracies are equal": all(one.theirs.correct == one.ours.correct for one in found.values()),
            f"every test accuracy is at least {100 * ACCURACY:.0f} %": min(accuracies) >= ACCURACY,
        },
        conclusion=[sentence for name, one in found.items() for sentence in _sentences(name, one, held_out, training)],
        measurements={"tolerance": TOLERANCE, **{name: _summary(one) for name, one in found.items()}},
        tables=[_changes(found), _table(found, held_out)],
        figures={"drop_in": _figure(found)},
    )
