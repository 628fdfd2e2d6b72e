"""What is generated shows the numbers of the files it is generated from."""

import json
import math
import re
from collections import Counter
from functools import cache

import pytest
from markdown import Markdown

from docs.generate import benchmark_figures, benchmarks, certificates, compiled, derivations, experiments, marks, text
from docs.generate.repository import RESULTS, ROOT
from experiments.__main__ import NAMES
from experiments.derivation.source_documents import DOCUMENTS, elementary_derivatives
from jaxsoftmax.bench._presets import PEERS
from jaxsoftmax.verify import THEOREMS
from tests.docs.outline import Outline, outline_of

ALL = [f"M{number}" for number in range(1, 34)]
RECORDS = sorted((RESULTS / "bench").glob("*.json"))
COMPILED = sorted((RESULTS / "compiled").glob("*.json"))
in_checkout = pytest.mark.skipif(not RECORDS, reason="a source distribution has no results")
places = cache(derivations.places)


def words(text):
    return " ".join(text.split())


def read(path):
    return json.loads(path.read_text("utf-8"))


def missing(needed, page):
    """What a page, or its text, lacks."""
    text = words(page)
    return [part for part in needed if words(part) not in text]


def ratios_of(record):
    """The first cell of each row of a benchmark's table that depends on this library's own time."""
    spreads = [row["to_base"] for row in record["rows"] if row["subject"] == "jaxsoftmax"]
    return [f"{spread['median']:.2f} ({spread['lower']:.2f}–{spread['upper']:.2f})" for spread in spreads]


def shown_ratios(page):
    """Of every table of measurements, the column of this library."""
    tables = [table for table in page.tables if "this library" in table[0]]
    return [[row[table[0].index("this library")] for row in table[1:]] for table in tables]


@cache
def generated(render):
    """What is generated for a page, which needs no site."""
    return Outline(Markdown(extensions=["tables", "attr_list", "md_in_html", "pymdownx.details"]).convert(render()))


@pytest.mark.parametrize("path", RECORDS, ids=lambda path: path.stem)
def test_every_ratio_of_a_benchmark_is_generated_in_order(path):
    assert ratios_of(read(path)) in shown_ratios(generated(benchmarks.render))


@in_checkout
def test_planted_ratio_is_not_generated():
    record = read(RECORDS[0])
    record["rows"][0]["to_base"]["median"] += 0.01
    assert ratios_of(record) not in shown_ratios(generated(benchmarks.render))


def test_every_peer_but_the_base_has_a_colour():
    assert set(PEERS) - set(benchmark_figures.COLOURS) == {"optax"}


def test_peer_without_a_colour_is_not_drawn_as_another():
    with pytest.raises(KeyError, match="nobody"):
        benchmark_figures.draw({"0.10.2": {"a case": {"nobody": (0.9, 1.0, 1.1)}}}, "light")


@pytest.mark.parametrize("path", RECORDS, ids=lambda path: path.stem)
def test_every_ratio_of_a_benchmark_is_in_its_table_in_order(site, path):
    record = read(path)
    page = outline_of(site / "benchmarks.html")
    assert ratios_of(record) in shown_ratios(page)
    assert not missing([path.stem, *(version for version in record["versions"].values())], page.text)


def test_planted_ratio_is_missed(site):
    record = read(RECORDS[0])
    record["rows"][0]["to_base"]["median"] += 0.01
    assert ratios_of(record) not in shown_ratios(outline_of(site / "benchmarks.html"))


def test_large_memory_is_shown_without_a_power_of_ten(site):
    tables = [table for table in outline_of(site / "benchmarks.html").tables if "this library" in table[0]]
    cells = [cell for table in tables for row in table[1:] for cell in row[-4:-2]]
    assert {table[0][-4] for table in tables} == {"temp MiB"}
    assert any(len(cell) > 3 and cell.isdigit() for cell in cells)
    assert [cell for cell in cells if "e+" in cell] == []


@pytest.mark.parametrize(
    ("value", "shown"),
    [(4.14e-7, "4.14e-07"), (12.34, "12.3"), (999.6, "1000"), (1570.58, "1571"), (2.5e7, "2.5e+07"), (math.inf, "∞")],
)
def test_a_number_is_shown_in_three_figures_or_as_a_whole_number(value, shown):
    assert text.in_figures(value) == shown


@pytest.mark.parametrize("chip", dict.fromkeys(path.stem.split("_")[1] for path in COMPILED))
def test_every_ratio_of_a_compiled_program_is_in_the_column_of_its_target(chip):
    records = [read(path) for path in COMPILED if path.stem.split("_")[1] == chip]
    assert {record["target"].split(":")[1] for record in records} == {chip}
    own = [row for record in records for row in record["rows"] if row["subject"] == "jaxsoftmax"]
    ratios = ["no room" if row["to_base"] is None else f"{row['to_base']:.2f}" for row in own]
    shown = [f"{ratio} ({row['seconds'] * 1e3:.3g} ms" for ratio, row in zip(ratios, own, strict=True)]
    (table,) = generated(compiled.render).tables
    column = table[0].index(chip)
    cells = [row[column] for row in table[1:] if row[column]]  # a case that another target alone has leaves it empty
    assert [cell.partition(",")[0] for cell in cells] == shown


def said_of(result):
    """What the section of an experiment has to say."""
    verdict = "The claim holds." if result["passed"] else "The claim FAILS."
    checks = [f"{'✓' if holds else '✗'} {check}" for check, holds in result["checks"].items()]
    return [result["claim"], verdict, *result["conclusion"], *checks, result["command"]]


def generated_experiments():
    return experiments.render("")


@in_checkout
@pytest.mark.parametrize("name", NAMES)
def test_every_conclusion_of_an_experiment_is_generated(name):
    said = said_of(read(RESULTS / f"{name}.json"))
    assert not missing(said, generated(generated_experiments).text)
    assert missing([re.sub(r"\d", "x", said[2], count=1)], generated(generated_experiments).text)


@pytest.mark.parametrize("name", NAMES)
def test_every_conclusion_and_figure_of_an_experiment_is_in_its_section(site, name):
    result = read(RESULTS / f"{name}.json")
    page = outline_of(site / "experiments.html")
    assert not missing(said_of(result), page.sections[name])
    assert {f"assets/results/{figure}" for figure in result["figures"]} <= set(page.links)


def test_planted_verdict_and_conclusion_are_missed(site):
    result = read(RESULTS / "stability.json")
    section = outline_of(site / "experiments.html").sections["stability"]
    sentence = re.sub(r"\d", "x", result["conclusion"][0], count=1)
    planted = result | {"passed": False, "conclusion": [sentence]}
    assert missing(said_of(planted), section) == ["The claim FAILS.", sentence]
    assert missing(said_of(read(RESULTS / "jacobian.json")), section)


def test_every_theorem_has_a_formula_and_there_are_no_others():
    assert list(derivations.formulas()["theorems"]) == ALL
    assert [number for numbers in derivations.formulas()["groups"].values() for number in numbers] == ALL
    assert list(dict.fromkeys(name.partition("-")[0] for name in THEOREMS)) == ALL


def test_every_number_that_the_package_cites_is_a_theorem():
    sources = [*ROOT.joinpath("jaxsoftmax").rglob("*.py"), ROOT / "README.md", *ROOT.joinpath("docs").glob("*.md")]
    cited = {number for path in sources for number in re.findall(r"\bM\d+\b", path.read_text("utf-8"))}
    assert cited == set(ALL)


@pytest.mark.parametrize("number", ALL)
def test_every_theorem_leads_to_lines_that_carry_its_number(number):
    assert places(number)
    for place in places(number):
        line = ROOT.joinpath(place.path).read_text("utf-8").splitlines()[place.line - 1]
        assert number in marks.numbers_in(line)


def test_every_derivation_of_a_source_document_is_marked_with_its_theorem():
    marked = Counter(mark.theorem for mark in marks.of_source_documents() if mark.function.isupper())
    documents = [document for document in DOCUMENTS if document is not elementary_derivatives.DOCUMENT]
    executed = [number for document in documents for each in document.derivations for number in each.theorem.split("/")]
    assert marked == Counter(executed)


def test_every_theorem_is_on_the_page_with_its_title_and_formula(site):
    page = outline_of(site / "derivations.html")
    assert [anchor for anchor in page.marked if re.fullmatch(r"m\d+", anchor)] == [number.lower() for number in ALL]
    for entry in derivations.formulas()["theorems"].values():
        assert not missing([entry["title"], entry["formula"]], page.text)


DEFINITIONS = {"M1", "M24", "M27", "M33"}  # and rules, which have nothing to prove


def steps_of(number):
    """The formulas of a theorem's proof."""
    return [formula for _, formula in derivations.formulas()["theorems"][number].get("proof", ())]


def test_every_theorem_but_definitions_has_a_proof():
    assert {number for number in ALL if not steps_of(number)} == DEFINITIONS


@pytest.mark.parametrize("number", sorted(set(ALL) - DEFINITIONS))
def test_every_step_of_a_proof_is_on_the_page(site, number):
    assert not missing(["Proof.", *steps_of(number)], outline_of(site / "derivations.html").text)


@pytest.mark.parametrize("number", sorted(set(ALL) - DEFINITIONS))
def test_a_proof_cites_other_theorems_alone(number):
    reasons = " ".join(reason for reason, _ in derivations.formulas()["theorems"][number]["proof"])
    assert number not in marks.numbers_in(reasons)


def test_planted_step_is_missed(site):
    page = outline_of(site / "derivations.html").text
    assert missing([*steps_of("M5"), r"J = s\,s^\top - \operatorname{diag}(s)"], page) == [
        r"J = s\,s^\top - \operatorname{diag}(s)"
    ]


def test_of_a_theorem_with_lines_of_code_only_these_are_listed():
    assert all(len({place.in_code for place in places(number)}) == 1 for number in ALL)
    assert any(place.in_code for number in ALL for place in places(number))


def test_every_executed_line_of_a_derivation_is_on_the_page(site):
    proved = read(RESULTS / "derivation.json")["measurements"]["proved"]
    formulas = [line["formula"] for chain in proved for line in chain["lines"]]
    assert len(formulas) > 100
    assert not missing(formulas, outline_of(site / "derivations.html").text)


def worst_errors(dtype):
    """The worst error of each function and quantity, and its bound, straight from the records."""
    worst = {}
    for path in sorted(certificates.FOLDER.glob("*.json")):
        document = read(path)
        for values in document["rows"]:
            row = dict(zip(document["columns"], values, strict=False))
            if row["theorem"].endswith("-keywords"):  # calls with each keyword by itself are left out
                continue
            if row["dtype"] == dtype and row["judge"].startswith("mpmath") and not row["function"].startswith("jax."):
                key, error, bound = (row["function"], row["quantity"]), float(row["error"]), row["bound"]
                shown = (error / bound if bound else error, f"{error:.2g} of {bound:.3g}")
                worst[key] = max(worst.get(key, shown), shown)
    return [(function.rpartition(".")[2], quantity, shown) for (function, quantity), (_, shown) in worst.items()]


@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16", "float16"])
def test_the_worst_error_of_every_function_is_in_its_table(site, dtype):
    tables = [table for table in outline_of(site / "numerics.html").tables if dtype in table[0]]
    shown = {(*row[:2], row[table[0].index(dtype)]) for table in tables for row in table[1:]}
    expected = set(worst_errors(dtype))
    assert expected
    assert expected <= shown


@in_checkout
def test_the_kept_certificates_hold():
    assert all(kept.passed for kept in certificates.kept())


@in_checkout
def test_the_kept_certificates_are_about_the_theorems_as_they_are():
    stated = {
        (theorem.number, claim.function, claim.quantity, claim.bound)
        for theorem in THEOREMS.values()
        for claim in theorem.claims
    }
    for kept in certificates.kept():
        judged = {
            (row.theorem, row.function.removeprefix("forward_mode."), row.quantity, row.bound)
            for row in certificates.by_digits(kept.rows)
        }
        assert judged == stated
