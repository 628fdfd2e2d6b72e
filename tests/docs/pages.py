"""README.md and the site's pages as text, and their tables."""

from docs.generate.repository import ROOT

README = ROOT.joinpath("README.md").read_text("utf-8")
PAGES = "\n\n".join(path.read_text("utf-8") for path in sorted(ROOT.joinpath("docs").glob("*.md")))


def shown(first_cell, text=PAGES):
    """The table that begins with this cell, as lists of cells, without its header."""
    return next(rows for header, rows in tables(text) if header[0] == first_cell)


def tables(text):
    """Every table as its header and its rows, each a list of cells."""
    lines = [*text.splitlines(), ""]
    starts = [i for i, line in enumerate(lines) if line.startswith("|") and not lines[i - 1].startswith("|")]
    for start in starts:
        end = next(i for i in range(start, len(lines)) if not lines[i].startswith("|"))
        yield _cells(lines[start]), [_cells(line) for line in lines[start + 2 : end]]


def _cells(line):
    return [cell.strip() for cell in line.strip("|").split("|")]
