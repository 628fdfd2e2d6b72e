"""Runs the experiments in order: ``python -m experiments [--list] [--quick] [--results DIR] [--seed N] [NAME ...]``.

``python -m experiments report [--results DIR] [--output FILE]`` gathers their results into one page.
"""

import importlib
import sys
import time
from collections.abc import Sequence

from rich.table import Table

from experiments._experiment import (
    EXIT_FAILED,
    EXIT_INTERRUPTED,
    EXIT_PASSED,
    EXIT_USAGE,
    Experiment,
    OneLineParser,
    add_options,
    leave,
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
REPORT = "report"  # no experiment: it takes other options, and stands alone
_VERDICTS = {EXIT_PASSED: "the claim holds", EXIT_FAILED: "the claim FAILS"}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the named experiments, or all of them, and prints a summary.

    Returns:
        0 if every claim holds, 1 if one fails, 2 for bad arguments or unwritable results, 130 after Ctrl-C.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments[:1] == [REPORT]:
        return importlib.import_module(f"experiments.{REPORT}").main(arguments[1:])
    parser = OneLineParser(prog="python -m experiments", description="Run the experiments, one claim each.")
    parser.add_argument(
        "names",
        nargs="*",
        metavar="NAME",
        help=f"which ones (default: all): {', '.join(NAMES)}; or {REPORT}, which gathers their results in one page",
    )
    parser.add_argument("--list", action="store_true", help="list the experiments and their claims")
    add_options(parser)
    options = parser.parse_args(arguments)
    if REPORT in options.names:
        parser.error(f"{REPORT} stands alone: python -m experiments {REPORT} [--results DIR] [--output FILE]")
    unknown = [name for name in options.names if name not in NAMES]
    if unknown:
        parser.error(f"no experiment is called {unknown[0]!r}; choose from {', '.join(NAMES)}")
    names = list(dict.fromkeys(options.names)) or list(NAMES)
    passed_on = ["--quick"] * options.quick
    if options.results is not None:
        passed_on += ["--results", str(options.results)]
    if options.seed != parser.get_default("seed"):
        passed_on += ["--seed", str(options.seed)]
    try:
        return _list(names) if options.list else _run(names, passed_on)
    except KeyboardInterrupt:
        print("experiments: interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED


def _experiment(name: str) -> Experiment:
    return importlib.import_module(f"experiments.{name}").EXPERIMENT


def _list(names: list[str]) -> int:
    for name in names:
        print(f"{name:<20}{_experiment(name).claim}")
    if names == list(NAMES):
        print(f"{REPORT:<20}(no experiment) Gathers the results into one HTML page.")
    return EXIT_PASSED


def _run(names: list[str], arguments: list[str]) -> int:
    console = wide_console()
    table = Table("experiment", "claim", "verdict", "seconds", title="Summary")
    codes = []
    for name in names:
        console.rule(name)
        start = time.perf_counter()
        codes.append(importlib.import_module(f"experiments.{name}").main(arguments))
        if codes[-1] in (EXIT_USAGE, EXIT_INTERRUPTED):
            return codes[-1]
        seconds = f"{time.perf_counter() - start:.1f}"
        table.add_row(name, _experiment(name).claim, _VERDICTS[codes[-1]], seconds)
    console.print(table)
    return max(codes)


if __name__ == "__main__":
    leave(main())
