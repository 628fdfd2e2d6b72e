"""Runs the experiments in order: ``python -m experiments [--list] [--quick] [--results DIR] [--seed N] [NAME ...]``.

One alone takes options of its own: ``python -m experiments NAME --help`` lists them.
"""

import importlib
import sys
import time
from collections.abc import Sequence

from rich.table import Table

from experiments.runner.experiment import (
    EXIT_FAILED,
    EXIT_INTERRUPTED,
    EXIT_PASSED,
    EXIT_USAGE,
    Experiment,
    OneLineParser,
    add_options,
    leave,
    run,
    wide_console,
)

NAMES = (
    "derivation",
    "jacobian",
    "stability",
    "softmax_collapse",
    "linear_classifier",
    "drop_in",
    "language_model",
    "curvature",
    "distillation",
    "multihost",
    "scaling",
)
_VERDICTS = {EXIT_PASSED: "the claim holds", EXIT_FAILED: "the claim FAILS"}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one experiment with its own options, or the named ones, or all of them, and prints a summary.

    Returns:
        0 if every claim holds, 1 if one fails, 2 for bad arguments or unwritable results, 130 after Ctrl-C.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        match arguments:
            case [name, *options] if name in NAMES and not set(options) & {*NAMES, "--list"}:
                return run(experiment(name), options)
        return _main(arguments)
    except KeyboardInterrupt:
        print("experiments: interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED


def experiment(name: str) -> Experiment:
    """Returns one of the `NAMES`, whose module is imported only now."""
    return importlib.import_module(f"experiments.{name}.claim").EXPERIMENT


def _main(arguments: Sequence[str]) -> int:
    parser = OneLineParser(prog="python -m experiments", description="Run the experiments, one claim each.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"which ones (default: all): {', '.join(NAMES)}")
    parser.add_argument("--list", action="store_true", help="list the experiments and their claims")
    add_options(parser)
    options = parser.parse_args(arguments)
    unknown = [name for name in options.names if name not in NAMES]
    if unknown:
        parser.error(f"no experiment is called {unknown[0]!r}; choose from {', '.join(NAMES)}")
    names = list(dict.fromkeys(options.names)) or list(NAMES)
    passed_on = ["--quick"] * options.quick
    if options.results is not None:
        passed_on += ["--results", str(options.results)]
    if options.seed != parser.get_default("seed"):
        passed_on += ["--seed", str(options.seed)]
    return _list(names) if options.list else _run(names, passed_on)


def _list(names: list[str]) -> int:
    for name in names:
        print(f"{name:<20}{experiment(name).claim}")
    return EXIT_PASSED


def _run(names: list[str], arguments: list[str]) -> int:
    console = wide_console()
    table = Table("experiment", "claim", "verdict", "seconds", title="Summary")
    codes = []
    for name in names:
        console.rule(name)
        start = time.perf_counter()
        each = experiment(name)
        codes.append(run(each, arguments))
        if codes[-1] in (EXIT_USAGE, EXIT_INTERRUPTED):
            return codes[-1]
        seconds = f"{time.perf_counter() - start:.1f}"
        table.add_row(name, each.claim, _VERDICTS[codes[-1]], seconds)
    console.print(table)
    return max(codes)


if __name__ == "__main__":
    leave(main())
