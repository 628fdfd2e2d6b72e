"""A small transformer learns the standard library's source, with optax's loss of all logits and with the fused head.

    python -m experiments language_model --corpus ~/texts --steps 500

The model is in Flax NNX, with tied and untied embeddings; the same seeds give both losses the same
parameters and batches, and a step differs in the line of the loss alone. The first steps are taken by an Equinox module
too, the gradients of a batch in parts are compared with the whole batch's, and at the end the model writes some lines.

A run that was killed goes on from its last checkpoint when the same command starts it again. Checkpoints lie beside the
results, under names that begin with a dot, until these are written.
"""

import argparse
import math
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rich.panel import Panel
from rich.progress import Progress
from rich.table import Table
from rich.text import Text

from experiments.data.corpus import FEWEST_CHARACTERS, Corpus, read_corpus
from experiments.data.token_sequences import PADDING, token_data
from experiments.language_model.figure import language_figure
from experiments.language_model.gradient_accumulation import TOLERANCE, Accumulation, accumulation
from experiments.language_model.runs import Kind, Plan, Runs, kind_of, relative_differences
from experiments.language_model.text_sample import sample
from experiments.language_model.training import FUSED, MATERIALISED
from experiments.models.transformer import Sizes
from experiments.runner.experiment import Experiment, Options, Outcome, OwnOptions, positive
from experiments.runner.results import significant

CURVE_TOLERANCE = 1e-4
MEMORY_SHARE = 0.25
_PROMPT = "import os\n\n\ndef "
_TEMPERATURE = 0.8
_MIB = 2**20

FULL = Plan(
    sizes=Sizes(vocabulary=32768, length=256, embed=256, layers=4, heads=4, tied=True),
    batch=8,
    steps=100,
    equinox_steps=10,
    between_checkpoints=20,
    rounds=8,
    written=160,
    characters=None,
)
QUICK = Plan(
    sizes=Sizes(vocabulary=4096, length=64, embed=64, layers=1, heads=4, tied=True),
    batch=8,
    steps=20,
    equinox_steps=4,
    between_checkpoints=10,
    rounds=5,
    written=48,
    characters=1_000_000,
)


class Job(NamedTuple):
    """What to learn, by which plan."""

    corpus: Corpus
    plan: Plan


@dataclass(frozen=True)
class Findings:
    """What was measured."""

    job: Job
    vocabulary: int
    sequences: int
    padding: float  # the share of the labels that are ignored
    kinds: list[Kind]  # tied, untied
    equinox: np.ndarray  # losses of its first steps, tied
    accumulation: Accumulation
    samples: dict[str, str]
    judges_time: bool

    @property
    def equinox_apart(self) -> float:
        """The largest relative difference between the losses of the frameworks."""
        return float(np.max(relative_differences(self.equinox, self.kinds[0].losses[FUSED][: len(self.equinox)])))

    @property
    def uniform(self) -> float:
        """The loss of equal probabilities."""
        return math.log(self.vocabulary)


def measure(options: Options, progress: Progress) -> Outcome:
    """Learns the vocabulary, trains the models, and compares what they cost."""
    job: Job = options.own
    plan = job.plan
    preparing = progress.add_task("tokens of the corpus", total=1)
    data = token_data(job.corpus, plan.sizes.vocabulary, plan.sizes.length)
    progress.advance(preparing)
    steps = 6 * plan.steps + 4 * (plan.rounds + 1) + min(plan.equinox_steps, plan.steps)
    training = progress.add_task("steps", total=steps)
    runs = Runs(plan, data, options.results, options.seed, partial(progress.advance, training))
    kinds = [runs.nnx(tied, FULL.sizes) for tied in (True, False)]
    equinox = runs.equinox()
    model = kinds[0].trained
    in_parts = accumulation(model, data.train, plan.batch)
    write = partial(sample, model, data.tokenizer, _PROMPT, plan.written, seed=options.seed)
    samples = {
        "the likeliest token each time": write(temperature=0.0),
        f"at temperature {_TEMPERATURE}": write(temperature=_TEMPERATURE),
    }
    padding = float(np.mean(data.train[:, 1:] == PADDING))
    counts = (data.tokenizer.get_vocab_size(), len(data.train), padding)
    outcome = judge(Findings(job, *counts, kinds, equinox, in_parts, samples, judges_time=not options.quick))
    return replace(outcome, resumed=runs.resumed, finish=runs.remove_checkpoints)


def judge(found: Findings) -> Outcome:
    """Turns what was measured into a verdict."""
    kinds, in_parts = found.kinds, found.accumulation
    checks = {
        f"both losses give the same curve, tied and untied, within {CURVE_TOLERANCE:g}": all(
            kind.apart < CURVE_TOLERANCE for kind in kinds
        ),
        f"the fused head takes at most {MEMORY_SHARE:g} of the materialised one's temporary memory": all(
            kind.costs.head_ratio <= MEMORY_SHARE for kind in kinds
        ),
        "every model's loss of held-out text is below that of equal probabilities": all(
            loss < found.uniform for kind in kinds for loss in kind.held_out.values()
        ),
        "summed over the parts of a batch, loss and gradients are the whole batch's": in_parts.sums.holds,
        f"Equinox gives the curve of NNX within {CURVE_TOLERANCE:g}": found.equinox_apart < CURVE_TOLERANCE,
    }
    if in_parts.is_uneven:
        checks["the mean of the parts' means is noticed"] = not in_parts.mean_of_means.holds
    if found.judges_time:
        checks["a step with the fused head is no slower"] = all(kind.costs.time_ratio.median <= 1.0 for kind in kinds)
    return Outcome(
        checks=checks,
        conclusion=_sentences(found),
        measurements=_measurements(found),
        tables=[_table(found), *(_written(how, text) for how, text in found.samples.items())],
        figures={"language_model": language_figure(kinds, _head(found), CURVE_TOLERANCE)},
    )


def _sentences(found: Findings) -> list[str]:
    tied, untied = found.kinds
    plan, corpus, in_parts = found.job.plan, found.job.corpus, found.accumulation
    fewer = "" if found.vocabulary == plan.sizes.vocabulary else f", all that it gives of {plan.sizes.vocabulary}"
    times = [
        f"{r.median:.2f} ({r.lower:.2f} to {r.upper:.2f})" for r in (kind.costs.time_ratio for kind in found.kinds)
    ]
    unjudged = "" if found.judges_time else "; not judged in a quick run, whose model is too small and may have company"
    return [
        f"{corpus.files} files of {corpus.name}, {corpus.characters / 1e6:.1f} million characters: a vocabulary of "
        f"{found.vocabulary}{fewer}, and {found.sequences} sequences of {plan.sizes.length} tokens, of which "
        f"{100 * found.padding:.1f} % are padding and ignored; {plan.batch} sequences a step.",
        f"From the same seeds the losses of {plan.steps} steps differ by at most {tied.apart:.1e} of their size with "
        f"tied and {untied.apart:.1e} with untied embeddings (allowed: {CURVE_TOLERANCE:g}); an ulp in the first "
        f"parameters moves optax's own by {tied.nudged_apart:.1e} and {untied.nudged_apart:.1e}.",
        f"The loss falls from {tied.losses[FUSED][0]:.3f} to {tied.losses[FUSED][-1]:.3f} and from "
        f"{untied.losses[FUSED][0]:.3f} to {untied.losses[FUSED][-1]:.3f}; of held-out text it is "
        f"{tied.held_out[FUSED]:.3f} and {untied.held_out[FUSED]:.3f} (equal probabilities: {found.uniform:.3f}).",
        f"Loss and gradients of a head of {_head(found)} take {_of_memory(tied.costs.head_bytes)} tied and "
        f"{_of_memory(untied.costs.head_bytes)} untied; a whole step here takes "
        f"{_of_memory(tied.costs.step_bytes)} and {_of_memory(untied.costs.step_bytes)} besides its state.",
        f"A step with the fused head takes {times[0]} tied and {times[1]} untied of the time with all logits (median "
        f"and quartiles of {plan.rounds} interleaved rounds{unjudged}).",
        f"A batch in parts of {', '.join(map(str, in_parts.tokens))} tokens has the whole batch's loss and gradients "
        f"within {in_parts.sums.loss:.1e} and {in_parts.sums.gradients:.1e} (allowed: {TOLERANCE:.1e}); the mean of "
        f"the parts' means would be {in_parts.mean_of_means.loss:.1e} and {in_parts.mean_of_means.gradients:.1e} off.",
        f"{len(found.equinox)} steps of the same model in Equinox differ by at most {found.equinox_apart:.1e}.",
    ]


def _head(found: Findings) -> str:
    return f"{found.job.plan.batch * FULL.sizes.length} × {FULL.sizes.embed} × {FULL.sizes.vocabulary}"


def _of_memory(by_loss: dict[str, int]) -> str:
    return f"{by_loss[FUSED] / _MIB:.0f} of {by_loss[MATERIALISED] / _MIB:.0f} MiB"


def _measurements(found: Findings) -> dict[str, Any]:
    plan, in_parts = found.job.plan, found.accumulation
    return {
        "corpus": {"name": found.job.corpus.name, "files": found.job.corpus.files, "sequences": found.sequences},
        "vocabulary": found.vocabulary,
        "padding": found.padding,
        "plan": asdict(plan),
        "models": {kind_of(kind.tied): _of_kind(kind) for kind in found.kinds},
        "equinox": {"losses": significant(found.equinox, 9), "apart": found.equinox_apart},
        "accumulation": asdict(in_parts),
        "samples": found.samples,
    }


def _of_kind(kind: Kind) -> dict[str, Any]:
    return {
        "losses": {name: significant(losses, 9) for name, losses in kind.losses.items()},
        "losses from one ulp off": significant(kind.nudged_losses, 9),
        "apart": kind.apart,
        "apart from one ulp off": kind.nudged_apart,
        "held-out loss": kind.held_out,
        "seconds": {name: [round(second, 4) for second in seconds] for name, seconds in kind.costs.seconds.items()},
        "time ratio": asdict(kind.costs.time_ratio),
        "temporary bytes of the head": kind.costs.head_bytes,
        "temporary bytes of the step": kind.costs.step_bytes,
    }


def _table(found: Findings) -> Table:
    title = "The same model by loss"
    headings = (
        "embeddings",
        "loss",
        "first",
        "last",
        "held-out",
        "step [s]",
        "step [MiB]",
        f"head {_head(found)} [MiB]",
    )
    table = Table(*headings, title=title)
    for kind in found.kinds:
        costs = kind.costs
        for name, losses in kind.losses.items():
            values = (*(f"{loss:.5f}" for loss in (losses[0], losses[-1], kind.held_out[name])),)
            memory = (f"{taken[name] / _MIB:.0f}" for taken in (costs.step_bytes, costs.head_bytes))
            table.add_row(kind_of(kind.tied), name, *values, f"{np.median(costs.seconds[name]):.3f}", *memory)
    return table


def _written(how: str, text: str) -> Panel:
    return Panel(Text(text), title=f"Written after {_PROMPT!r}, {how}", title_align="left")


def _add_own_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--corpus",
        type=Path,
        metavar="PATH",
        help=f"a file or a folder of UTF-8 text to learn from, at least {FEWEST_CHARACTERS} characters (default: "
        "Python's standard library without its tests)",
    )
    parser.add_argument("--steps", type=positive, help=f"updates (default: {FULL.steps}; with --quick {QUICK.steps})")


def _read_own_options(options: argparse.Namespace) -> Job:
    plan = QUICK if options.quick else FULL
    return Job(read_corpus(options.corpus, plan.characters), replace(plan, steps=options.steps or plan.steps))


EXPERIMENT = Experiment(
    "language_model",
    "A transformer trains to the same curve with the fused head as with all logits, no slower, in a quarter of the "
    "head's memory or less.",
    measure,
    OwnOptions(_add_own_options, _read_own_options),
)
