"""Data flows one way: earlier modules never import later ones, and what judges the library sees its public names."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
# A module may import those of the rows above its own.
ARROWS = [
    ["_checks", "_rows", "_tangents"],
    ["_lse_state"],
    ["_weighted_sum", "_shards"],
    ["_logsumexp"],
    ["_softmax", "_forward_logsumexp"],
    ["_token_loss"],
    ["_integer_labels", "_float_labels"],
    ["_cross_entropy"],
    ["_class_blocks"],
    ["_token_chunks"],
    ["_linear_cross_entropy"],
    ["_parallel"],
]
RANK = {module: rank for rank, modules in enumerate(ARROWS) for module in modules}
LIBRARY = sorted((ROOT / "jaxsoftmax").rglob("*.py"))
EXPERIMENTS = sorted((ROOT / "experiments").rglob("*.py"))
JUDGES = [ROOT / "jaxsoftmax" / name for name in ("verify", "bench")]
OUTSIDE = [path for path in LIBRARY if path.parent in JUDGES] + EXPERIMENTS
COMMAND_LINE = "_terminal"  # what the commands share; only they, and cli.py, may import it
ANALYTIC = [path for path in LIBRARY if path.is_relative_to(ROOT / "jaxsoftmax" / "analytic")]
DOCUMENTATION = [path for folder in ("generate", "tutorials") for path in sorted((ROOT / "docs" / folder).glob("*.py"))]
EVERY_FILE = [*LIBRARY, *EXPERIMENTS, *DOCUMENTATION, *sorted((ROOT / "tests").rglob("*.py"))]
FUNCTION = (ast.FunctionDef, ast.AsyncFunctionDef)
SHAPELESS = {"utils", "util", "helpers", "helper", "misc", "common"}


def name_of(path):
    return str(path.relative_to(ROOT))


def each(paths):
    return pytest.mark.parametrize("path", paths, ids=name_of)


def imported(path):
    """The dotted names that a file imports, `from a import b` as `a.b`."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def dotted_names(path):
    """Every `a.b.c` in the code."""
    return {ast.unparse(node) for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Attribute)}


def lines_of_code(function):
    """From `def` to the end, without the docstring."""
    first = function.body[0]
    docstring = 0 if ast.get_docstring(function) is None else first.end_lineno - first.lineno + 1
    return function.end_lineno - function.lineno + 1 - docstring


def package_of(path):
    return ".".join(path.relative_to(ROOT).parent.parts)


def private_parts(name, package):
    """The private parts of a name of jaxsoftmax outside of `package`."""
    own = name.startswith(package + ".") and package != "jaxsoftmax"
    return [] if own or name.split(".")[0] != "jaxsoftmax" else [part for part in name.split(".") if part[0] == "_"]


@each([path for path in LIBRARY if path.stem in RANK and path.parent.name == "jaxsoftmax"])
def test_module_imports_none_of_its_own_rank_or_later(path):
    modules = [name.split(".")[1] for name in imported(path) if name.startswith("jaxsoftmax.")]
    assert [module for module in modules if RANK.get(module, len(ARROWS)) >= RANK[path.stem]] == []


@each([path for path in LIBRARY if path.stem in RANK and path.parent.name == "jaxsoftmax"])
def test_core_module_imports_the_package_by_its_modules_alone(path):
    assert "jaxsoftmax" not in set(imported(path))


def test_every_module_of_the_core_has_its_place_in_the_arrows():
    private = {path.stem for path in (ROOT / "jaxsoftmax").glob("_*.py")} - {"__init__", "__main__"}
    assert private - RANK.keys() == {COMMAND_LINE}


def test_only_commands_import_what_commands_share():
    users = {path for path in LIBRARY for name in imported(path) if COMMAND_LINE in name.split(".")}
    assert users == {ROOT / "jaxsoftmax" / "cli.py", *(folder / "_command.py" for folder in JUDGES)}


@each(OUTSIDE)
def test_verify_bench_and_experiments_import_public_names(path):
    names = [name for name in imported(path) if COMMAND_LINE not in name.split(".")]
    assert [name for name in names if private_parts(name, package_of(path))] == []


@each([*OUTSIDE, *ANALYTIC])
def test_no_private_name_is_reached_through_the_package(path):
    dunders = {"jaxsoftmax.__version__", "jaxsoftmax.__name__"}
    assert [n for n in dotted_names(path) - dunders if private_parts(n, package_of(path))] == []


@each(ANALYTIC)
def test_analytic_uses_public_forward_values(path):
    names = [name for name in imported(path) if private_parts(name, "jaxsoftmax.analytic")]
    assert [name for name in names if name.split(".")[-1][0] == "_" and name != "jaxsoftmax._checks"] == []


@each(EVERY_FILE)
def test_file_has_under_300_lines(path):
    assert len(path.read_text().splitlines()) < 300


@each(EVERY_FILE)
def test_function_has_under_40_lines_besides_its_docstring(path):
    functions = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, FUNCTION)]
    assert [function.name for function in functions if lines_of_code(function) >= 40] == []


@each(EVERY_FILE)
def test_file_is_named_after_what_it_holds(path):
    assert path.stem.strip("_") not in SHAPELESS
