"""What a verdict says to a person: which aspect of a function fails, and the smallest input that shows it."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from operator import attrgetter

from jaxsoftmax.verify._record import NO_ARGUMENT, NOT_JUDGED, UNKNOWN, Report, Row, Verdict
from jaxsoftmax.verify._regimes import LOW_PRECISION
from jaxsoftmax.verify._transformations import BY_COTANGENTS

_OF_A_FORMULA: tuple[str, ...] = ("formula", "keywords", "cotangents", "transformations")
ASPECTS = (*_OF_A_FORMULA, "tails", "infinities", "low precision", "float64")
FORMULA, KEYWORDS, COTANGENTS, TRANSFORMATIONS, TAILS, INFINITIES, LOW, FLOAT64 = ASPECTS
_OF_ROWS = (TAILS, INFINITIES, LOW)  # about rows or dtypes in which a wrong formula fails too
_INFINITE = ("-inf", "labels -1", "labels ignored", "weights 0")
_FAR = ("confident", "[0] + [-17]", "[1e4, 9990", "[40, 0", "nearly constant", "p = 0.999", "far past the cap")
_OF_TAILS = ("M18", "M19", "M20", "M21")  # a shifted row fails these by cancellation: that is a matter of tails
_OF_ANY_CALL = {"mesh", "token_axes", "vocab_axis", "reduction"}  # keywords that say how a function is called
LONGEST_DETAIL = 400


def aspect_of(row: Row) -> str:
    """Returns what a row is about, by its theorem, dtype and regime."""
    if row.theorem.endswith("keywords") and set(row.keywords) - _OF_ANY_CALL:
        return KEYWORDS
    if row.dtype in LOW_PRECISION:
        return LOW
    if any(mark in row.regime for mark in _INFINITE):
        return INFINITIES
    if any(mark in row.regime for mark in _FAR) or (row.theorem in _OF_TAILS and "shift" in row.regime):
        return TAILS
    return FORMULA


@dataclass(frozen=True)
class Failure:
    """The failing rows of one function in one aspect, the simplest first."""

    function: str
    aspect: str
    rows: tuple[Row, ...]
    repeats: bool = False  # whether its quantity fails in ordinary rows already

    @property
    def theorems(self) -> str:
        """Their theorems, in brackets."""
        return f"({', '.join(dict.fromkeys(row.theorem for row in self.rows))})"

    @property
    def summary(self) -> str:
        """The failure in a few words."""
        if all(has_raised(row) for row in self.rows):
            return f"{self.aspect}: calls raised {most_common([row.detail for row in self.rows])} {self.theorems}"
        said = f"{self.aspect} too" if self.repeats else _SUMMARIES[self.aspect](self.rows)
        return f"{said} {self.theorems}"


def failures_of(verdict: Verdict) -> tuple[Failure, ...]:
    """Returns the failures of a function, by aspect."""
    held = {_place(row) for row in verdict.rows if row.passed}
    by_one = {_place(row) for row in verdict.rows if row.passed and row.transformation in ("grad", "jacrev")}
    held_in_float32 = {_claim(row) for row in verdict.rows if row.passed and row.dtype == "float32"}
    held_in_float32 -= {_claim(row) for row in verdict.failed if row.dtype == "float32"}
    by_aspect: dict[str, list[Row]] = {aspect: [] for aspect in ASPECTS}
    for row in sorted(verdict.failed, key=_simplicity):
        aspect = aspect_of(row)
        if aspect == FORMULA and _place(row) in by_one and row.transformation in BY_COTANGENTS:
            aspect = COTANGENTS
        elif aspect == FORMULA and _place(row) in held:
            aspect = TRANSFORMATIONS
        elif aspect == FORMULA and row.dtype == "float64" and _claim(row) in held_in_float32:
            aspect = FLOAT64
        by_aspect[aspect].append(row)
    wrong = {row.quantity for row in by_aspect[FORMULA]}
    for aspect in _OF_ROWS:  # what shows more than the formula comes first
        by_aspect[aspect].sort(key=lambda row: row.quantity in wrong)
    return tuple(
        Failure(verdict.function, aspect, tuple(rows), aspect in _OF_ROWS and rows[0].quantity in wrong)
        for aspect, rows in by_aspect.items()
        if rows
    )


def _place(row: Row) -> tuple[str, ...]:
    return (*_claim(row), row.dtype, row.judge, row.regime)


def _claim(row: Row) -> tuple[str, ...]:
    return row.theorem, row.quantity


def _simplicity(row: Row) -> tuple[bool, ...]:
    """Wrong numbers before exceptions, few classes before many, first derivatives and float32 before others."""
    return not is_wrong_number(row), "V = " in row.regime, "Hessian" in row.quantity, row.dtype != "float32"


def summary_of(verdict: Verdict) -> str:
    """Returns what a function comes to: "formula holds; tails are lost beyond a gap of 17 (M19, M20)"."""
    if verdict.verdict == NOT_JUDGED:
        return "; ".join(f"{gap.reason}: {', '.join(gap.unjudged)}" for gap in verdict.gaps)
    failures = failures_of(verdict)
    failing = {failure.aspect for failure in failures}
    holding = [a for a in ASPECTS if a not in failing and any(aspect_of(row) == a for row in verdict.rows)]
    held = f"{_listed(holding)} {'holds' if holding in ([FORMULA], [LOW]) else 'hold'}"
    return "; ".join([*([held] if holding else []), *(failure.summary for failure in failures)])


def _listed(names: Sequence[str]) -> str:
    return " and ".join(filter(None, (", ".join(names[:-1]), *names[-1:])))


def _of_keywords(rows: Sequence[Row]) -> str:
    """What was recognised, or else the keywords of the failing call that has the fewest."""
    recognised = [row.detail.split(": ", 1)[1] for row in rows if ": " in row.detail and is_wrong_number(row)]
    if recognised:
        return _listed(list(dict.fromkeys(recognised))[:3])
    fewest = min(rows, key=lambda row: len(row.keywords))
    return f"keywords are wrong: {fewest.quantity}"


def _of_tails(rows: Sequence[Row]) -> str:
    rows = [row for row in rows if row.dtype == "float32"] or rows
    held = [row.holds_to for row in rows if row.holds_to is not None]
    lost = [row.lost_from for row in rows if row.lost_from is not None]
    if not held and not lost:
        return "tails are lost"
    every = any(row.gap is not None and row.holds_to is None for row in rows)
    losing = "tails lose digits at every gap" if every else f"tails lose digits beyond a gap of {min(held):g}"
    return f"{losing}, and have none from {min(lost):g} on" if lost else losing


def _of_infinities(rows: Sequence[Row]) -> str:
    kinds = {"rows with -inf": "-inf", "labels that are no class": "labels", "weights of 0": "weights 0"}
    return f"{_listed([kind for kind, mark in kinds.items() if any(mark in row.regime for row in rows)])} go wrong"


_SUMMARIES: dict[str, Callable[[Sequence[Row]], str]] = {
    FORMULA: lambda rows: "formula is wrong",
    KEYWORDS: _of_keywords,
    COTANGENTS: lambda rows: "the gradient doesn't follow its cotangent, and is right where that is 1",
    TRANSFORMATIONS: lambda rows: f"wrong under {_listed(_each(rows, 'transformation'))} alone",
    TAILS: _of_tails,
    INFINITIES: _of_infinities,
    LOW: lambda rows: f"{_listed(_each(rows, 'dtype'))} exceed one rounding",
    FLOAT64: lambda rows: "wrong in float64 alone",
}


def _each(rows: Sequence[Row], column: str) -> list[str]:
    return list(dict.fromkeys(map(attrgetter(column), rows)))


def is_wrong_number(row: Row) -> bool:
    """Returns whether a failing row is one of a wrong number, not of a call that failed or gave a wrong shape."""
    return row.detail.startswith("got ")


def has_raised(row: Row) -> bool:
    """Returns whether a failing row is a call that raised; its detail is then the exception's name and message."""
    name, colon, _ = row.detail.partition(": ")
    return bool(colon) and name.isidentifier()


def most_common(details: list[str]) -> str:
    """Returns what was raised, or what most often was."""
    counts = Counter(shortened(one_line(detail), LONGEST_DETAIL) for detail in details)
    (detail, times), *_ = counts.most_common(1)
    return detail if times == len(details) else f"exceptions, most often {detail}"


def conclusion(report: Report) -> tuple[str, str, str]:
    """Returns what held and where, what was not judged, and what to do next: a sentence each."""
    return _outcome(report), _left_out(report), _next(report)


def _outcome(report: Report) -> str:
    versions = ", ".join(f"{name} {report.versions[name]}" for name in ("jaxsoftmax", "jax") if name in report.versions)
    made_on = f"on {report.device}, {versions}, in {report.seconds:.0f} s."
    theorems = count(len({row.theorem for row in report.judged}), "theorem")
    if report.passed:
        functions = count(len(report.offered), "function")
        return f"The certificate holds: {functions} by {count(len(report.judged), 'row')} of {theorems}, {made_on}"
    failing = [verdict.function for verdict in report.verdicts if verdict.failed]
    if not failing:
        return f"The certificate judges nothing of {_unjudged(report)}, {made_on}"
    functions, rows = count(len(report.offered), "function"), count(len(report.judged), "row")
    failed = f"{len(failing)} of {functions}: {len(report.failed)} of {rows} of {theorems}"
    return f"The certificate FAILS for {failed}, {made_on}"


def _unjudged(report: Report) -> str:
    names = [verdict.function for verdict in report.verdicts if verdict.verdict == NOT_JUDGED]
    return _listed(names) or report.implementation


def _left_out(report: Report) -> str:
    by_reason: dict[str, list[str]] = {}
    arguments: dict[str, list[str]] = {}
    own: list[str] = []
    for gap in report.gaps:
        if gap.reason == UNKNOWN:
            own.append(f"{', '.join(gap.unjudged)} of {gap.function}, which no theorem knows")
            continue
        _, of_argument, argument = gap.reason.rpartition(NO_ARGUMENT)
        names = arguments.setdefault(gap.function, []) if of_argument else by_reason.setdefault(gap.reason, [])
        names.append(argument if of_argument else gap.function)
    parts = [*own, *(f"{reason} ({_few(functions)})" for reason, functions in by_reason.items())]
    parts += [f"{function} has no {', '.join(names)}" for function, names in arguments.items()]
    parts += [f"{count(len(report.missing), 'other function')} not offered"] if report.missing else []
    parts += ["what --quick leaves out: a keyword by itself in sums, most claims of variants"] if report.quick else []
    return f"Not judged: {'; '.join(parts)}." if parts else "Nothing that is offered was left unjudged."


def _few(functions: Iterable[str]) -> str:
    names = list(dict.fromkeys(functions))
    return ", ".join(names) if len(names) <= 4 else f"{', '.join(names[:3])} and {len(names) - 3} more"


def _next(report: Report) -> str:
    failing = dict.fromkeys(row.theorem for row in report.failed)
    if failing:
        return (
            f"Next: --theorem {' '.join(list(failing)[:3])} --verbose lists every quantity, --json FILE has every row."
        )
    if report.quick:
        return "Next: without --quick more transformations are seen."
    if report.device.endswith("(1 cpu)") and "linear_cross_entropy" in report.offered:
        flags = "XLA_FLAGS=--xla_force_host_platform_device_count=4"
        command = "jaxsoftmax verify --theorem M22-shards M27-mesh M27-mesh-keywords"
        return f"Next: {flags} {command} judges the head over several devices."
    return "Next: --json FILE keeps every row."


def count(number: int, noun: str) -> str:
    """Returns `number` with its noun."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def one_line(text: str) -> str:
    """Returns `text` with every run of white space as one blank."""
    return " ".join(text.split())


def shortened(text: str, length: int) -> str:
    """Returns `text`, cut after `length` characters."""
    return text if len(text) <= length else text[: length - 1] + "…"
