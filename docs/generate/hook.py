"""What mkdocs calls while it builds the site: generated parts are put where a page asks for them, and figures added.

A page asks by a comment, `<!-- generated: NAME -->`, or with an argument, `<!-- generated: reference jaxsoftmax -->`.
"""

import posixpath
import re
import sys
from collections.abc import Callable
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # mkdocs loads this file by its path

from docs.generate import (
    benchmarks,
    certificates,
    compiled,
    derivations,
    experiments,
    infinities,
    marks,
    modes,
    reference,
    scaling,
    ulps,
)
from docs.generate.links import RepositoryLinks, among_files
from docs.generate.repository import FIGURES, RESULTS

_ASKED = re.compile(r"^<!-- generated: (\w+) ?([\w.]*) -->$", re.MULTILINE)
_PARTS: dict[str, Callable[[str, str], str]] = {
    "benchmarks": lambda repository, argument: benchmarks.render(),
    "command": lambda repository, argument: reference.command_line(argument),
    "compiled": lambda repository, argument: compiled.render(),
    "derivations": lambda repository, argument: derivations.render(repository),
    "experiments": lambda repository, argument: experiments.render(repository),
    "infinities": lambda repository, argument: infinities.render(),
    "modes": lambda repository, argument: modes.render(),
    "peers": lambda repository, argument: certificates.render_peers(),
    "reference": lambda repository, argument: reference.module(argument),
    "scaling": lambda repository, argument: scaling.tables()[argument],
    "ulps": lambda repository, argument: ulps.render(),
}
_links: list[RepositoryLinks] = []


def filled(markdown: str, repository: str) -> str:
    """Returns a page with what it asks for.

    Raises:
      PluginError: there is no such part.
    """

    def part(asked: re.Match[str]) -> str:
        name, argument = asked.groups()
        if name not in _PARTS:
            raise PluginError(f"no part {name!r} is generated, only {', '.join(_PARTS)}")
        return _PARTS[name](repository, argument)

    return _ASKED.sub(part, markdown)


def on_pre_build(*, config: MkDocsConfig) -> None:
    """Forgets what was read for the build before this one: `mkdocs serve` builds again when a file has changed."""
    for read in (
        benchmarks.records,
        compiled.records,
        certificates.kept,
        certificates.of_peers,
        derivations.formulas,
        derivations.proved,
        infinities.cases,
        marks.of_package,
        marks.of_source_documents,
        marks.of_tests,
    ):
        read.cache_clear()


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Adds the figures of the experiments and the benchmarks, and has Markdown point links at what the site has."""
    for path in sorted(RESULTS.glob("*.png")):
        files.append(File.generated(config, f"{FIGURES}/{path.name}", abs_src_path=str(path)))
    for name, content in {**benchmarks.figures(), **compiled.figures()}.items():
        files.append(File.generated(config, name, content=content))
    _links[:] = [RepositoryLinks(config.repo_url or "", lambda path: files.get_file_from_path(path) is not None)]
    config.markdown_extensions.append(_links[0])  # pyright: ignore[reportArgumentType]  # Markdown takes instances too
    return files


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Fills in what the page asks for."""
    _links[0].folder = posixpath.dirname(page.file.src_uri)
    return filled(markdown, config.repo_url or "")


def on_page_content(html: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Rewrites a tutorial's links to .html files."""
    return among_files(html, page.file.src_uri)
