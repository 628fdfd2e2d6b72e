"""Docstrings and annotations as the API reference shows them.

Docstrings are plain text with formulas and doctests. Outside of code, `*` and `<` would be Markdown: they are escaped.
Doctests are put into blocks of code, below imports of what they use; below a docstring's source stand its theorems'
formulas. The strings of jaxtyping's annotations stay strings: they are shapes, not names.
"""

import ast
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import griffe

from docs.generate.derivations import displayed, formulas
from docs.generate.examples import imports
from docs.generate.marks import numbers_in
from docs.generate.text import details, entity

_SECTION = re.compile(r"(Args|Arguments|Attributes|Raises|Returns|Yields):$")
_CODE = re.compile(r"(`[^`]*`)")
_SPECIAL, _SPECIAL_IN_RETURNS = re.compile(r"[*<|]"), re.compile(r"[*<|:]")
_DOCTEST, _SOURCE = ">>> ", "Source: "


class Docstrings(griffe.Extension):
    """Rewrites what griffe has read of the package."""

    def on_instance(self, *, node: Any, obj: griffe.Object, agent: Any, **kwargs: Any) -> None:
        """Rewrites a docstring."""
        if obj.docstring is not None:
            module = obj.path if isinstance(obj, griffe.Module) else obj.module.path
            obj.docstring.value = "\n".join(rewritten(obj.docstring.value, imports(obj.docstring.value, module)))

    def on_class_members(self, *, node: Any, cls: griffe.Class, agent: Any, **kwargs: Any) -> None:
        """Adds to a class's docstring what the comments behind its fields say."""
        if cls.docstring is not None and (said := list(_comments(node, cls))):
            cls.docstring.value += "\n\nAttributes:\n" + "\n".join(said)

    def on_function_instance(self, *, node: Any, func: griffe.Function, agent: Any, **kwargs: Any) -> None:
        """Reads a function's annotations again, with their strings as they are; not the rules of `with_rules`."""
        if not isinstance(node, ast.FunctionDef) or func.parent is None:
            return
        arguments = node.args
        if _is_decorated(func, "with_rules"):
            del func.parameters[arguments.posonlyargs.pop().arg]
        for argument in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs):
            if argument.annotation is not None:
                func.parameters[argument.arg].annotation = _annotation(argument.annotation, func.parent, func.name)
        if node.returns is not None:
            func.returns = _annotation(node.returns, func.parent, func.name)

    def on_package(self, *, pkg: griffe.Module, **kwargs: Any) -> None:
        """Has a function of `variant_of` take the parameters of the package's function of its name."""
        for module in _modules_of(pkg):
            for name, function in module.functions.items():
                if not function.is_alias and _is_decorated(function, "variant_of"):
                    function.parameters, function.returns = pkg[name].parameters, pkg[name].returns


def _modules_of(module: griffe.Module) -> Iterator[griffe.Module]:
    yield module
    for each in module.modules.values():
        if not each.is_alias:
            yield from _modules_of(each)


def _is_decorated(function: griffe.Function, name: str) -> bool:
    return any(str(decorator.value).startswith(f"{name}(") for decorator in function.decorators)


def _comments(node: Any, cls: griffe.Class) -> Iterator[str]:
    lines = Path(str(cls.filepath)).read_text("utf-8").splitlines()
    for item in getattr(node, "body", []):
        comment = lines[item.lineno - 1].partition("  # ")[2]
        if isinstance(item, ast.AnnAssign) and comment:
            yield f"  {ast.unparse(item.target)}: {_escaped(comment, 'Attributes')}"


def _annotation(node: ast.expr, parent: griffe.Module | griffe.Class, function: str) -> Any:
    return griffe.get_expression(node, parent=parent, member=function, parse_strings=False)


def rewritten(docstring: str, imported: Iterable[str] = ()) -> Iterator[str]:
    """Yields the lines of a docstring as Markdown, with lines of imports at the head of its examples."""
    section, in_doctest, missing = "", False, [f"{_DOCTEST}{line}" for line in imported]
    for line in docstring.splitlines():
        indented = line.startswith("    ")
        if line.strip() and not line.startswith(" "):
            found = _SECTION.match(line)
            section = found[1] if found else ""
        if line.startswith(_DOCTEST) and not in_doctest:
            yield "```pycon"
            yield from missing
            in_doctest, missing = True, []
        if in_doctest and not line.strip():
            yield "```"
            in_doctest = False
        yield line if in_doctest or (indented and not section) else _escaped(line, section)
        if line.startswith(_SOURCE) and (theorems := numbers_in(line)):
            yield from ("", *_formulas(theorems))
    if in_doctest:
        yield "```"


def _formulas(theorems: list[str]) -> list[str]:
    titles = {number: formulas()["theorems"][number]["title"] for number in theorems}
    body = "\n".join(f"{number}. {title}:\n\n{displayed(number)}" for number, title in titles.items())
    return details("abstract", f"{', '.join(theorems)} as formulas", body).splitlines()


def _escaped(line: str, section: str) -> str:
    """Returns text with its special characters as they are.

    A colon in what is returned is none behind a type: that is in the annotation.
    """
    special = _SPECIAL_IN_RETURNS if section == "Returns" and line.startswith(" ") else _SPECIAL
    pieces = _CODE.split(line)
    return "".join(piece if at % 2 else special.sub(entity, piece) for at, piece in enumerate(pieces))
