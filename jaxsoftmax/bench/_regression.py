"""The regression check: whether time relative to the base, memory or gradient error has become worse."""

from collections.abc import Mapping, Sequence
from typing import Any

from jaxsoftmax.bench._case import Case
from jaxsoftmax.bench._record import Record, Row
from jaxsoftmax.bench._subjects import SUBJECT

TIME_MARGIN = 1.05  # of the earlier upper quartile: two runs of the same code stay within it
MEMORY_MARGIN = 1.10
MEMORY_SLACK = 1 << 16  # bytes: below it are the row statistics of tiny shapes
ERROR_MARGIN = 2.0  # sums in another order
_QUICK = 4  # cases


def cases_to_repeat(record: Record, kind: str | None, quick: bool) -> tuple[Case, ...]:
    """Returns the cases, of one kind if it is given, that jaxsoftmax has run; the smallest few if quick.

    Raises:
      ValueError: there is none.
    """
    cases = [row.case for row in record.rows if row.subject == SUBJECT and not row.failure]
    cases = [case for case in dict.fromkeys(cases) if kind in (None, case.kind)]
    if not cases:
        raise ValueError(f"no {'' if kind is None else kind + ' '}case that jaxsoftmax has run")
    return tuple(sorted(cases, key=_size)[:_QUICK] if quick else cases)


def _size(case: Case) -> int:
    return case.tokens * case.vocab * (case.width or 1)


def regressions(before: Sequence[Row], after: Sequence[Row]) -> list[str]:
    """Returns what has become worse in the rows of jaxsoftmax, a line each.

    Time is compared as its ratio to the base (`Case.base`) in the same rounds. It is worse where the new lower
    quartile is more than `TIME_MARGIN` times the earlier upper one; temporary memory where it is more than
    `MEMORY_MARGIN` times the earlier, and by more than `MEMORY_SLACK`; a gradient where its error is NaN or more than
    `ERROR_MARGIN` times the earlier.
    """
    earlier = {row.case: row for row in before if row.subject == SUBJECT}
    return [
        f"{row.case.label}: {change}"
        for row in after
        if row.subject == SUBJECT and row.case in earlier
        for change in _changes(earlier[row.case], row)
    ]


def _changes(before: Row, after: Row) -> list[str]:
    if after.failure:
        return [] if before.failure else [f"failed: {after.failure}"]
    changes = []
    old, new = before.to_base, after.to_base
    if old is not None and new is None:
        changes.append(f"could not be compared with {after.case.base}")
    elif old is not None and new is not None and new.lower > TIME_MARGIN * old.upper:
        changes.append(
            f"{new.median:.3g} times {after.case.base} ({new.lower:.3g}–{new.upper:.3g}), "
            f"was {old.median:.3g} ({old.lower:.3g}–{old.upper:.3g})"
        )
    if before.temp_bytes is not None and after.temp_bytes is not None:
        allowed = max(MEMORY_MARGIN * before.temp_bytes, before.temp_bytes + MEMORY_SLACK)
        if after.temp_bytes > allowed:
            changes.append(f"{after.temp_bytes} bytes of temporary memory, was {before.temp_bytes}")
    old_error, new_error = before.gradient_error, after.gradient_error
    if old_error is not None and new_error is not None and not new_error <= ERROR_MARGIN * old_error:
        changes.append(f"gradient error {new_error:.2g}, was {old_error:.2g}")
    return changes


def differences(before: Record, after: Record) -> list[str]:
    """Returns in what machine, versions and settings two records differ, a line each."""
    pairs: tuple[tuple[Mapping[str, Any], Mapping[str, Any]], ...] = (
        (before.machine, after.machine),
        ({name: value for name, value in before.versions.items() if name in after.versions}, after.versions),
        (before.environment, after.environment),
    )
    return [
        f"{name}: {then.get(name, 'none')} then, {now.get(name, 'none')} now"
        for then, now in pairs
        for name in dict.fromkeys([*then, *now])
        if then.get(name) != now.get(name)
    ]
