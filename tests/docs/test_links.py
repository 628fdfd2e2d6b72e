"""Every link within the site leads to a file, and to a place in it, without a network."""

import re

import pytest

from tests.docs.outline import broken_links, outline_of, pages_of


def test_every_link_within_the_site_leads_somewhere(site):
    assert len(pages_of(site)) > 15
    assert broken_links(site) == set()


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


def test_no_page_shows_a_marker_that_was_not_filled(site):
    unfilled = re.compile(r"&?-?-?8&?lt;|--8<--|generated: \w+")
    assert [page.name for page in pages_of(site) if unfilled.search(outline_of(page).text)] == []


@pytest.mark.parametrize("link", ["gone.html", "other.html#gone", "#gone", "picture.png", "ftp://example.org"])
def test_planted_link_is_found(tmp_path, link):
    (tmp_path / "page.html").write_text(f'<h1 id="top">A page</h1><a href="{link}">there</a><a href="#top">up</a>')
    (tmp_path / "other.html").write_text('<h2 id="place">Another</h2><a href="page.html#top">back</a>')
    assert broken_links(tmp_path) == {f"page.html: {link}"}
