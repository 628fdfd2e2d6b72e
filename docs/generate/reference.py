"""The API reference: which names a module's page has, and the command line as it describes itself."""

import ast
import importlib.util
import io
import os
from contextlib import redirect_stdout, suppress
from pathlib import Path
from unittest import mock

from docs.generate.text import fenced
from experiments.__main__ import main as experiments
from jaxsoftmax.cli import main as commands

_WIDTH = "80"  # columns of the help's lines


def public_names(module: str) -> list[str]:
    """Returns a module's public names: its `__all__`, or what it defines or re-exports (`import x as x`).

    >>> "certify" in public_names("jaxsoftmax.verify")
    True
    """
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(module)
    tree = ast.parse(Path(spec.origin).read_text("utf-8"))
    names: list[str] = []
    for node in tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return ast.literal_eval(node.value)
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            names.append(node.name)
        if isinstance(node, ast.ImportFrom):
            names += [alias.name for alias in node.names if alias.asname == alias.name]
    return names


def module(name: str) -> str:
    """Returns the mkdocstrings block of a module's page."""
    package = name == "jaxsoftmax"
    members = [member for member in public_names(name) if not (package and _is_module(f"{name}.{member}"))]
    listed = "".join(f"        - {member}\n" for member in members)
    return (
        f"::: {name}\n    options:\n      heading_level: 1\n      show_root_full_path: true\n      members:\n{listed}"
    )


def _is_module(name: str) -> bool:
    return importlib.util.find_spec(name) is not None


def command_line(program: str) -> str:
    """Returns what a program says of itself: `verify`, `bench` or `info` of `jaxsoftmax`, or `experiments`.

    Raises:
      ValueError: there is no such program.
    """
    main, arguments = (experiments, ["--help"]) if program == "experiments" else (commands, [program, "--help"])
    said = io.StringIO()
    with redirect_stdout(said), suppress(SystemExit), mock.patch.dict(os.environ, {"COLUMNS": _WIDTH}):
        main(arguments)
    if not said.getvalue():
        raise ValueError(f"{program} has no help")
    return fenced("text", said.getvalue())
