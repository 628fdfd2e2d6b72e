"""Pieces of Markdown."""

import re
from collections.abc import Iterable, Mapping, Sequence

_SPECIAL = re.compile(r"[\\`*_{}\[\]<>#|$~^]")


def table(header: Sequence[str], rows: Iterable[Sequence[str]], numeric: int = 0) -> str:
    """Returns a table; its last `numeric` columns are aligned to the right."""
    rules = ["---"] * (len(header) - numeric) + ["---:"] * numeric
    lines = [header, rules, *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def plain(text: str) -> str:
    """Returns text that Markdown shows as it is, in a table too."""
    return _SPECIAL.sub(entity, text)


def entity(found: re.Match[str]) -> str:
    """Returns a character that was found as what Markdown shows and doesn't read."""
    return f"&#{ord(found[0])};"


def versioned(versions: Mapping[str, str]) -> str:
    """Returns packages with their versions: "jax 0.10.2, optax 0.2.8"."""
    return ", ".join(f"{package} {version}" for package, version in versions.items())


def fenced(language: str, text: str) -> str:
    """Returns a block of code."""
    return f"```{language}\n{text.rstrip()}\n```\n"


def details(kind: str, summary: str, body: str) -> str:
    """Returns a block that is folded until it is asked for."""
    indented = "\n".join(f"    {line}".rstrip() for line in body.splitlines())
    return f'??? {kind} "{summary.replace(chr(34), chr(39))}"\n\n{indented}\n'


def in_figures(value: float, digits: int = 3) -> str:
    """Returns a number in so many figures; one that has more of them, up to a million, as a whole number: "1571"."""
    rounded = f"{value:.{digits}g}"
    return f"{value:.0f}" if "e+" in rounded and value < 1e6 else rounded.replace("inf", "∞")
