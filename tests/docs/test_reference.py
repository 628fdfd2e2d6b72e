"""The API reference names what a module offers, and shows docstrings and annotations as they are meant."""

import re

import pytest

import jaxsoftmax
from docs.generate import docstrings, modes, reference
from jaxsoftmax import analytic, bench, forward_mode
from tests.docs.outline import outline_of

MODULES = {"jaxsoftmax": "jaxsoftmax", "analytic": "jaxsoftmax.analytic", "bench": "jaxsoftmax.bench"}
MODULES |= {"forward_mode": "jaxsoftmax.forward_mode", "verify": "jaxsoftmax.verify"}
SUBMODULES = {"analytic", "forward_mode"}
LOSSES = {name for name in jaxsoftmax.__all__ if "cross_entropy" in name} | {"logsumexp"}
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


def test_twins_offer_the_functions_that_the_package_offers():
    offered = set(reference.public_names("jaxsoftmax.forward_mode"))
    assert offered == set(jaxsoftmax.__all__) - SUBMODULES
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
    html = (site / "api" / f"{page}.html").read_text("utf-8")
    assert not re.search(r"<p>\s*(?:Args|Returns|Raises):|<blockquote>", html)


def test_rewritten_docstring_escapes_text_and_leaves_code():
    docstring = "A `*b` of *c, <d> (M5).\n\n    e * f\n\nArgs:\n    x: *y.\n\nReturns:\n  A: b.\n\n>>> 2 * 3\n6\n"
    text = "A `*b` of &#42;c, &#60;d> (M5).\n\n    e * f\n\n"
    sections = "Args:\n    x: &#42;y.\n\nReturns:\n  A&#58; b.\n\n"
    expected = f"{text}{sections}```pycon\n>>> 2 * 3\n6\n```"
    assert "\n".join(docstrings.rewritten(docstring)) == expected


@pytest.mark.parametrize("command", ["verify", "bench", "info", "experiments"])
def test_the_command_line_is_shown_as_its_help_has_it(site, command):
    block = reference.command_line(command).removeprefix("```text\n").removesuffix("```\n")
    assert "usage:" in block
    assert " ".join(block.split()) in " ".join(outline_of(site / "api" / "command-line.html").text.split())


def modes_of(site):
    """The outcome of each function and transformation, as the page has it: of the package, and of its twins."""
    of_modes = [table for table in outline_of(site / "modes.html").tables if "jacfwd" in table[0]]
    return [{row[0]: dict(zip(table[0][1:], row[1:], strict=True)) for row in table[1:]} for table in of_modes]


def test_the_page_of_modes_has_every_function_and_every_transformation(site):
    for table in modes_of(site):
        assert set(table) == set(jaxsoftmax.__all__) - SUBMODULES
        assert all(list(outcomes) == list(modes.transformations()) for outcomes in table.values())


def test_losses_refuse_forward_mode_on_the_page_and_their_twins_do_not(site):
    functions, twins = modes_of(site)
    for name, outcomes in functions.items():
        refused = {way for way, outcome in outcomes.items() if outcome == "TypeError"}
        assert refused == (set(FORWARD) if name in LOSSES else set())
    assert "TypeError" not in {outcome for outcomes in twins.values() for outcome in outcomes.values()}


def test_everything_else_works_but_a_shard_map_in_a_shard_map(site):
    for table in modes_of(site):
        others = {(name, way) for name, of in table.items() for way in of if of[way] not in (modes.WORKS, "TypeError")}
        assert others == {("sharded_linear_cross_entropy", "shard_map")}


def test_an_outcome_is_an_error_where_the_call_is_one():
    assert modes._outcome(lambda x: x + 1) == modes.WORKS
    assert modes._outcome(lambda x: x["no such key"]) == "TypeError"
