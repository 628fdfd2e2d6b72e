"""The errors of each function in ulps, dtype by dtype, from the kept certificates."""

from collections.abc import Sequence

from docs.generate import certificates
from docs.generate.text import details, in_figures, plain, table
from jaxsoftmax.verify import Row

_DTYPES = ("float32", "float64", "bfloat16", "float16")
_PARTS = {
    "": "",
    "analytic.": "The closed forms of `jaxsoftmax.analytic`",
    "forward_mode.": "The forward-mode variants, of `jaxsoftmax.forward_mode`",
}
_OF_JAX = "jax."
_LEFT_OUT = "-keywords"  # theorems about calls with each keyword by itself


def render() -> str:
    """Returns a table of the functions of each module, and what it was made on."""
    kept = certificates.kept()
    every = certificates.by_digits(row for report in kept for row in report.rows)
    rows = [row for row in every if not row.theorem.endswith(_LEFT_OUT)]
    parts = [_part(prefix, title, rows) for prefix, title in _PARTS.items()]
    made_on = "".join(f"- {plain(certificates.made_on(report))}\n" for report in kept)
    calls = len({(row.function, row.quantity) for row in every}) - len({(row.function, row.quantity) for row in rows})
    left_out = (
        f"Left out are {calls} calls with each keyword by itself and all together, which hold to the same bounds."
    )
    return "\n".join(parts) + f"\n{left_out}\n\nMade on:\n\n{made_on}"


def _part(prefix: str, title: str, rows: Sequence[Row]) -> str:
    others = (*(name for name in _PARTS if name not in ("", prefix)), _OF_JAX)
    own = [row for row in rows if row.function.startswith(prefix) and not row.function.startswith(others)]
    grouped: dict[tuple[str, str], list[Row]] = {}
    for row in own:
        grouped.setdefault((row.function.removeprefix(prefix), row.quantity), []).append(row)
    dtypes = [dtype for dtype in _DTYPES if any(row.dtype == dtype for row in own)]
    shown = table(
        ("function", "quantity", *dtypes),
        [
            (f"`{function}`", plain(quantity), *(_cell(of_line, dtype) for dtype in dtypes))
            for (function, quantity), of_line in sorted(grouped.items())
        ],
        len(dtypes),
    )
    return details("abstract", title, shown) if title else shown


def _cell(rows: Sequence[Row], dtype: str) -> str:
    worst = certificates.worst(row for row in rows if row.dtype == dtype)
    return "" if worst is None else f"{in_figures(worst.error, 2)} of {in_figures(worst.bound)}"
