"""The API reference names what a module offers, and shows docstrings and annotations as they are meant."""

import doctest
import html
import re

import pytest

import jaxsoftmax
from docs.generate import docstrings, examples, modes, reference
from docs.generate.derivations import displayed
from jaxsoftmax import analytic, bench, forward_mode
from tests.docs.outline import outline_of

MODULES = {"jaxsoftmax": "jaxsoftmax", "analytic": "jaxsoftmax.analytic", "bench": "jaxsoftmax.bench"}
MODULES |= {"forward_mode": "jaxsoftmax.forward_mode", "verify": "jaxsoftmax.verify"}
SUBMODULES = {"analytic", "forward_mode"}
TUPLES = {"LossParts", "SparseLabels", "TokenStats"}  # which both modes share
BOTH_MODES = {"softmax", "log_softmax"}
LOSSES = set(jaxsoftmax.__all__) - SUBMODULES - TUPLES - BOTH_MODES
FORWARD = ("jvp", "jacfwd", "linearize")


def named(page, module):
    """The names of a module that have a heading of their own."""
    pattern = re.compile(re.escape(module) + r"\.(\w+)")
    return {found[1] for anchor in page.marked if (found := pattern.fullmatch(anchor))}


@pytest.mark.parametrize(("page", "module"), MODULES.items())
def test_a_page_names_what_the_module_offers_and_nothing_else(site, page, module):
    shown = named(outline_of(site / "api" / f"{page}.html"), module)
    assert shown == set(reference.public_names(module)) - SUBMODULES


@pytest.mark.parametrize("module", [jaxsoftmax, analytic, bench], ids=lambda module: module.__name__)
def test_a_module_with_a_list_of_its_names_offers_those(module):
    assert reference.public_names(module.__name__) == module.__all__


def test_forward_mode_variants_offer_the_functions_that_the_package_offers():
    offered = set(reference.public_names("jaxsoftmax.forward_mode"))
    assert offered == set(jaxsoftmax.__all__) - SUBMODULES - TUPLES
    assert all(callable(getattr(forward_mode, name)) for name in offered)


def test_annotations_are_shown_with_their_shapes(site):
    text = outline_of(site / "api" / "jaxsoftmax.html").text
    for annotation in ("Float[ArrayLike, '*batch vocab']", "Float[ArrayLike, ' vocab']", "Float[ArrayLike, '...']"):
        assert annotation.replace(" vocab'", "vocab'") in text.replace(" vocab'", "vocab'")


def test_docstrings_keep_their_asterisks_and_their_angle_brackets(site):
    assert "[*batch, embed]" in outline_of(site / "api" / "jaxsoftmax.html").text
    assert "<gradient, v>" in outline_of(site / "api" / "forward_mode.html").text


@pytest.mark.parametrize("page", MODULES)
def test_docstrings_leave_no_section_and_no_doctest_as_text(site, page):
    source = (site / "api" / f"{page}.html").read_text("utf-8")
    assert not re.search(r"<p>\s*(?:Args|Returns|Raises):|<blockquote>", source)


def test_rewritten_docstring_escapes_text_and_leaves_code():
    docstring = "A `*b` of *c, <d> (M5).\n\n    e * f\n\nArgs:\n    x: *y.\n\nReturns:\n  A: b.\n\n>>> 2 * 3\n6\n"
    text = "A `*b` of &#42;c, &#60;d> (M5).\n\n    e * f\n\n"
    sections = "Args:\n    x: &#42;y.\n\nReturns:\n  A&#58; b.\n\n"
    expected = f"{text}{sections}```pycon\n>>> 2 * 3\n6\n```"
    assert "\n".join(docstrings.rewritten(docstring)) == expected


def test_a_source_is_followed_by_its_theorems_as_formulas(site):
    source = (site / "api" / "jaxsoftmax.html").read_text("utf-8")
    assert source.count("as formulas</summary>") == source.count("<p>Source: ")
    shown = "\n".join(docstrings.rewritten("Source: M4, M8-M9.\n\n>>> 2\n2\n"))
    assert [shown.count(displayed(f"M{number}").splitlines()[2]) for number in (4, 8, 9, 10)] == [1, 1, 1, 0]
    assert "\n".join(docstrings.rewritten("Source: as `jaxsoftmax.softmax`.")) == "Source: as `jaxsoftmax.softmax`."


def code_of(page):
    """The program of each block of examples on a page of the reference."""
    blocks = re.findall(r'<div class="highlight">(.*?)</div>', page.read_text("utf-8"), re.DOTALL)
    texts = [html.unescape(re.sub(r"<[^>]*>", "", block)) for block in blocks]
    parser = doctest.DocTestParser()
    return ["".join(example.source for example in parser.get_examples(text)) for text in texts if ">>> " in text]


@pytest.mark.parametrize("page", MODULES)
def test_examples_of_the_reference_import_what_they_use(site, page):
    programs = code_of(site / "api" / f"{page}.html")
    assert programs
    assert {program: names for program in programs if (names := examples.undefined(program))} == {}


def test_examples_of_the_reference_run_as_they_stand(site):
    for page in ("jaxsoftmax", "forward_mode"):
        (program,) = [code for code in code_of(site / "api" / f"{page}.html") if " import log_softmax\n" in code]
        exec(program, {})


def test_planted_name_without_an_import_is_found():
    assert examples.undefined("from jax import numpy\ndef f(x):\n    return softmax(x)\nf(numpy.ones(2))") == [
        "softmax"
    ]


def test_an_example_imports_what_its_page_offers():
    lines = {"logsumexp(0)": "jaxsoftmax._forward_logsumexp", "seconds_of(ratios)": "jaxsoftmax.bench._timing"}
    found = [line for code, module in lines.items() for line in examples.imports(f">>> {code}", module)]
    assert found == ["from jaxsoftmax.forward_mode import logsumexp", "from jaxsoftmax.bench import ratios, seconds_of"]
    of_constant = examples.imports(">>> THEOREMS", "jaxsoftmax.verify._theorems")
    assert of_constant == ["from jaxsoftmax.verify import THEOREMS"]
    assert examples.imports(">>> partial", "jaxsoftmax._head.sharded") == ["from functools import partial"]


@pytest.mark.parametrize("command", ["verify", "bench", "info", "experiments"])
def test_the_command_line_is_shown_as_its_help_has_it(site, command):
    block = reference.command_line(command).removeprefix("```text\n").removesuffix("```\n")
    assert "usage:" in block
    assert " ".join(block.split()) in " ".join(outline_of(site / "api" / "command-line.html").text.split())


def modes_of(site):
    """The outcome of each function and transformation on the page: of the package, and of its forward-mode variants."""
    of_modes = [table for table in outline_of(site / "modes.html").tables if "jacfwd" in table[0]]
    return [{row[0]: dict(zip(table[0][1:], row[1:], strict=True)) for row in table[1:]} for table in of_modes]


def test_the_page_of_modes_has_every_function_and_every_transformation(site):
    for table in modes_of(site):
        assert set(table) == set(jaxsoftmax.__all__) - SUBMODULES - TUPLES
        assert all(list(outcomes) == list(modes.transformations()) for outcomes in table.values())


def test_losses_refuse_forward_mode_on_the_page_and_their_forward_mode_variants_do_not(site):
    functions, variants = modes_of(site)
    for name, outcomes in functions.items():
        refused = {way for way, outcome in outcomes.items() if outcome == "TypeError"}
        assert refused == (set(FORWARD) if name in LOSSES else set())
    assert "TypeError" not in {outcome for outcomes in variants.values() for outcome in outcomes.values()}


def test_everything_else_works_but_a_shard_map_in_a_shard_map(site):
    for table in modes_of(site):
        others = {(name, way) for name, of in table.items() for way in of if of[way] not in (modes.WORKS, "TypeError")}
        assert others == {("sharded_linear_cross_entropy", "shard_map")}


def test_an_outcome_is_an_error_where_the_call_is_one():
    assert modes._outcome(lambda x: x + 1) == modes.WORKS
    assert modes._outcome(lambda x: x["no such key"]) == "TypeError"
