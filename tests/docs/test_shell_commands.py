"""Every command that README.md and the site tell a reader to type is one that its program takes."""

import argparse
import re
import shlex

import pytest

from docs.generate.repository import ROOT
from experiments.__main__ import NAMES
from experiments.__main__ import main as run_experiments
from experiments.multihost import worker
from jaxsoftmax import cli
from jaxsoftmax.verify import THEOREMS

DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md"]
DOCUMENTS += [path for path in sorted(ROOT.joinpath("docs").rglob("*.md")) if "generated" not in path.parts]
BLOCK = re.compile(r"^ *```(?:sh|bash|shell|console)\n(.*?)^ *```", re.DOTALL | re.MULTILINE)
INLINE = re.compile(r"(?<!`)`((?:[A-Z_]+=\S+ )?(?:jaxsoftmax|python -m experiments)[. ][^`]*)`(?!`)")
UPCOMING = "M34"  # CONTRIBUTING.md's example of a theorem to be added
ENDS = ("&&", ";", "|", "#")


class Parsed(Exception):
    """A command line was accepted."""


@pytest.fixture
def parsing(monkeypatch):
    """Has every program stop once its arguments are parsed."""
    parse = argparse.ArgumentParser.parse_args

    def parse_and_stop(self, *arguments):
        raise Parsed(parse(self, *arguments))

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse_and_stop)


def commands_in(text):
    """The commands in a document's blocks of shell."""
    return list(_calls(line for block in BLOCK.findall(text) for line in block.replace("\\\n", " ").splitlines()))


def quoted_in(text):
    """The commands that a document quotes in its lines."""
    return list(_calls(" ".join(found.split()) for found in INLINE.findall(text) if "NAME" not in found))


def _calls(lines):
    for line in lines:
        words = []
        for word in [*shlex.split(line, comments=True), ";"]:
            if word not in ENDS:
                words.append(word)
                continue
            if call := _call(words):
                yield call
            words = []


def _call(words):
    """The words from the program's name on, if the program is one of this repository's."""
    while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
        words = words[1:]
    words = [words[0].rpartition("/")[2], *words[1:]] if words else []
    if words[:1] == ["jaxsoftmax"]:
        return words
    if words[:2] in (["python", "-m"], ["python3", "-m"]) and re.match(r"experiments|jaxsoftmax", words[2]):
        return words[2:]
    return None


def accepted(call):
    """Whether the program takes the arguments."""
    program, *arguments = call
    mains = {"jaxsoftmax": cli.main, "experiments": run_experiments, "experiments.multihost.worker": worker.main}
    try:
        return mains[program](arguments) == 0
    except Parsed as parsed:
        options = vars(parsed.args[0])
        theorems = {UPCOMING, *THEOREMS, *(number.partition("-")[0] for number in THEOREMS)}
        return set(options.get("names", ())) <= set(NAMES) and set(options.get("theorem", ())) <= theorems
    except SystemExit as exit_:
        return exit_.code == 0  # --help
    return False


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_command_of_a_document_is_accepted_by_its_program(parsing, path):
    assert [call for call in commands_in(path.read_text("utf-8")) if not accepted(call)] == []


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_command_that_is_quoted_in_a_line_is_accepted_but_for_an_argument_at_its_end(parsing, path):
    quoted = quoted_in(path.read_text("utf-8"))
    assert [call for call in quoted if not (accepted(call) or accepted([*call, "argument"]))] == []


def test_the_readme_has_commands():
    text = ROOT.joinpath("README.md").read_text("utf-8")
    assert len(commands_in(text)) >= 4
    assert ["jaxsoftmax", "verify", "--theorem", "M5", "--verbose"] in commands_in(text)


@pytest.mark.parametrize(
    "line",
    [
        "jaxsoftmax verify --teorem M5",
        "jaxsoftmax verify --theorem M99",
        "X=1 .venv/bin/jaxsoftmax prove",
        "pip install '.[verify]' && jaxsoftmax bench --peer nobody",
        "python -m experiments --fast",
        "python -m experiments no_such_experiment",
        "python -m experiments scaling --devices many",
    ],
)
def test_planted_command_is_refused(parsing, line):
    calls = commands_in(f"```sh\n{line}  # a comment\n```\n")
    assert len(calls) == 1
    assert not accepted(calls[0])
