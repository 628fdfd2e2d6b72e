"""A certificate as one self-contained HTML page."""

import shlex
from collections.abc import Mapping
from importlib import resources
from operator import attrgetter

from jinja2 import Environment, StrictUndefined

from jaxsoftmax.verify._diagnosis import conclusion, is_wrong_number, one_line, shortened
from jaxsoftmax.verify._figures import confidence_panels, jacobian_panels
from jaxsoftmax.verify._record import HOLDS, Report, Row
from jaxsoftmax.verify._table import Line, lines_of, of_its_compiler, of_jax_itself, ulps
from jaxsoftmax.verify._theorem import Theorem

_ROWS_SHOWN = 5
_LONGEST_DETAIL = 1000


def render_page(report: Report, theorems: Mapping[str, Theorem], command: list[str], date: str) -> str:
    """Returns the certificate as an HTML page that loads nothing from elsewhere.

    Args:
      report: the certificate.
      theorems: the theorems by number, for their statements, reasons and symptoms.
      command: the command line that made the report.
      date: when it was made.
    """
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(
        resources.files("jaxsoftmax.verify").joinpath("page.html.jinja").read_text("utf-8")
    )
    outcome, *further = conclusion(report)
    return template.render(
        report=report,
        outcome=outcome,
        further=[*further, *filter(None, (of_jax_itself(report), of_its_compiler(report)))],
        verdicts=[
            {"function": v.function, "verdict": v.verdict, "holds": v.verdict == HOLDS, "summary": v.summary}
            for v in report.verdicts
        ],
        command=shlex.join(command),
        date=date,
        groups=[_group(theorems, number, lines, _failing_of(lines)) for number, lines in lines_of(report).items()],
        jacobian_panels=jacobian_panels(),
        confidence_panels=confidence_panels(),
    )


def _failing_of(lines: tuple[Line, ...]) -> tuple[Row, ...]:
    """The failing rows of a theorem, the worst first."""
    failing = (row for line in lines for row in line.rows if not row.passed)
    return tuple(sorted(failing, key=attrgetter("bound_fraction"), reverse=True))


def _group(
    theorems: Mapping[str, Theorem], number: str, lines: tuple[Line, ...], failing: tuple[Row, ...]
) -> dict[str, object]:
    theorem = theorems.get(number)
    return {
        "number": number,
        "name": theorem.name if theorem else "",
        "statement": theorem.statement if theorem else "",
        "reason": theorem.reason if theorem else "",
        "typical_failure": theorem.typical_failure if theorem and any(is_wrong_number(row) for row in failing) else "",
        "passed": not failing,
        "lines": [_cells(line) for line in lines],
        "failing": [_failing(row) for row in failing[:_ROWS_SHOWN]],
        "unshown": max(len(failing) - _ROWS_SHOWN, 0),
    }


def _cells(line: Line) -> dict[str, object]:
    worst = line.worst
    return {
        "function": line.function,
        "quantity": line.quantity,
        "rows": len(line.rows),
        "error": ulps(worst.error),
        "bound": ulps(worst.bound),
        "percent": round(100.0 * min(worst.bound_fraction, 1.0), 1),
        "row": worst,
        "passed": line.passed,
    }


def _failing(row: Row) -> dict[str, object]:
    return {
        "row": row,
        "error": ulps(row.error),
        "bound": ulps(row.bound),
        "detail": shortened(one_line(row.detail), _LONGEST_DETAIL),
    }
