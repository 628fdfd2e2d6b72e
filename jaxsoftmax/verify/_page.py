"""A certificate as one self-contained HTML page."""

import shlex
from collections.abc import Mapping
from importlib import resources

from jinja2 import Environment, StrictUndefined

from jaxsoftmax.verify._figures import confidence_panels, jacobian_panels
from jaxsoftmax.verify._record import Report, Row
from jaxsoftmax.verify._table import (
    Line,
    failures_of,
    is_wrong_number,
    lines_of,
    never_returned,
    of_its_compiler,
    of_jax_itself,
    one_line,
    shortened,
    ulps,
    verdict,
)
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
    failures = failures_of(report)
    return template.render(
        report=report,
        verdict=verdict(report),
        never_returned=never_returned(report),
        remarks=[remark for remark in (of_jax_itself(report), of_its_compiler(report)) if remark],
        command=shlex.join(command),
        date=date,
        groups=[_group(theorems, number, lines, failures) for number, lines in lines_of(report).items()],
        jacobian_panels=jacobian_panels(),
        confidence_panels=confidence_panels(),
    )


def _group(
    theorems: Mapping[str, Theorem], number: str, lines: tuple[Line, ...], failures: Mapping[str, tuple[Row, ...]]
) -> dict[str, object]:
    theorem, failing = theorems.get(number), failures.get(number, ())
    return {
        "number": number,
        "statement": theorem.statement if theorem else "",
        "reason": theorem.reason if theorem else "",
        "symptom": theorem.symptom if theorem and any(is_wrong_number(row) for row in failing) else "",
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
        "percent": round(100.0 * min(worst.strain, 1.0), 1),
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
