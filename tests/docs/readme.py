"""README.md, and its tables."""

from docs.generate.repository import ROOT

README = ROOT.joinpath("README.md").read_text("utf-8")


def shown(first_cell):
    """README's table that begins with this cell, as lists of cells, without its header."""
    lines = README.splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith(f"| {first_cell} |"))
    end = next(i for i, line in enumerate(lines) if i > start and not line.startswith("|"))
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[start + 2 : end]]
