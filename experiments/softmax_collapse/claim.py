"""Modular addition learnt past the point where cross-entropy has no gradient left in float32: "softmax collapse".

Past a gap of about 17 between the label's logit and the others, the label's softmax rounds to 1 in float32, and its
gradient s − 1 to 0 (Prieto et al., "Grokking at the Edge of Numerical Stability", ICLR 2025). What is left pushes the
other logits down and lifts no label. One network, with one split of the table and one set of initial parameters a seed,
is trained by optax's loss and by this library's in float32, and by optax's in float64, with Adam, on the whole training
set at every step, without weight decay.

All losses are multiplied by 2**60 and Adam's ε with them, as float32 squares a gradient below 1e-19 to 0. That rounds
nothing and leaves the updates as they are; what happens without is shown by one more run of this library's loss.

The full run takes about an hour on two CPU cores. Killed and started again by the same command, it goes on.
"""

from dataclasses import asdict, replace
from functools import partial

import numpy as np
from rich.progress import Progress

from experiments.runner.checkpoints import checkpoints_of
from experiments.runner.experiment import Experiment, Options, Outcome
from experiments.softmax_collapse.findings import Runs, at, collapse_figure, collapse_of, sentences, summary, table
from experiments.softmax_collapse.training import LIBRARY, OPTAX, SCALE, STEPS_A_CALL, Setting, train_all

# LOST: the least share of labels whose gradient becomes 0 with optax. At the step where optax's loss becomes 0:
# STALL: optax's later losses stay above this fraction of the loss then; FALL: this library's ends below it.
LOST, STALL, FALL = 0.1, 1e-2, 1e-3


def measure(options: Options, progress: Progress) -> Outcome:
    """Trains every method with every seed."""
    first = options.seed
    setting = (
        Setting(modulus=23, width=64, rate=4e-3, steps=4000, seeds=(first,))
        if options.quick
        else Setting(modulus=113, width=200, rate=5e-4, steps=7000, seeds=(first, first + 1, first + 2))
    )
    task = progress.add_task("training steps", total=len(setting.runs) * setting.steps)
    checkpoints = checkpoints_of(options.results, "softmax_collapse", asdict(setting))
    outcome = judge(setting, train_all(setting, checkpoints, partial(progress.advance, task)))
    return replace(outcome, resumed=checkpoints.resumed, finish=checkpoints.remove)


def judge(setting: Setting, runs: Runs) -> Outcome:
    """Turns the curves into a verdict."""
    seeds = [(runs[OPTAX.name, seed], runs[LIBRARY.name, seed]) for seed in setting.seeds]
    checks = {
        "in float32 optax's loss becomes exactly 0": [collapse_of(optax) is not None for optax, _ in seeds],
        f"in float32 optax leaves {100 * LOST:g} % of the labels without a gradient": [
            bool(optax.label_zero.max() >= LOST) for optax, _ in seeds
        ],
        f"from there on optax's networks keep over {STALL:g} of their loss, computed by this library": [
            bool(_after(collapse_of(optax), optax.exact_loss) > STALL * at(collapse_of(optax), optax.exact_loss))
            for optax, _ in seeds
        ],
        "in float32 this library's loss is never 0 in a record, nor is a label's gradient": [
            bool((library.loss > 0).all() and (library.label_zero == 0).all()) for _, library in seeds
        ],
        f"this library's loss falls to less than {FALL:g} of what it was where optax's became 0": [
            bool(library.loss[-1] < FALL * at(collapse_of(optax), library.loss)) for optax, library in seeds
        ],
        "its logit gap ends wider than optax's ever is in float32": [
            bool(library.mean_gap[-1] > optax.mean_gap.max()) for optax, library in seeds
        ],
    }
    return Outcome(
        checks={f"{check}, with every seed": all(holds) for check, holds in checks.items()},
        conclusion=sentences(setting, runs),
        measurements={
            "setting": asdict(setting),
            "steps_between_records": STEPS_A_CALL,
            "loss_multiplied_by": SCALE,
            "runs": [summary(method, seed, metrics) for (method, seed), metrics in runs.items()],
        },
        tables=[table(setting, runs)],
        figures={"softmax_collapse": collapse_figure(setting, runs)},
    )


def _after(step: int | None, curve: np.ndarray) -> float:
    """Returns the least recorded value from that step on; NaN if there is none."""
    return np.nan if step is None else float(np.min(curve[step // STEPS_A_CALL - 1 :]))


EXPERIMENT = Experiment(
    "softmax_collapse",
    "In float32, without weight decay, optax's loss and its gradients of labels become 0, and training stalls; with "
    "this library's it goes on, where the losses are scaled so that the squares in Adam don't underflow.",
    measure,
)
