"""What every experiment shares: its command line, progress, printed conclusion, result files and exit code."""

import argparse
import os
import re
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from matplotlib.figure import Figure
from rich.console import Console, RenderableType
from rich.markup import escape
from rich.progress import MofNCompleteColumn, Progress, TimeElapsedColumn

from experiments.runner import results as result_files
from experiments.runner.processes import ProcessDiedError

EXIT_PASSED, EXIT_FAILED, EXIT_USAGE, EXIT_INTERRUPTED = 0, 1, 2, 130


@dataclass(frozen=True)
class Options:
    """What the command line asked for."""

    quick: bool
    results: Path
    seed: int
    own: Any = None  # what `OwnOptions.read` made of the experiment's own


@dataclass(frozen=True)
class OwnOptions:
    """The options that one experiment takes besides."""

    add: Callable[[argparse.ArgumentParser], None]
    read: Callable[[argparse.Namespace], Any]  # raises ValueError for options that don't go together


class MeasurementError(Exception):
    """The measurement could not be finished; the message is for the user."""


@dataclass(frozen=True)
class Outcome:
    """What an experiment found: ``checks`` maps each part of the claim to whether it holds.

    ``resumed`` says that an earlier start did a part of it, whose time isn't counted; ``finish`` is called when
    everything is written.
    """

    checks: dict[str, bool]
    conclusion: list[str]
    measurements: dict[str, Any]
    tables: list[RenderableType] = field(default_factory=list)
    figures: dict[str, Figure] = field(default_factory=dict)
    resumed: bool = False
    finish: Callable[[], None] = lambda: None

    @property
    def passed(self) -> bool:
        """Whether every part of the claim holds."""
        return all(self.checks.values())


@dataclass(frozen=True)
class Experiment:
    """One claim and the function that measures it."""

    name: str
    claim: str
    measure: Callable[[Options, Progress], Outcome]
    own_options: OwnOptions | None = None


class OneLineParser(argparse.ArgumentParser):
    """An argument parser whose complaints are one line."""

    def error(self, message: str) -> NoReturn:
        """Prints the complaint without the usage and exits with 2."""
        self.exit(EXIT_USAGE, f"{self.prog}: error: {' '.join(message.split())} (see --help)\n")


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options that every experiment takes."""
    add_seed_and_quick(parser)
    parser.add_argument(
        "--results",
        type=Path,
        metavar="DIR",
        help="where the JSON and PNG files go (default: experiments/results beside the sources; with --quick "
        "experiments/results/quick)",
    )


def add_seed_and_quick(parser: argparse.ArgumentParser) -> None:
    """Adds the options of a process that takes part in an experiment and writes no results."""
    parser.add_argument("--quick", action="store_true", help="a smaller run of under a minute, for tests")
    parser.add_argument("--seed", type=_seed, default=0, help="seed of every random number (default: 0)")


def run(experiment: Experiment, arguments: Sequence[str]) -> int:
    """Runs one experiment from its command line, what stands after its name.

    Args:
        experiment: the claim to judge.
        arguments: its options.

    Returns:
        0 if the claim holds, 1 if it fails or cannot be judged, 2 if the results cannot be written, 130 after Ctrl-C.
    """
    options = _parse(experiment, arguments)
    try:
        return _judge(experiment, options, arguments)
    except KeyboardInterrupt:
        print(f"experiments {experiment.name}: interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED
    except result_files.UnwritableResultsError as error:
        print(f"experiments {experiment.name}: error: {error}", file=sys.stderr)
        return EXIT_USAGE
    except (MeasurementError, ProcessDiedError) as error:
        print(f"experiments {experiment.name}: error: {error}", file=sys.stderr)
        return EXIT_FAILED


def leave(code: int) -> NoReturn:
    """Ends the process; after an interrupt at once, as XLA may still be computing on what an orderly end takes away."""
    if code == EXIT_INTERRUPTED:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def positive(text: str) -> int:
    """Reads a whole number of at least 1."""
    if not re.fullmatch(r"\d{1,9}", text) or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 1, got {text!r}")
    return int(text)


def wide_console() -> Console:
    """Returns a console on standard output; a file or a pipe gets lines wide enough for the tables."""
    console = Console()
    return console if console.is_terminal else Console(width=140)


def _parse(experiment: Experiment, arguments: Sequence[str]) -> Options:
    parser = OneLineParser(prog=f"python -m experiments {experiment.name}", description=experiment.claim)
    add_options(parser)
    own = experiment.own_options
    if own is not None:
        own.add(parser)
    found = parser.parse_args(arguments)
    results = found.results or (result_files.QUICK_DIRECTORY if found.quick else result_files.DEFAULT_DIRECTORY)
    try:
        return Options(found.quick, results, found.seed, None if own is None else own.read(found))
    except ValueError as error:
        parser.error(str(error))


def _judge(experiment: Experiment, options: Options, arguments: Sequence[str]) -> int:
    result_files.prepare_directory(options.results)
    start = time.perf_counter()
    with _progress() as progress:
        outcome = experiment.measure(options, progress)
    seconds = time.perf_counter() - start
    _print_outcome(experiment, outcome)
    for stem, figure in outcome.figures.items():
        result_files.write_png(options.results / f"{stem}.png", figure)
    document = {
        "experiment": experiment.name,
        "claim": experiment.claim,
        "passed": outcome.passed,
        "checks": outcome.checks,
        "conclusion": outcome.conclusion,
        "quick": options.quick,
        "seconds": round(seconds, 1),
        "resumed": outcome.resumed,
        **result_files.provenance(experiment.name, arguments, options.seed),
        "figures": [f"{stem}.png" for stem in outcome.figures],
        "measurements": outcome.measurements,
    }
    result_files.write_json(options.results / f"{experiment.name}.json", document)
    outcome.finish()
    return EXIT_PASSED if outcome.passed else EXIT_FAILED


def _print_outcome(experiment: Experiment, outcome: Outcome) -> None:
    console = wide_console()
    for table in outcome.tables:
        console.print(table)
    console.print(f"[bold]Claim[/bold]       {escape(experiment.claim)}")
    for sentence in outcome.conclusion:
        console.print(f"[bold]Conclusion[/bold]  {escape(sentence)}", soft_wrap=True)
    for check in (check for check, holds in outcome.checks.items() if not holds):
        console.print(f"[bold red]FAILS[/bold red]       {escape(check)}")
    console.print(f"[bold]Verdict[/bold]     {'the claim holds' if outcome.passed else 'the claim FAILS'}")


def _progress() -> Progress:
    """Returns a progress display on standard error if that is a terminal; standard output holds the findings alone."""
    console = Console(stderr=True)
    columns = (*Progress.get_default_columns(), MofNCompleteColumn(), TimeElapsedColumn())
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)


def _seed(text: str) -> int:
    if not re.fullmatch(r"\d{1,10}", text) or int(text) >= 2**32:
        raise argparse.ArgumentTypeError(f"expected a whole number in [0, 2**32), got {text!r}")
    return int(text)
