"""Every link within the site leads to a file, and to a place in it, without a network."""

import re
from urllib.parse import urlsplit

import pytest
from markdown import Markdown
from mkdocs.exceptions import PluginError

from docs.generate.hook import filled
from docs.generate.links import RepositoryLinks
from tests.docs.outline import broken_links, outline_of, pages_of
from tests.docs.pages import README
from tests.packaging.project import PROJECT


def test_every_link_within_the_site_leads_somewhere(site):
    assert len(pages_of(site)) > 15
    assert broken_links(site) == set()


def test_every_link_of_readme_to_the_site_leads_somewhere(site):
    root = PROJECT["urls"]["Documentation"]
    links = [urlsplit(link) for link in re.findall(rf"{re.escape(root)}([^)]*)", README)]
    assert len(links) > 5
    assert [link.path for link in links if not site.joinpath(link.path).is_file()] == []
    to_places = [link for link in links if link.fragment]
    assert [link for link in to_places if link.fragment not in outline_of(site / link.path).ids] == []


def test_the_page_for_missing_pages_is_whole_at_any_address(site):
    root = urlsplit(PROJECT["urls"]["Documentation"]).path
    links = [link for link in outline_of(site / "404.html").links if not urlsplit(link).netloc and link[0] != "#"]
    assert len(links) > 15
    assert [link for link in links if not link.startswith(root)] == []
    paths = [urlsplit(link).path.removeprefix(root) for link in links]
    assert [path for path in paths if not site.joinpath(path or "index.html").is_file()] == []


def test_every_file_that_a_stylesheet_names_is_there(site):
    named = [
        sheet.parent / target
        for sheet in site.rglob("*.css")
        for target in re.findall(r"url\([\"']?([^)\"'#]+)", sheet.read_text("utf-8"))
        if not target.startswith("data:")
    ]
    assert len(named) >= 20  # KaTeX's fonts
    assert [path for path in named if not path.is_file()] == []


def test_every_column_of_a_table_has_something_in_it(site):
    hollow = {
        f"{page.relative_to(site)}: {header}"
        for page in pages_of(site)
        for table in outline_of(page).tables
        for header, *cells in zip(*table, strict=True)
        if not any(cells)
    }
    assert hollow == set()


def test_nothing_is_loaded_from_elsewhere(site):
    remote = re.compile(r"<(?:script|img|iframe|link rel=.(?:stylesheet|icon|preconnect))[^>]+(?:src|href)=.https?:")
    assert [page.name for page in pages_of(site) if remote.search(page.read_text("utf-8"))] == []


PLACES = {
    "see M5": ["m5"],
    "| a | M24–M27, `M1` |\n|---|---|": ["m24", "m27"],
    "M8-empty": ["m8"],
    "# M5\n\n[M6](other.md), `M7`, M34, XM9, M10x, an Apple M1": [],
}


@pytest.mark.parametrize(("text", "theorems"), PLACES.items())
def test_numbers_of_theorems_become_references_in_text_alone(text, theorems):
    html = Markdown(extensions=["tables", RepositoryLinks("", str.isspace)]).convert(text)
    assert re.findall(r'<autoref identifier="(m\d+)">M', html) == theorems


def test_numbers_of_theorems_lead_to_their_derivations(site):
    for page, number in {"choose": 19, "certificate": 10, "generated/tutorials/a_rule_of_your_own": 19}.items():
        links = {link.rpartition("/")[2] for link in outline_of(site / f"{page}.html").links}
        assert f"derivations.html#m{number}" in links


UNFILLED = re.compile(r"<!--\s*generated:|--8(?:<|&lt;)--")


def test_every_marker_was_filled(site):
    assert [page.name for page in pages_of(site) if UNFILLED.search(page.read_text("utf-8"))] == []


@pytest.mark.parametrize("marker", ["<!-- generated: no-such -->", "  <!-- generated:  ulps -->", '--8<-- "gone.md"'])
def test_planted_marker_is_found(marker):
    assert filled(marker, "") == marker
    assert UNFILLED.search(marker)


def test_a_part_that_is_not_generated_is_named_with_those_that_are():
    with pytest.raises(PluginError, match=r"no part 'ulp' is generated, only benchmarks, .*, ulps$"):
        filled("<!-- generated: ulp -->", "")


@pytest.mark.parametrize("link", ["gone.html", "other.html#gone", "#gone", "picture.png", "ftp://example.org"])
def test_planted_link_is_found(tmp_path, link):
    (tmp_path / "page.html").write_text(f'<h1 id="top">A page</h1><a href="{link}">there</a><a href="#top">up</a>')
    (tmp_path / "other.html").write_text('<h2 id="place">Another</h2><a href="page.html#top">back</a>')
    assert broken_links(tmp_path) == {f"page.html: {link}"}
