"""Markdown extensions: links to files of the repository and to theorems, and highlighting of doctests."""

import posixpath
import re
from collections.abc import Callable
from xml.etree.ElementTree import Element

from markdown import Markdown
from markdown.extensions import Extension
from markdown.inlinepatterns import InlineProcessor
from markdown.preprocessors import Preprocessor
from markdown.treeprocessors import Treeprocessor

from docs.generate.derivations import formulas
from docs.generate.repository import ROOT, on_site

_BEFORE_MKDOCS = 5  # which makes links absolute at priority 0
_AFTER_LINKS = 100  # code and links are read before, from 190 down to 120
_THEOREM = r"(?<!Apple )\b(M\d+)(?:-[a-z]+)?\b"  # Apple has an M1 too
_AFTER_SNIPPETS, _PYTHON, _DOCTEST = 31, "```python", ">>> "  # snippets are put in at 32, blocks read from 30 down


_TUTORIALS = "generated/tutorials/"
_SRCSET = re.compile(r' srcset="\.\./[^"]*"')
_TOOLTIP = re.compile(r' tooltip="[^"]*"')
_TUTORIAL = re.compile(r'(<a class="reference internal" href=")(\w+)"')


def among_files(html: str, page: str) -> str:
    """Rewrites mkdocs-gallery's links, made for directory URLs, to .html files.

    >>> among_files('<a class="reference internal" href="train"> <img src="a.png" srcset="../a.png">', _TUTORIALS)
    '<a class="reference internal" href="train.html"> <img src="a.png">'
    """
    if not page.startswith(_TUTORIALS):
        return html
    return _TUTORIAL.sub(r'\1\2.html"', _TOOLTIP.sub("", _SRCSET.sub("", html)))


class RepositoryLinks(Extension):
    """Points links at files of the repository to where the site has them, or else to the repository's host."""

    def __init__(self, repository: str, is_page: Callable[[str], bool]) -> None:
        """Takes the repository's URL, and what says whether a path is a page or asset of the site."""
        super().__init__()
        self.repository = repository
        self.is_page = is_page
        self.folder = ""  # of the page at hand, from the site's root

    def extendMarkdown(self, md: Markdown) -> None:
        """Registers with Markdown."""
        md.treeprocessors.register(_Rewriting(self), "repository_links", _BEFORE_MKDOCS)
        md.inlinePatterns.register(_Theorems(_THEOREM), "theorems", _AFTER_LINKS)
        md.preprocessors.register(_Doctests(md), "doctests", _AFTER_SNIPPETS)

    def rewritten(self, link: str) -> str:
        """Returns the link as the site needs it."""
        path, hash_sign, fragment = link.partition("#")
        if not path or ":" in path or path.startswith("/") or self.is_page(self._from_root(self.folder, path)):
            return link
        for base in (posixpath.join("docs", self.folder), ""):
            known = self._from_root(base, path)
            if not known.startswith("..") and (ROOT / known).exists():
                return on_site(self.repository, known) + hash_sign + fragment
        return link  # mkdocs complains

    @staticmethod
    def _from_root(folder: str, path: str) -> str:
        return posixpath.normpath(posixpath.join(folder, path))


class _Rewriting(Treeprocessor):
    def __init__(self, links: RepositoryLinks) -> None:
        super().__init__()
        self.links = links

    def run(self, root: Element) -> None:
        for element in root.iter():
            for attribute in ("href", "src"):
                link = element.get(attribute)
                if link is not None and element.tag in ("a", "img"):
                    element.set(attribute, self.links.rewritten(link))


class _Theorems(InlineProcessor):
    """Makes a theorem's number a link to its derivation: M5, or M8-empty, which is a part of M8."""

    ANCESTOR_EXCLUDES = ("a", "autoref", "code", "summary", *(f"h{level}" for level in range(1, 7)))

    # pyright compares this with the `handleMatch` of `Pattern`, which `InlineProcessor` itself replaces.
    def handleMatch(self, m: re.Match[str], data: str) -> tuple[Element | None, int | None, int | None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Returns a reference to the heading, for mkdocs-autorefs to find, and where it is in the text."""
        if m[1] not in formulas()["theorems"]:
            return None, None, None
        link = Element("autoref", identifier=m[1].lower())
        link.text = m[0]
        return link, m.start(), m.end()


class _Doctests(Preprocessor):
    """Names the language of doctests, which are Python on the repository's host, so that prompts are told from code."""

    def run(self, lines: list[str]) -> list[str]:
        """Returns the lines of the page."""
        following = [*lines[1:], ""]
        return [
            line.replace("python", "pycon") if line.strip() == _PYTHON and after.lstrip().startswith(_DOCTEST) else line
            for line, after in zip(lines, following, strict=True)
        ]
