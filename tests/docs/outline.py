"""What a page of the site has: its ids, its links, its tables, its headings and its text."""

from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

LOADING = {"a": "href", "link": "href", "img": "src", "script": "src", "source": "src", "iframe": "src"}
CELLS = {"td", "th"}


class Outline(HTMLParser):
    """Reads a page."""

    def __init__(self, text):
        super().__init__()
        self.ids, self.links, self.tables, self.text, self.marked = set(), [], [], "", {}
        self.sections, self._section = {}, ""  # the text below each second-level heading, by its id
        self._silent = False
        self._cell = None
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        self.ids |= {given[name] for name in ("id", "name") if given.get(name)}
        if given.get("id") and tag in {"h1", "h2", "h3", "h4"}:
            self.marked[given["id"]] = tag
            self._section = given["id"] if tag in {"h1", "h2"} else self._section
        self.links += [given[LOADING[tag]]] if tag in LOADING and given.get(LOADING[tag]) else []
        self._silent = tag in {"script", "style"} or self._silent
        if tag == "table":
            self.tables.append([])
        if tag == "tr":
            self.tables[-1].append([])
        self._cell = [] if tag in CELLS else self._cell

    def handle_endtag(self, tag):
        self._silent = self._silent and tag not in {"script", "style"}
        if tag in CELLS:
            self.tables[-1][-1].append("".join(self._cell).strip())
            self._cell = None

    def handle_data(self, data):
        said = "" if self._silent else data
        self.text += said
        self.sections[self._section] = self.sections.get(self._section, "") + said
        if self._cell is not None:
            self._cell.append(data)


@cache
def outline_of(path):
    return Outline(path.read_text("utf-8"))


def pages_of(site):
    """Every page but the one for missing pages, whose links are from the root of a server."""
    return sorted(path for path in site.rglob("*.html") if path.name != "404.html")


def broken_links(site):
    """Every link of the site to a file or to a place in a page that isn't there."""
    return {
        f"{page.relative_to(site)}: {link}"
        for page in pages_of(site)
        for link in outline_of(page).links
        if not _leads_somewhere(page, link)
    }


def _leads_somewhere(page, link):
    scheme, host, path, _, fragment = urlsplit(link)
    if scheme or host:
        return scheme in {"https", "http", "data", "mailto"}
    target = (page.parent / unquote(path)).resolve() if path else Path(page)
    if not target.is_file():
        return False
    return not fragment or target.suffix != ".html" or unquote(fragment) in outline_of(target).ids | {"__skip"}
