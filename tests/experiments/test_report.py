"""The report is one page that holds all results, needs nothing else, and is readable on a phone."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure

from experiments.__main__ import NAMES
from experiments.__main__ import main as run_experiments
from experiments._experiment import Experiment, Outcome, run
from experiments._results import DEFAULT_DIRECTORY
from experiments.report import main
from tests.browser import DESKTOP, PHONE, faults, offline

WIDTHS, SCHEMES = (DESKTOP, PHONE), ("light", "dark")
HAS_FIGURES = (DEFAULT_DIRECTORY / "scaling.png").exists()
in_checkout = pytest.mark.skipif(not HAS_FIGURES, reason="a source distribution has no figures of the results")


def outcome_with(name, holds):
    figure = Figure(figsize=(11.0, 3.6))
    figure.subplots().plot(np.arange(9))
    checks = {"the loss <b>falls</b>": True, "a part of the claim": holds}
    return Outcome(checks, [f"{name}: {'a_very_long_name' * 9} is found in 7 of 9 & more."], {}, figures={name: figure})


def write_result(directory, name, *options, holds=True):
    claim = f"A claim of {name} with x < y & z."
    experiment = Experiment(name, claim, lambda options, progress: outcome_with(name, holds))
    assert run(experiment, ["--results", str(directory), *options]) == int(not holds)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Results of three experiments, for tests to copy: figures take a while to draw."""
    folder = tmp_path_factory.mktemp("written")
    write_result(folder, "zebra")
    write_result(folder, "stability", "--quick", holds=False)
    write_result(folder, "jacobian")
    return folder


@pytest.fixture
def results(written, tmp_path):
    shutil.copytree(written, tmp_path, dirs_exist_ok=True)
    return tmp_path


@pytest.fixture
def page(results):
    assert main(["--results", str(results)]) == 0
    return results / "report.html"


def one_line_of_error(capsys):
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    return error


@pytest.mark.slow
@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("width", WIDTHS)
def test_page_of_samples_loads_whole_without_a_network(chromium, page, width, scheme):
    assert faults(chromium, page, width, scheme) == []


@pytest.mark.slow
@in_checkout
@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("width", WIDTHS)
def test_page_of_the_kept_results_loads_whole_without_a_network(chromium, tmp_path, width, scheme):
    page = tmp_path / "report.html"
    assert main(["--output", str(page)]) == 0
    assert faults(chromium, page, width, scheme) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("defect", "fault"),
    [
        ('<img src="https://example.org/a.png" alt="remote">', "request: https://example.org/a.png"),
        ('<img src="data:image/png;base64,iVBORw0K" alt="cut">', "broken image: cut"),
        ('<p style="display: none"><img src="data:image/gif;base64,R0lGODlhAQABAAAAACw=" alt="gone"></p>', "hidden"),
        ("<script>console.error('no such thing')</script>", "console: no such thing"),
        ("<script>nothing.at.all</script>", "script: nothing is not defined"),
        ('<p style="width: 2000px">wide</p>', "scrolls sideways by"),
    ],
)
def test_planted_defect_is_found(chromium, page, defect, fault):
    page.write_text(page.read_text().replace("</main>", f"{defect}</main>"))
    assert any(found.startswith(fault) for found in faults(chromium, page, PHONE))


@pytest.mark.slow
def test_every_figure_is_shown_and_described_and_enlarges_in_its_own_box(chromium, page):
    with offline(chromium, PHONE) as shown:
        shown.goto(page.as_uri())
        figures = shown.locator("figure img")
        assert figures.count() == 3
        assert all(figure.get_attribute("alt") for figure in figures.all())
        before = figures.first.bounding_box()["width"]
        figures.first.click()
        assert before < PHONE < figures.first.bounding_box()["width"] == 1100
        assert shown.evaluate("document.documentElement.scrollWidth") == PHONE


@pytest.mark.slow
def test_dark_page_is_dark(chromium, page):
    def paper(scheme):
        with offline(chromium, PHONE, scheme) as shown:
            shown.goto(page.as_uri())
            return shown.evaluate("getComputedStyle(document.body).backgroundColor")

    assert (paper("light"), paper("dark")) == ("rgb(255, 255, 255)", "rgb(13, 17, 23)")


def test_page_has_every_claim_in_the_order_of_the_experiments_and_escapes_it(page):
    html = page.read_text()
    places = [html.index(f'<section id="{name}">') for name in ("jacobian", "stability", "zebra")]
    assert places == sorted(places)
    assert html.count("A claim of zebra with x &lt; y &amp; z.") >= 2
    assert "the loss &lt;b&gt;falls&lt;/b&gt;" in html
    assert "<b>" not in html


@in_checkout
def test_page_of_the_kept_results_has_every_experiment(tmp_path):
    assert main(["--output", str(tmp_path / "report.html")]) == 0
    html = (tmp_path / "report.html").read_text()
    assert [name for name in NAMES if f'<section id="{name}">' not in html] == []


def test_time_of_a_resumed_run_is_said_to_be_a_part(results):
    path = results / "zebra.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"resumed": True}))
    assert main(["--results", str(results)]) == 0
    html = (results / "report.html").read_text()
    assert [" s after it was resumed," in part for part in html.split('<section id="')[1:]] == [False, False, True]


def test_failed_claim_and_quick_run_are_marked(page):
    html = page.read_text()
    failed = html[html.index('<section id="stability">') : html.index('<section id="zebra">')]
    assert "2 of 3 claims hold" in html
    assert "The claim FAILS" in failed
    assert "<strong>Fails:</strong> a part of the claim" in failed
    assert "in a quick run" in failed
    assert html.count("in a quick run") == html.count("(quick run)") == html.count("<strong>Fails:") == 1


def test_benchmark_is_summarised(results):
    spread = {"lower": 0.5, "median": 0.75, "upper": 1.0}
    row = {"subject": "jaxsoftmax", "to_base": spread}
    record = {"command": ["jaxsoftmax", "bench"], "date": "2026", "versions": {"jax": "0.10.2"}, "rows": [row]}
    (results / "bench").mkdir()
    (results / "bench" / "mine.json").write_text(json.dumps(record))
    assert main(["--results", str(results)]) == 0
    assert "<td>mine</td>" in (results / "report.html").read_text()


def test_report_is_a_name_of_the_command_line(results, capsys):
    assert run_experiments(["report", "--results", str(results), "--output", str(results / "page.html")]) == 0
    assert "3 experiments, 2 claims hold" in capsys.readouterr().out
    assert (results / "page.html").read_text().startswith("<!DOCTYPE html>")


def test_report_among_other_names_is_one_line_and_exit_2(capsys):
    with pytest.raises(SystemExit, match="2"):
        run_experiments(["jacobian", "report"])
    assert "report stands alone" in one_line_of_error(capsys)


def remove_results(directory):
    for path in directory.glob("*.json"):
        path.unlink()


def cut_json(directory):
    (directory / "zebra.json").write_text('{"experiment":')


def json_of_something_else(directory):
    (directory / "zebra.json").write_text("[]")


def lacking_json(directory):
    (directory / "zebra.json").write_text('{"experiment": "zebra"}')


def wrong_kind(directory):
    document = json.loads((directory / "zebra.json").read_text())
    (directory / "zebra.json").write_text(json.dumps(document | {"conclusion": 3}))


def remove_figure(directory):
    (directory / "zebra.png").unlink()


def cut_figure(directory):
    (directory / "zebra.png").write_bytes((directory / "zebra.png").read_bytes()[:900])


def break_benchmark(directory):
    (directory / "bench").mkdir()
    (directory / "bench" / "mine.json").write_text("{}")


@pytest.mark.parametrize(
    ("spoil", "complaint"),
    [
        (remove_results, "no results in"),
        (cut_json, "zebra.json is not JSON"),
        (json_of_something_else, "zebra.json: expected a JSON object, got list"),
        (lacking_json, "zebra.json is no result: it lacks 'claim'"),
        (wrong_kind, "expected 'conclusion' as list, got int"),
        (remove_figure, "zebra.json names a figure that is missing"),
        (cut_figure, "zebra.json names a figure that cannot be read"),
        (break_benchmark, "mine.json is no record of a benchmark"),
    ],
)
def test_spoilt_results_are_one_line_and_exit_2_and_leave_no_page(results, capsys, spoil, complaint):
    spoil(results)
    capsys.readouterr()
    assert main(["--results", str(results)]) == 2
    assert complaint in one_line_of_error(capsys)
    assert not (results / "report.html").exists()


def test_missing_directory_is_one_line_and_exit_2(tmp_path, capsys):
    assert main(["--results", str(tmp_path / "none")]) == 2
    assert "expected a directory of results" in one_line_of_error(capsys)


def test_unwritable_page_is_one_line_and_exit_2(results, capsys):
    capsys.readouterr()
    assert main(["--results", str(results), "--output", str(results / "none" / "page.html")]) == 2
    assert "cannot write" in one_line_of_error(capsys)


def test_interrupt_is_one_line_and_exit_130(results, capsys, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("experiments.report.gather", interrupted)
    capsys.readouterr()
    assert main(["--results", str(results)]) == 130
    assert one_line_of_error(capsys) == "experiments.report: interrupted\n"
    assert not Path(results / "report.html").exists()
