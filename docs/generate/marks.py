"""Where the package computes which theorem: the lines that carry its number, as `# (M5)` or in a docstring."""

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from docs.generate.repository import ROOT

_JUDGES = ("verify", "bench")  # they judge the theorems, and don't compute with them
_PLANTED = "_PLANTED"  # lines that are wrong on purpose
_MARK = re.compile(r"\(M\d+(?:(?:-|, | with | and )\(?M\d+\)?)*\)|^\s*Source: .*")
_OF_TESTS = re.compile(r"# \(M\d.*")
_SPAN = re.compile(r"M(\d+)(?:-M(\d+))?")
_DERIVATION = re.compile(r'^\s+"(M\d+(?:/M\d+)*)",$')


@dataclass(frozen=True)
class Mark:
    """One line that carries a theorem's number."""

    theorem: str
    path: str  # from the repository's root
    line: int
    function: str  # the name of the function or class around, or of the module
    in_code: bool  # as a comment behind code, not in a docstring


@cache
def of_package() -> tuple[Mark, ...]:
    """Returns every mark in the package, in the order of its files and lines."""
    paths = sorted((ROOT / "jaxsoftmax").rglob("*.py"))
    own = [path for path in paths if path.relative_to(ROOT / "jaxsoftmax").parts[0] not in _JUDGES]
    return tuple(mark for path in own for mark in _of_file(path))


@cache
def of_source_documents() -> tuple[Mark, ...]:
    """Returns every mark in the executed source documents, their derivations' own theorems too, but no planted ones."""
    folder = ROOT / "experiments" / "derivation" / "source_documents"
    found = (mark for path in sorted(folder.glob("*.py")) for mark in _of_file(path))
    return tuple(mark for mark in found if mark.function != _PLANTED)


@cache
def of_tests() -> tuple[Mark, ...]:
    """Returns every comment `# (M5)` within a test, most of them behind its name."""
    paths = sorted((ROOT / "tests").rglob("test_*.py"))
    found = (mark for path in paths for mark in _of_file(path, _OF_TESTS))
    return tuple(mark for mark in found if mark.function.startswith("test_"))


def numbers_in(text: str) -> list[str]:
    """Returns the theorems that a text names, those between the ends of a span too.

    >>> numbers_in("M16, M24-M26")
    ['M16', 'M24', 'M25', 'M26']
    """
    return [f"M{number}" for first, last in _SPAN.findall(text) for number in range(int(first), int(last or first) + 1)]


def _of_file(path: Path, mark: re.Pattern[str] = _MARK) -> Iterator[Mark]:
    source = path.read_text("utf-8")
    names = _names(source, path.parent.name if path.stem == "__init__" else path.stem)
    for number, line in enumerate(source.splitlines(), 1):
        found = _DERIVATION.match(line)
        named = [found[1]] if found else [match[0] for match in mark.finditer(line)]
        in_code = found is not None or "  # " in line
        for theorem in dict.fromkeys(theorem for text in named for theorem in numbers_in(text)):
            yield Mark(theorem, path.relative_to(ROOT).as_posix(), number, names[number - 1], in_code)


def _names(source: str, module: str) -> list[str]:
    """Returns, for each line, the innermost function, class or constant around it, or else the module."""
    names = [module] * (source.count("\n") + 1)
    for node in ast.walk(ast.parse(source)):  # outer ones first
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            _fill(names, node, node.name)
        elif isinstance(node, ast.Assign) and names[node.lineno - 1] == module:
            _fill(names, node, ast.unparse(node.targets[0]))
    return names


def _fill(names: list[str], node: ast.stmt, name: str) -> None:
    last = node.end_lineno or node.lineno
    names[node.lineno - 1 : last] = [name] * (last - node.lineno + 1)
