"""The tables of docs/scaling.md show the numbers of the record."""

import json
import re

import numpy as np

from docs.generate import scaling
from docs.generate.repository import RESULTS, ROOT
from tests.docs.pages import tables


def test_the_page_on_meshes_asks_for_every_table_of_scaling():
    page = ROOT.joinpath("docs", "scaling.md").read_text("utf-8")
    assert re.findall(r"^<!-- generated: scaling (\w+) -->$", page, re.MULTILINE) == list(scaling.tables())


def measured_programs():
    """What is shown of each compiled program: shape, mesh, Gflop, dtype, and its memory as measured and as bounded."""
    ((_, rows),) = tables(scaling.tables()["measured"])
    for shape, _, mesh, gflop, *_, memory in rows:
        for of_dtype in memory.split("; "):
            dtype, sizes = of_dtype.split(": ")
            yield (shape.partition(",")[0], mesh, gflop, dtype, *map(_bytes, sizes.split(" of ")))


def _bytes(size):
    number, unit = size.split()
    return float(number) * {"KiB": 2**10, "MiB": 2**20, "GiB": 2**30}[unit]


def test_flops_and_memory_of_every_compiled_mesh_are_generated():
    kept = []
    for each in json.loads((RESULTS / "scaling.json").read_text("utf-8"))["measurements"]["programs"]:
        of = each["program"]
        shape = f"{of['tokens']} × {of['embed']} × {of['vocab']}"
        mesh = f"{of['token_shards']} × {of['class_shards']}"
        sizes = [each[by]["temporary"] for by in ("measured", "model")]
        kept.append((shape, mesh, f"{each['measured']['flops'] / 1e9:.2f}", of["dtype"], *sizes))
    shown = sorted(measured_programs())
    assert [row[:4] for row in shown] == [row[:4] for row in sorted(kept)]
    np.testing.assert_allclose([row[4:] for row in shown], [row[4:] for row in sorted(kept)], rtol=0.006)
