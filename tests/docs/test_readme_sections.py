"""A section of README that a page of the site shows has examples that run there, after nothing else."""

import doctest
import re

import pytest

from docs.generate import examples
from docs.generate.repository import ROOT

README = ROOT.joinpath("README.md").read_text("utf-8")
SECTIONS = dict(re.findall(r"<!-- --8<-- \[start:([\w-]+)\] -->\n(.*?)<!-- --8<-- \[end:\1\] -->", README, re.DOTALL))
OPTIONS = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS


def failures_in(text):
    examples = doctest.DocTestParser().get_doctest(text, {}, "section", None, 0)
    return doctest.DocTestRunner(optionflags=OPTIONS).run(examples, out=lambda said: None).failed


WITH_EXAMPLES = [name for name, text in SECTIONS.items() if ">>> " in text]


@pytest.mark.parametrize("name", WITH_EXAMPLES)
def test_the_examples_of_a_section_import_and_define_what_they_use(name):
    program = "".join(example.source for example in doctest.DocTestParser().get_examples(SECTIONS[name]))
    assert examples.undefined(program) == []


@pytest.mark.slow  # README's doctests run them one after another
@pytest.mark.parametrize("name", WITH_EXAMPLES)
def test_the_examples_of_a_section_run_alone(name):
    assert failures_in(SECTIONS[name]) == 0


def test_planted_example_that_needs_another_is_found():
    assert failures_in(">>> labels\n0\n\n") == 1


def test_every_section_that_a_page_shows_is_one_of_these():
    pages = [path.read_text("utf-8") for path in ROOT.joinpath("docs").glob("*.md")]
    assert {name for page in pages for name in re.findall(r'"README.md:([\w-]+)"', page)} <= set(SECTIONS)
