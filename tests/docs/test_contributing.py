"""What CONTRIBUTING.md sends a reader to is there."""

import re
import subprocess
import sys

from docs.generate.repository import ROOT

CONTRIBUTING = ROOT.joinpath("CONTRIBUTING.md").read_text("utf-8")
FOLDERS = ("jaxsoftmax", "tests", "docs", "experiments")
PATHS = [*ROOT.glob("*.*"), *(path for folder in FOLDERS for path in ROOT.joinpath(folder).rglob("*.*"))]
FILES = [path.relative_to(ROOT).as_posix() for path in PATHS]
SOURCES = "\n".join(ROOT.joinpath(path).read_text("utf-8") for path in FILES if path.endswith(".py"))


def test_every_file_it_names_exists():
    named = re.findall(r"`([a-z/_.\d]+\.(?:py|md|toml|json))`", CONTRIBUTING)
    assert named
    assert [name for name in named if not any(f"/{path}".endswith(f"/{name}") for path in FILES)] == []


def test_every_function_and_constant_it_names_exists():
    named = re.findall(r"`([A-Za-z]\w*_\w+|[A-Z][a-z]+[A-Z]\w+|[A-Z]{4,})`", CONTRIBUTING)
    assert named
    assert [name for name in named if not re.search(rf"\b{name}\b", SOURCES)] == []


def test_an_option_chooses_the_tests_of_one_theorem():
    command = [sys.executable, "-m", "pytest", "-q", "-n", "0", "--collect-only", "-m", "", "--theorem", "M8"]
    files = ["tests/analytic/test_softmax.py", "tests/verify/test_planted_rules.py"]
    said = subprocess.run([*command, *files], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    names = {line.partition("::")[2] for line in said.splitlines() if "::" in line}
    assert "test_logsumexp_gradient_is_the_exact_softmax[float32]" in names
    assert "test_log_softmax_jacobian_is_the_exact_one[float32]" not in names
    assert "test_every_theorem_catches_a_planted_defect[M8-empty]" in names
    assert "test_every_theorem_catches_a_planted_defect[M5]" not in names
