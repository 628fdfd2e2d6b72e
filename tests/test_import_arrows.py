"""Data flows one way: earlier modules never import later ones, and what judges the library sees its public names."""

import ast
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parent.parent
# A module may import those of the rows above its own.
ARROWS = [
    ["_checks", "_tangents", "_rule_binding", "_explicit_axes"],
    ["_math.precision", "_math.classes", "_math.lse_state", "_math.signed_sum"],
    ["_math.loss_options", "_math.softmax"],
    ["_math.token_loss", "_math.row_stats", "_math.divergence"],
    ["_math.log_ratio", "_math.sparse_loss"],
    ["_reduction.centring", "_reduction.chosen_rows_cpu"],
    ["_reduction.remainder_cpu"],
    ["_reduction.one_pass", "_reduction.blocked_cpu"],
    ["_reduction.schedules"],
    ["_reduction.row_state", "_reduction.signed_state"],
    ["_sharding"],
    ["_log_sums", "_token_labels", "_loss_arguments", "_objective", "_predictions"],
    ["_logsumexp", "_softmax", "_integer_labels", "_row_rules", "_divergence"],
    ["_forward_logsumexp", "_float_labels", "_sparse_labels", "_row_stats", "_loss_parts", "_distillation"],
    ["_drop_in_losses", "_token_stats"],
    ["_cross_entropy"],
    ["_head.chunk_sizes", "_head.chunk_layout", "_head.chunk_loop", "_head.auto_sharding"],
    ["_head.problem", "_head.arguments"],
    ["_head.rounding"],
    ["_head.whole_rows", "_head.class_blocks_cpu", "_head.residuals", "_head.pallas_tpu"],
    ["_head.products", "_head.labelled", "_head.mesh_plan"],
    ["_head.schedules", "_head.gradient_task"],
    ["_head.token_chunks", "_head.distillation_loop"],
    ["_head.class_blocks", "_head.distillation_rules"],
    ["_head.programs"],
    ["_head.rules"],
    ["_head.loss", "_head.linear_token_stats", "_head.linear_distillation"],
    ["_head.linear_cross_entropy", "_head.sharded"],
]
RANK = {module: rank for rank, modules in enumerate(ARROWS) for module in modules}


def module_of(path):
    """A file of the package as its dotted name within the package."""
    return ".".join(path.relative_to(ROOT / "jaxsoftmax").with_suffix("").parts)


LIBRARY = sorted((ROOT / "jaxsoftmax").rglob("*.py"))
CORE = [path for path in LIBRARY if module_of(path) in RANK]
EXPERIMENTS = sorted((ROOT / "experiments").rglob("*.py"))
JUDGES = [ROOT / "jaxsoftmax" / name for name in ("verify", "bench")]
OUTSIDE = [path for path in LIBRARY if path.parent in JUDGES] + EXPERIMENTS
COMMAND_LINE = "_terminal"  # what the commands share; only they, cli.py and _startup.py may import it
STARTUP = "_startup"  # what the package imports first
ANALYTIC = [path for path in LIBRARY if path.is_relative_to(ROOT / "jaxsoftmax" / "analytic")]
DOCUMENTATION = [path for folder in ("generate", "tutorials") for path in sorted((ROOT / "docs" / folder).glob("*.py"))]
EVERY_FILE = [*LIBRARY, *EXPERIMENTS, *DOCUMENTATION, *sorted((ROOT / "tests").rglob("*.py"))]
FUNCTION = (ast.FunctionDef, ast.AsyncFunctionDef)
SHAPELESS = {"utils", "util", "helpers", "helper", "misc", "common"}


def offences(paths, found_in):
    """By file, what `found_in` finds; no entry for a file in which it finds nothing."""
    found = {str(path.relative_to(ROOT)): found_in(path) for path in paths}
    return {name: offending for name, offending in found.items() if offending}


@cache
def parsed(path):
    return ast.parse(path.read_text())


def imported(path):
    """The dotted names that a file imports, `from a import b` as `a.b`."""
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        if isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def dotted_names(path):
    """Every `a.b.c` in the code."""
    return {ast.unparse(node) for node in ast.walk(parsed(path)) if isinstance(node, ast.Attribute)}


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


def test_modules_import_none_of_their_own_rank_or_later():
    def found_in(path):
        modules = {core_module(name) for name in imported(path) if name.startswith("jaxsoftmax.")}
        return sorted(module for module in modules if RANK.get(module, len(ARROWS)) >= RANK[module_of(path)])

    assert offences(CORE, found_in) == {}


def core_module(name):
    """The module of the core that has this dotted name, or that has it in it; else the name."""
    parts = name.split(".")[1:]
    prefixes = (".".join(parts[:end]) for end in range(len(parts), 0, -1))
    return next((prefix for prefix in prefixes if prefix in RANK), name)


def test_equations_import_equations_alone():
    def found_in(path):
        ours = {core_module(name) for name in imported(path) if name.startswith("jaxsoftmax")}
        return sorted(module for module in ours if not module.startswith("_math."))

    assert offences([path for path in CORE if path.parent.name == "_math"], found_in) == {}


PLATFORM = ("default_backend", "device_count", "platform_dependent", "optimization_barrier", "bitcast")
SCHEDULES = {
    *("_reduction.one_pass", "_reduction.blocked_cpu", "_reduction.remainder_cpu", "_reduction.centring"),
    "_reduction.signed_state",
    "_reduction.schedules",
    *("_head.schedules", "_head.class_blocks_cpu", "_head.whole_rows", "_head.class_blocks", "_head.chunk_loop"),
}


def test_only_schedules_know_of_platforms():
    def found_in(path):
        return sorted(word for word in PLATFORM for name in dotted_names(path) if word in name)

    others = [path for path in CORE if module_of(path) not in SCHEDULES | {"_head.auto_sharding"}]
    assert offences(others, found_in) == {}
    assert len(offences(CORE, found_in)) >= len(SCHEDULES)  # the check can fail


def test_core_modules_import_the_package_by_its_modules_alone():
    assert offences(CORE, lambda path: "jaxsoftmax" in set(imported(path))) == {}


def test_every_module_of_the_core_has_its_place_in_the_arrows():
    folders = [ROOT / "jaxsoftmax", *(ROOT / "jaxsoftmax" / name for name in ("_math", "_reduction", "_head"))]
    modules = {module_of(path) for folder in folders for path in folder.glob("*.py") if not path.stem.endswith("__")}
    private = {module for module in modules if module.startswith("_")}
    assert private - RANK.keys() == {COMMAND_LINE, STARTUP}


def test_only_commands_import_what_commands_share():
    users = {module_of(path) for path in LIBRARY for name in imported(path) if COMMAND_LINE in name.split(".")}
    assert users == {"cli", STARTUP, "verify._command", "bench._command"}


def test_verify_bench_and_experiments_import_public_names():
    def found_in(path):
        names = [name for name in imported(path) if COMMAND_LINE not in name.split(".")]
        return [name for name in names if private_parts(name, package_of(path))]

    assert offences(OUTSIDE, found_in) == {}


def test_no_private_name_is_reached_through_the_package():
    dunders = {"jaxsoftmax.__version__", "jaxsoftmax.__name__"}

    def found_in(path):
        return [name for name in dotted_names(path) - dunders if private_parts(name, package_of(path))]

    assert offences([*OUTSIDE, *ANALYTIC], found_in) == {}


FORWARD_VALUES = ("jaxsoftmax._softmax.softmax", "jaxsoftmax._softmax.log_softmax", "jaxsoftmax._logsumexp.logsumexp")
NO_VALUES = ("jaxsoftmax._checks", "jaxsoftmax._math.precision.", "jaxsoftmax._math.classes.")  # dtypes, class numbers


def test_analytic_uses_public_forward_values():
    def found_in(path):
        names = [name for name in imported(path) if private_parts(name, "jaxsoftmax.analytic")]
        return [name for name in names if not name.startswith((*FORWARD_VALUES, *NO_VALUES))]

    assert offences(ANALYTIC, found_in) == {}


def test_files_have_under_300_lines():
    assert offences(EVERY_FILE, lambda path: len(path.read_text().splitlines()) >= 300) == {}


def test_functions_have_under_40_lines_besides_their_docstrings():
    def found_in(path):
        functions = [node for node in ast.walk(parsed(path)) if isinstance(node, FUNCTION)]
        return [function.name for function in functions if lines_of_code(function) >= 40]

    assert offences(EVERY_FILE, found_in) == {}


def test_files_are_named_after_what_they_hold():
    assert offences(EVERY_FILE, lambda path: path.stem.strip("_") in SHAPELESS) == {}


def test_an_offence_is_named_with_its_file():
    assert offences(CORE, lambda path: path.stem == "_softmax") == {"jaxsoftmax/_softmax.py": True}
