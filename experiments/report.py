"""Gathers the results into one HTML page: ``python -m experiments report [--results DIR] [--output FILE]``.

It is no experiment: it measures nothing, and shows what the JSON and PNG files of the results hold. The page loads
nothing from elsewhere.
"""

import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from jinja2 import Environment, StrictUndefined

from experiments import _results
from experiments.__main__ import NAMES
from experiments._experiment import EXIT_INTERRUPTED, EXIT_PASSED, EXIT_USAGE, OneLineParser, leave
from experiments._gathered import Benchmark, Result, UnreadableResultsError, gather, gather_benchmarks

_TEMPLATE = Path(__file__).with_name("report.html.jinja")


def render(results: Sequence[Result], benchmarks: Sequence[Benchmark], date: str) -> str:
    """Returns the page.

    Args:
        results: what the experiments wrote, in the order of the page.
        benchmarks: what the benchmarks wrote, in short.
        date: when the page is made.
    """
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(_TEMPLATE.read_text(encoding="utf-8"))
    return template.render(results=results, benchmarks=benchmarks, date=date)


def main(argv: Sequence[str] | None = None) -> int:
    """Writes the page.

    Returns:
        0 if the page is written, 2 for bad arguments, broken results or an unwritable file, 130 after Ctrl-C.
    """
    parser = OneLineParser(prog="python -m experiments report", description="Gather the results into one HTML page.")
    parser.add_argument(
        "--results",
        type=Path,
        metavar="DIR",
        default=_results.DEFAULT_DIRECTORY,
        help="where the JSON and PNG files are (default: experiments/results beside the sources)",
    )
    parser.add_argument("--output", type=Path, metavar="FILE", help="the page (default: report.html in that directory)")
    options = parser.parse_args(argv)
    output = options.output or options.results / "report.html"
    try:
        results = gather(options.results, NAMES)
        page = render(results, gather_benchmarks(options.results / "bench"), _now())
        _results.write_whole(output, page.encode())
    except KeyboardInterrupt:
        print("experiments.report: interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED
    except (UnreadableResultsError, _results.UnwritableResultsError) as error:
        print(f"experiments.report: error: {error}", file=sys.stderr)
        return EXIT_USAGE
    print(f"{len(results)} experiments, {sum(result.passed for result in results)} claims hold: {output}")
    return EXIT_PASSED


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")


if __name__ == "__main__":
    leave(main())
