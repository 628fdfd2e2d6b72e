"""One process of several: joins the others, trains its share, and, as process 0, says how it went."""

import argparse
import json
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NoReturn, TextIO

import jax
import numpy as np

from experiments.data.digits import Digits, standardised_digits
from experiments.multihost.job import add_job_options, as_text, shape_over, steps_of
from experiments.multihost.sharded_training import (
    TOLERANCE_ULPS,
    Run,
    batches,
    mesh_of,
    sharded,
    sharded_zeros,
    train_alone,
    train_on_mesh,
    ulps_apart,
)
from experiments.runner.experiment import (
    EXIT_FAILED,
    EXIT_PASSED,
    EXIT_USAGE,
    OneLineParser,
    add_seed_and_quick,
    leave,
    positive,
)
from experiments.runner.processes import end_with_parent


def main(argv: Sequence[str] | None = None) -> int:
    """Runs this process's part of the job.

    Returns:
        0 if all went well, 1 if the job's numbers are not those of one device, 2 for a mesh of another size.
    """
    options = _parse(argv)
    reports = _reports_alone() if options.launched else sys.stdout
    try:
        return _work(options, reports)
    except BaseException:
        _leave_at_once()


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = OneLineParser(prog="python -m experiments.multihost.worker", description=__doc__)
    parser.add_argument(
        "--coordinator", metavar="HOST:PORT", help="where process 0 listens (or JAX_COORDINATOR_ADDRESS)"
    )
    parser.add_argument("--processes", type=positive, help="how many there are")
    parser.add_argument("--process-id", type=int, help="which one this is, from 0")
    parser.add_argument("--join-seconds", type=positive, default=300, help="how long to wait for the others")
    parser.add_argument("--launched", action="store_true", help=argparse.SUPPRESS)
    add_seed_and_quick(parser)
    add_job_options(parser)
    return parser.parse_args(argv)


def _work(options: argparse.Namespace, reports: TextIO) -> int:
    jax.distributed.initialize(
        options.coordinator,
        options.processes,
        options.process_id,
        cluster_detection_method="deactivate" if options.launched else None,
        initialization_timeout=options.join_seconds,
    )
    try:
        mesh = mesh_of(shape_over(jax.device_count(), options.mesh))
    except ValueError as error:
        print(f"experiments.multihost.worker: error: {error}", file=sys.stderr)
        return EXIT_USAGE
    say = partial(_say, reports) if jax.process_index() == 0 else _say_nothing
    digits, steps = standardised_digits(options.seed), steps_of(options)
    some = next(batches(digits, 1, options.seed))
    say(
        mesh=as_text(mesh.devices.shape),
        processes=jax.process_count(),
        devices=jax.device_count(),
        own_digits=sharded(mesh, some)[0].addressable_data(0).shape[0],
        own_classes=sharded_zeros(mesh, digits).W.addressable_data(0).shape[1],
    )

    def report(step: int, loss: float) -> None:
        say(step=step, loss=loss)

    run = train_on_mesh(mesh, digits, batches(digits, steps, options.seed), report)
    if options.launched:
        say(W=run.W.tolist(), b=run.b.tolist())
        return EXIT_PASSED
    return _compare(run, digits, options.seed, say) if jax.process_index() == 0 else EXIT_PASSED


def _compare(run: Run, digits: Digits, seed: int, say: Callable[..., None]) -> int:
    """Where no launcher does, process 0 compares the run with that of its own first device."""
    with jax.default_device(jax.local_devices()[0]):
        alone = train_alone(digits, batches(digits, len(run.losses), seed))
    apart = ulps_apart(run, alone)
    say(
        equals_one_device=apart.holds,
        losses_ulps=float(np.max(apart.losses)),
        W_ulps=apart.W,
        b_ulps=apart.b,
        allowed_ulps=TOLERANCE_ULPS,
    )
    return EXIT_PASSED if apart.holds else EXIT_FAILED


def _reports_alone() -> TextIO:
    """Returns a private standard output, as gloo prints to the shared one; this process now ends with its launcher."""
    end_with_parent()
    reports = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)
    return reports


def _say(reports: TextIO, **facts: Any) -> None:
    print(json.dumps(facts), file=reports, flush=True)


def _say_nothing(**facts: Any) -> None:
    """Nothing: only the first process reports."""


def _leave_at_once() -> NoReturn:
    """Exits with an error at once: JAX's shutdown barrier would wait for processes that wait for this one."""
    traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(EXIT_FAILED)


if __name__ == "__main__":
    leave(main())
