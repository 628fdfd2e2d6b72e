r"""Several processes train one head: each holds its share of the digits and classes, and the numbers are those of one.

    python -m experiments multihost --processes 4 --mesh 2x2

starts the processes on this machine, joined by `jax.distributed` on 127.0.0.1, each with one CPU device. If one dies,
the others are ended within seconds and the exit code is 1; one that freezes is found by JAX's heartbeats, after 100 s.
Ctrl-C ends them all, and so does the end of the launcher.

On a cluster no launcher is needed. Every process runs the same worker, which trains on all devices of all processes,
and process 0 prints the losses and the comparison with its own first device. Under SLURM and on a TPU pod JAX finds
the coordinator and the processes itself:

    srun --nodes=2 --ntasks-per-node=8 --gpus-per-node=8 python -m experiments.multihost.worker --mesh 8x2
    gcloud compute tpus tpu-vm ssh NAME --zone=ZONE --worker=all \
        --command="cd jaxsoftmax && python -m experiments.multihost.worker --mesh 8x2"

Elsewhere each process gets its place by flags (JAX_COORDINATOR_ADDRESS may take the place of `--coordinator`):

    python -m experiments.multihost.worker --coordinator HOST0:1234 --processes 2 --process-id 0
"""

import argparse
import json
import os
import socket
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from matplotlib.figure import Figure
from rich.progress import Progress
from rich.table import Table

from experiments.data.digits import standardised_digits
from experiments.multihost.job import add_job_options, as_text, shape_over, steps_of
from experiments.multihost.sharded_training import (
    TOLERANCE_ULPS,
    Batch,
    Difference,
    Run,
    batches,
    train_alone,
    ulps_apart,
)
from experiments.runner.experiment import Experiment, Options, Outcome, OwnOptions, positive
from experiments.runner.processes import ProcessGroup
from experiments.runner.results import significant

_PROCESSES, _PROCESSES_QUICK, _MOST_PROCESSES = 4, 2, 64
_JOIN_SECONDS = 60


@dataclass(frozen=True)
class Job:
    """How many processes take how many steps on which mesh."""

    processes: int
    shape: tuple[int, int]
    steps: int


@dataclass(frozen=True)
class Findings:
    """The job's run, what its first process held, and how far the run is from those of one process."""

    job: Job
    held: dict[str, Any]
    run: Run
    apart: Difference  # from the same steps
    planted: Difference  # from steps of which the first lacks one digit
    correct: int  # of the held-out digits
    held_out: int


def measure(options: Options, progress: Progress) -> Outcome:
    """Trains in several processes, then in this one."""
    job: Job = options.own
    digits = standardised_digits(options.seed)
    together = progress.add_task(f"steps of {job.processes} processes", total=job.steps)
    held, found = _train_together(job, options.seed, partial(progress.advance, together))

    def steps(of: str) -> Iterator[Batch]:
        yield from progress.track(batches(digits, job.steps, options.seed), job.steps, description=f"steps {of}")

    with jax.default_device(jax.local_devices(backend="cpu")[0]):
        same = train_alone(digits, steps("of one process"))
        planted = train_alone(digits, _without_a_digit(steps("without one digit")))
    correct = int(np.sum(np.argmax(digits.test_x @ found.W + found.b, axis=1) == digits.test_y))
    apart = ulps_apart(found, same)
    return judge(Findings(job, held, found, apart, ulps_apart(found, planted), correct, len(digits.test_y)))


def _train_together(job: Job, seed: int, advance: Callable[[], None]) -> tuple[dict[str, Any], Run]:
    port = _free_port()
    commands = [_command(job, seed, port, index) for index in range(job.processes)]
    held, losses, parameters = {}, [], {}
    with ProcessGroup(commands, _environment(port), Path(__file__).parents[2]) as group:
        for line in group.lines():
            match json.loads(line):
                case {"step": _, "loss": loss}:
                    losses.append(loss)
                    advance()
                case {"mesh": _} as held:
                    pass
                case parameters:
                    pass
    return held, Run(*(np.array(part, np.float32) for part in (losses, parameters["W"], parameters["b"])))


def _command(job: Job, seed: int, port: int, index: int) -> list[str]:
    """Returns the line of one worker."""
    flags = {
        "--coordinator": f"127.0.0.1:{port}",
        "--processes": job.processes,
        "--process-id": index,
        "--join-seconds": _JOIN_SECONDS,
        "--mesh": as_text(job.shape),
        "--steps": job.steps,
        "--seed": seed,
    }
    named = [str(part) for flag in flags.items() for part in flag]
    return [sys.executable, "-m", "experiments.multihost.worker", "--launched", *named]


def _environment(port: int) -> dict[str, str]:
    """Returns the environment of a worker with one CPU device, reachable from this machine alone."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if name != "XLA_FLAGS" and not name.lower().endswith("_proxy")  # gRPC would ask a proxy for 127.0.0.1
    }
    return kept | {
        "JAX_PLATFORMS": "cpu",
        "JAX_NUM_CPU_DEVICES": "1",
        "JAX_CPU_COLLECTIVES_IMPLEMENTATION": "gloo",
        "JAX_COORDINATOR_BIND_ADDRESS": f"127.0.0.1:{port}",
        "JAX_ENABLE_PREEMPTION_SERVICE": "false",  # whose handler would outlive a SIGTERM
    }


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def _without_a_digit(each: Iterator[Batch]) -> Iterator[Batch]:
    """Leaves out the first digit of all."""
    first = next(each)
    yield Batch(first.x[1:], first.y[1:])
    yield from each


def judge(found: Findings) -> Outcome:
    """Turns the differences into a verdict."""
    job, held, losses = found.job, found.held, found.run.losses
    apart = found.apart
    conclusion = [
        f"{held['processes']} processes, as a mesh of {held['mesh']}, took {len(losses)} steps; process 0 held "
        f"{held['own_digits']} rows of each batch and {held['own_classes']} of the classes.",
        f"No loss is further than {np.max(apart.losses):.1f} ulps from that of one process, and at the end W is "
        f"{apart.W:.1f} and b {apart.b:.1f} ulps off (allowed: {TOLERANCE_ULPS:.0f}, for sums in another order); with "
        f"one digit left out of one step it would be {found.planted.worst:.0f}.",
        f"The loss falls from {losses[0]:.4f} to {losses[-1]:.4f}, and the head names {found.correct} of "
        f"{found.held_out} held-out digits.",
    ]
    return Outcome(
        checks={
            f"{job.processes} processes of one device took every step": (
                held["processes"] == held["devices"] == job.processes and len(losses) == job.steps
            ),
            "every loss and the parameters at the end are those of one process": apart.holds,
            "a digit left out of one step is noticed": not found.planted.holds,
        },
        conclusion=conclusion,
        measurements={
            "processes": job.processes,
            "mesh": as_text(job.shape),
            "process 0": held,
            "losses": losses,
            "tolerance_ulps": TOLERANCE_ULPS,
            "apart_ulps": _rounded(found.apart),
            "planted_apart_ulps": _rounded(found.planted),
            "correct": found.correct,
            "held_out": found.held_out,
        },
        tables=[_table(found)],
        figures={"multihost": _figure(found)},
    )


def _rounded(difference: Difference) -> dict[str, Any]:
    return difference._asdict() | {"losses": significant(difference.losses, 3)}


def _table(found: Findings) -> Table:
    title = "Distance from the run of one process, in ulps of the largest loss or entry"
    table = Table("run", "losses", "W", "b", "verdict", title=title)
    runs = {f"{found.job.processes} processes": found.apart, "one digit left out of one step": found.planted}
    for name, apart in runs.items():
        ulps = (f"{value:.1f}" for value in (np.max(apart.losses), apart.W, apart.b))
        table.add_row(name, *ulps, "equal" if apart.holds else "different")
    return table


def _figure(found: Findings) -> Figure:
    """Returns the losses, and how far they are from those of one process."""
    figure = Figure(figsize=(11.0, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    steps = np.arange(1, len(found.run.losses) + 1)
    left.plot(steps, found.run.losses)
    left.set(xlabel="step", ylabel="cross-entropy of the batch [nats]", yscale="log")
    for name, apart in {"several processes": found.apart, "one digit left out of one step": found.planted}.items():
        right.plot(steps, np.maximum(apart.losses, 0.01), label=name)
    right.axhline(TOLERANCE_ULPS, color="gray", linestyle=":", label=f"allowed: {TOLERANCE_ULPS:.0f}")
    right.set(xlabel="step", ylabel="ulps from the loss of one process", yscale="log", title="0 is drawn at 0.01")
    right.legend()
    for axes in (left, right):
        axes.grid(alpha=0.3)
    return figure


def _add_own_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--processes",
        type=positive,
        help=f"processes on this machine, each with one device, at most {_MOST_PROCESSES} (default: {_PROCESSES}; with "
        f"--quick {_PROCESSES_QUICK})",
    )
    add_job_options(parser)


def _read_own_options(options: argparse.Namespace) -> Job:
    processes = options.processes or (_PROCESSES_QUICK if options.quick else _PROCESSES)
    if processes > _MOST_PROCESSES:
        raise ValueError(f"argument --processes: expected at most {_MOST_PROCESSES}, got {processes}")
    return Job(processes, shape_over(processes, options.mesh), steps_of(options))


EXPERIMENT = Experiment(
    "multihost",
    "Processes that share a batch and the classes compute the losses and parameters of one process.",
    measure,
    OwnOptions(_add_own_options, _read_own_options),
)
