"""What a docstring's examples need: they have the names of their module, which a reader has to import."""

import ast
import builtins
import doctest
from importlib import import_module
from typing import Any

PUBLIC = ("jaxsoftmax", "jaxsoftmax.analytic", "jaxsoftmax.forward_mode", "jaxsoftmax.verify", "jaxsoftmax.bench")


def undefined(source: str) -> list[str]:
    """Returns the names that a program reads and neither defines nor imports, in alphabetical order.

    >>> undefined("import jax; f = lambda x: softmax(x); print(f(jax.numpy.ones(2)))")
    ['softmax']
    """
    read, defined = set[str](), set(dir(builtins))
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Name):
            (read if isinstance(node.ctx, ast.Load) else defined).add(node.id)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            defined |= {alias.asname or alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.FunctionDef | ast.ClassDef | ast.ExceptHandler):
            defined.add(node.name or "")
        elif isinstance(node, ast.arg):
            defined.add(node.arg)
    return sorted(read - defined)


def imports(docstring: str, module: str) -> list[str]:
    """Returns the lines that import what the examples of a docstring in that module have from the module.

    >>> imports(">>> softmax(0)", "jaxsoftmax._softmax")
    ['from jaxsoftmax import softmax']
    """
    source = "".join(example.source for example in doctest.DocTestParser().get_examples(docstring))
    homes: dict[str, list[str]] = {}
    for name in undefined(source):
        value = getattr(import_module(module), name, None)
        if value is not None:
            homes.setdefault(_home(name, value, module), []).append(name)
    return [f"from {home} import {', '.join(names)}" for home, names in sorted(homes.items())]


def _home(name: str, value: Any, module: str) -> str:
    """Returns the first public module that has the very same thing by that name, or else where it was defined."""
    same = (public for public in PUBLIC if getattr(import_module(public), name, None) is value)
    home = getattr(value, "__module__", module)  # a dict or a number has none
    return next(same, home) if home.partition(".")[0] == PUBLIC[0] else home
