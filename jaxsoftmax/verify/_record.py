"""What a certificate records: rows, and the report that holds them."""

import math
from dataclasses import asdict, dataclass
from typing import Any


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
    detail: str  # the worst entry, or the exception; empty where the row holds

    @property
    def passed(self) -> bool:
        """Whether the error is within its bound."""
        return not math.isnan(self.error) and self.error <= self.bound

    @property
    def strain(self) -> float:
        """The error as a share of its bound; infinite for a NaN, and for any error where the bound is zero."""
        if math.isnan(self.error):
            return math.inf
        if self.bound == 0.0:
            return 0.0 if self.error == 0.0 else math.inf
        return self.error / self.bound


@dataclass(frozen=True)
class Report:
    """A certificate: every row, and what it was made on."""

    implementation: str
    rows: tuple[Row, ...]
    skipped: tuple[str, ...]  # "softmax: not offered", "logsumexp under jacfwd: forward mode refused", ...
    device: str
    versions: dict[str, str]
    seconds: float

    @property
    def passed(self) -> bool:
        """Whether there is a row, and every row holds."""
        return bool(self.rows) and not self.failed

    @property
    def failed(self) -> tuple[Row, ...]:
        """The rows that don't hold."""
        return tuple(row for row in self.rows if not row.passed)

    def as_dict(self) -> dict[str, Any]:
        """The report as plain data; an infinite error becomes the string "inf"."""
        rows = [asdict(row) | {"passed": row.passed} for row in self.rows]
        for row in rows:
            row["error"] = row["error"] if math.isfinite(row["error"]) else str(row["error"])
        return asdict(self) | {"rows": rows, "passed": self.passed}
