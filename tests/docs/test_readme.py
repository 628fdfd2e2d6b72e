"""README is short, and what it quotes is on a page of the site, or in a record."""

import json
import re

import pytest

from docs.generate.repository import RESULTS, ROOT
from tests.docs.pages import PAGES, README, shown, tables

COMPILED = {"TPU v5p": "tpu_v5p", "H200": "cuda_h200"}
INSTALLATION = "python3 -m venv"  # a command that is printed whole, to be copied


def test_readme_is_read_in_a_minute():
    assert len(README.splitlines()) <= 130
    assert len(README.split()) <= 900


def test_every_row_of_a_table_that_a_page_has_is_quoted_as_it_is():
    on_pages = {tuple(header): rows for header, rows in tables(PAGES)}
    quoted = [(header, rows) for header, rows in tables(README) if tuple(header) in on_pages]
    assert {header[0] for header, _ in quoted} == {"input", "tokens × embed × vocab"}
    assert [row for header, rows in quoted for row in rows if row not in on_pages[tuple(header)]] == []


@pytest.mark.skipif(not RESULTS.joinpath("compiled").exists(), reason="a source distribution has no results")
def test_compiled_numbers_are_those_of_the_records():
    expected = []
    for name, stem in COMPILED.items():
        rows = json.loads((RESULTS / "compiled" / f"{stem}.json").read_text("utf-8"))["rows"]
        cells = [name]
        for function in ("integer-labels", "lean"):
            (row,) = [row for row in rows if _is_gradient_of(row, function, "jaxsoftmax")]
            cells += [f"{row['to_base']:.2f}", f"{row['temp_bytes'] / 2**30:.2f}"]
        (row,) = [row for row in rows if _is_gradient_of(row, "integer-labels", "optax")]
        cells.append(f"{row['temp_bytes'] / 2**30:.2f}")
        expected.append(cells)
    assert shown("target", README) == expected


def _is_gradient_of(row, function, subject):
    case = row["case"]
    asked = ([8192, 4096, 128256], "bfloat16", function, "value and gradient")
    return row["subject"] == subject and (case["shape"], case["dtype"], case["function"], case["quantity"]) == asked


@pytest.mark.parametrize(
    "number", ["112 MiB where optax takes 1571 at 4096 × 256 × 50257", "a test accuracy of 24 %", "goes on to 49 %"]
)
def test_numbers_in_its_bullets_are_on_pages(number):
    assert number in " ".join(README.split())
    assert number in " ".join(PAGES.split())


def test_status_says_what_was_run_and_what_was_not():
    status = re.search(r"\*Status\.\*(.*?)\n\n", README, re.DOTALL)
    assert status
    assert "compiled by their own compilers and not run" in " ".join(status[1].split())


def test_code_on_pages_is_no_wider_than_they_are():
    widest = 88  # what is shown at 1280 pixels
    in_blocks = {
        path.relative_to(ROOT): [
            line
            for block in re.findall(r"^ *```\w+\n(.*?)^ *```", path.read_text("utf-8"), re.DOTALL | re.MULTILINE)
            for line in block.splitlines()
            if len(line) > widest and INSTALLATION not in line
        ]
        for path in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *ROOT.joinpath("docs").rglob("*.md")]
    }
    assert {path: lines for path, lines in in_blocks.items() if lines} == {}
