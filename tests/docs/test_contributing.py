"""What CONTRIBUTING.md sends a reader to is there."""

import re

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
