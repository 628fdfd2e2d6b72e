"""What a certificate records: rows, what they come to for each function, and the report that holds them."""

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from operator import attrgetter
from typing import Any

DIFFERENTIAL = "jax.jvp"  # M1-M3 check JAX's own jvp; their rows don't affect the verdict
NO_ARGUMENT = "no argument "  # prefix of a Gap's reason, followed by the missing keyword
UNKNOWN = "no theorem knows the argument"  # the reason of a Gap that names arguments of the function's own
HOLDS, FAILS, NOT_JUDGED = "holds", "fails", "not judged"


@dataclass(frozen=True)
class Row:
    """One theorem, seen on one function, through one transformation, in one dtype and regime."""

    theorem: str  # "M5"
    function: str  # "softmax", "forward_mode.logsumexp", ...
    quantity: str  # what is compared: "value", "gradient in logits", "Hessian", ...
    judge: str  # "mpmath, 50 digits", "textbook autodiff, float64" or "finite differences, float64"
    transformation: str  # "eager", "jit", "vmap", "grad", ...
    dtype: str
    regime: str  # "ordinary", "shift 1e4", "confident gap 1-80", ...
    error: float  # worst error in ulps; inf where a NaN or an infinity is missing or misplaced, or the call failed
    bound: float  # ulps
    keywords: tuple[str, ...] = ()  # those that were passed
    detail: str = ""  # of a row that fails: what came and what should have come, or the exception
    case: str = ""  # the first input that fails, where a row has several
    gap: float | None = None  # of that input, in nats: by how much the largest logit is ahead
    holds_to: float | None = None  # that of the input just before the first failing one
    lost_from: float | None = None  # the first at which some entry has no correct digit

    @property
    def passed(self) -> bool:
        """Whether the error is within its bound."""
        return not math.isnan(self.error) and self.error <= self.bound

    @property
    def bound_fraction(self) -> float:
        """The error as a share of its bound; infinite for a NaN, and for any error where the bound is zero."""
        if math.isnan(self.error):
            return math.inf
        if self.bound == 0.0:
            return 0.0 if self.error == 0.0 else math.inf
        return self.error / self.bound


_COLUMNS = tuple(field.name for field in fields(Row))


@dataclass(frozen=True)
class Gap:
    """Claims or transformations that were not judged on a function, and why."""

    function: str
    reason: str  # "no argument bias", "forward mode is refused", ...
    unjudged: tuple[str, ...]  # claims or transformations, by name
    theorems: tuple[str, ...] = ()  # the numbers of theorems with claims that were not judged at all


@dataclass(frozen=True, repr=False)
class Verdict:
    """What a certificate comes to for one function."""

    function: str
    rows: tuple[Row, ...]
    gaps: tuple[Gap, ...]

    @property
    def failed(self) -> tuple[Row, ...]:
        """The rows that don't hold."""
        return tuple(row for row in self.rows if not row.passed)

    @property
    def verdict(self) -> str:
        """Whether the function "holds", "fails" or is "not judged"."""
        if not self.rows:
            return NOT_JUDGED
        return FAILS if self.failed else HOLDS

    def __repr__(self) -> str:
        """The verdict in a line."""
        return f"Verdict({self.function} {self.verdict}: {len(self.failed)} of {len(self.rows)} rows fail)"

    def seen(self, column: str) -> tuple[Any, ...]:
        """The values that stand in a column of its rows, each once."""
        return tuple(dict.fromkeys(map(attrgetter(column), self.rows)))

    @property
    def keywords(self) -> tuple[str, ...]:
        """The keywords that were passed, in any row."""
        return tuple(dict.fromkeys(keyword for row in self.rows for keyword in row.keywords))

    @property
    def summary(self) -> str:
        """The verdict in words: "formula holds; tails lose digits beyond a gap of 5 (M19, M20)"."""
        from jaxsoftmax.verify._diagnosis import summary_of

        return summary_of(self)

    def as_dict(self) -> dict[str, Any]:
        """The verdict, and what it rests on."""
        seen = {f"{column}s": self.seen(column) for column in ("theorem", "dtype", "transformation")}
        return {
            "function": self.function,
            "verdict": self.verdict,
            "summary": self.summary,
            "rows": len(self.rows),
            "failed": len(self.failed),
            **seen,
            "keywords": self.keywords,
            "not_judged": [{"reason": gap.reason, "unjudged": gap.unjudged} for gap in self.gaps],
        }


@dataclass(frozen=True, repr=False)
class Report:
    """A certificate: what each function comes to, every row, and what it was made on.

    `print(report)` shows what `jaxsoftmax verify` does.
    """

    implementation: str
    offered: tuple[str, ...]  # functions of the chosen theorems that the implementation has
    missing: tuple[str, ...]  # those that it lacks
    rows: tuple[Row, ...]
    gaps: tuple[Gap, ...]
    device: str
    versions: dict[str, str]
    seconds: float
    quick: bool = False

    @cached_property
    def verdicts(self) -> tuple[Verdict, ...]:
        """What the certificate comes to for each function that is offered."""
        return tuple(Verdict(function, _of(self.rows, function), _of(self.gaps, function)) for function in self.offered)

    @property
    def passed(self) -> bool:
        """Whether every function that is offered is judged, and holds."""
        return bool(self.offered) and all(verdict.verdict == HOLDS for verdict in self.verdicts)

    @property
    def judged(self) -> tuple[Row, ...]:
        """The rows about functions of the implementation; the others are about JAX itself."""
        return tuple(row for row in self.rows if row.function != DIFFERENTIAL)

    @property
    def failed(self) -> tuple[Row, ...]:
        """The rows about functions of the implementation that don't hold."""
        return tuple(row for row in self.judged if not row.passed)

    def as_dict(self) -> dict[str, Any]:
        """The report as plain data: rows as lists in the order of `columns`; infinity is the string "inf"."""
        return {
            "implementation": self.implementation,
            "passed": self.passed,
            "verdicts": [verdict.as_dict() for verdict in self.verdicts],
            "offered": self.offered,
            "missing": self.missing,
            "gaps": [asdict(gap) for gap in self.gaps],
            "device": self.device,
            "versions": self.versions,
            "seconds": self.seconds,
            "quick": self.quick,
            "columns": _COLUMNS,
            "rows": [_plain(row) for row in self.rows],
        }

    @classmethod
    def from_dict(cls, document: dict[str, Any]) -> "Report":
        """The report that `as_dict` was made of, from JSON too."""
        columns, texts = document["columns"], ("implementation", "device", "versions", "seconds", "quick")
        return cls(
            offered=tuple(document["offered"]),
            missing=tuple(document["missing"]),
            rows=tuple(_row(dict(zip(columns, row, strict=False))) for row in document["rows"]),
            gaps=tuple(map(_gap, document["gaps"])),
            **{name: document[name] for name in texts},
        )

    def __repr__(self) -> str:
        """The certificate in a line."""
        return f"Report({self.implementation}: {len(self.failed)} of {len(self.judged)} rows fail)"

    def __str__(self) -> str:
        """What `jaxsoftmax verify` prints."""
        from jaxsoftmax.verify._table import as_text

        return as_text(self)


def _of(records: Iterable[Any], function: str) -> tuple[Any, ...]:
    return tuple(record for record in records if record.function == function)


def _plain(row: Row) -> list[Any]:
    """The row's columns, but for those at the end that have nothing to say."""
    values = [getattr(row, column) for column in _COLUMNS]
    values[_COLUMNS.index("error")] = row.error if math.isfinite(row.error) else str(row.error)
    while values[-1] in ("", (), None):
        values.pop()
    return values


def _gap(named: dict[str, Any]) -> Gap:
    return Gap(named["function"], named["reason"], tuple(named["unjudged"]), tuple(named.get("theorems", ())))


def _row(named: dict[str, Any]) -> Row:
    return Row(**named | {"error": float(named["error"]), "keywords": tuple(named.get("keywords", ()))})
