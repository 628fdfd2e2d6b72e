import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest

from jaxsoftmax.verify import _page
from jaxsoftmax.verify._figures import confidence_errors
from jaxsoftmax.verify._page import render_page
from jaxsoftmax.verify._record import Gap, Report, Row
from jaxsoftmax.verify._theorem import Theorem

THEOREMS = {
    "M5": Theorem("M5", "Jacobian", "J = diag(s) − s sᵀ", "one product", "loses the diagonal", ()),
    "M8-mask": Theorem("M8-mask", "mask", "LSE of an empty row", "exact", "nan", ()),
    "M19": Theorem("M19", "loss", "x < y & r > 0", "one log1p", "subtracts <script>alert(1)</script>", ()),
}
VOID = {"meta", "link", "img", "source", "wbr", "br"}


class Outline(HTMLParser):
    """Checks that tags nest, and keeps the text and whatever an element would load."""

    def __init__(self):
        super().__init__()
        self.open, self.tags, self.text, self.loaded = [], [], "", []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.open += [tag] * (tag not in VOID)
        self.loaded += [value for name, value in attrs if name in ("src", "srcset", "href", "data", "action")]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def _row(theorem, error, detail=""):
    named = ("log_softmax", "value", "mpmath, 50 digits", "jit", "float32", "ordinary")
    return Row(theorem, *named, error, 4.0, detail=detail)


@pytest.fixture(scope="module")
def html():
    rows = (_row("M5", 1.5), _row("M8-mask", 0.0), _row("M19", float("inf"), "got <b>nan</b>")) + (
        _row("M19", 9.0),
    ) * 9
    gaps = (Gap("log_softmax", "no argument <where>", ("value, masked (M4)",)),)
    report = Report("mine:<i>losses</i>", ("log_softmax",), ("softmax",), rows, gaps, "cpu", {"jax": "0.12.0"}, 1.0)
    return render_page(report, THEOREMS, ["jaxsoftmax", "verify", "--html", "a page"], "2026-01-01")


@pytest.fixture(scope="module")
def outline(html):
    parsed = Outline()
    parsed.feed(html)
    parsed.close()
    return parsed


def test_tags_nest_and_close(outline):
    assert outline.open == []
    assert outline.tags[:2] == ["html", "head"]


def test_the_page_loads_nothing_from_elsewhere(html, outline):
    assert outline.loaded
    assert all(value.startswith("data:") for value in outline.loaded)
    assert "script" not in outline.tags
    assert not re.search(r"url\(|@import|https?:", html)


def test_every_theorem_is_in_the_table_and_among_the_details(outline):
    for number, theorem in THEOREMS.items():
        assert outline.text.count(number) >= 2
        assert outline.text.count(theorem.statement) == 2
        assert theorem.reason in outline.text


def test_only_what_fails_shows_its_symptom_and_its_worst_rows(outline):
    assert THEOREMS["M19"].typical_failure in outline.text
    assert THEOREMS["M5"].typical_failure not in outline.text
    assert "got <b>nan</b>" in outline.text
    assert "∞ ulps where 4 are allowed" in outline.text
    assert "and 5 more, listed by --json" in outline.text


def test_each_function_has_its_verdict_and_what_was_not_judged_is_listed(monkeypatch, outline):
    assert "log_softmax fails: formula is wrong (M19)" in outline.text
    assert "log_softmax, no argument <where>: value, masked (M4)" in outline.text
    for drawings in ("jacobian_panels", "confidence_panels"):  # which take a second
        monkeypatch.setattr(_page, drawings, tuple)
    rows = (_row("M19", float("inf"), "TypeError: <x>"), replace(_row("M5", 0.0), function="jax.jvp"))
    page = render_page(Report("mine", ("log_softmax",), (), rows, (), "cpu", {}, 1.0), THEOREMS, [], "2026-01-01")
    assert "formula: calls raised TypeError: &lt;x&gt; (M19)" in page
    assert "Of jax.jvp itself, which counts for no function: 1 row of M5, all hold." in page


def test_the_header_names_outcome_implementation_and_command(outline):
    outcome = "The certificate FAILS for 1 of 1 function: 10 of 12 rows of 3 theorems, on cpu, jax 0.12.0, in 1 s."
    assert outcome in outline.text
    assert "Certificate of mine:<i>losses</i>" in outline.text
    assert "jaxsoftmax verify --html 'a page'" in outline.text


def test_each_of_five_drawings_is_there_for_light_and_dark(outline):
    drawings = [value for value in outline.loaded if value.startswith("data:image/svg+xml;base64,")]
    assert len(drawings) == 10
    assert len(set(drawings)) == 10


def test_the_curves_show_others_lose_everything_and_this_library_nothing():
    for errors in confidence_errors():
        assert errors["jaxsoftmax"].max() < 4 * np.finfo(np.float32).eps
        assert errors["jax.nn"][-1] == 1.0
        assert errors["optax"][-1] == 1.0
