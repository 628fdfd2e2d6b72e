"""README's tables of measurements, which the site repeats, are those of the kept records."""

import json

import pytest

from docs.generate.repository import RESULTS, ROOT

BENCH = RESULTS / "bench"
NEWEST, OLDEST = "jax_0.12", "jax_0.10"  # the order in which README quotes them
MEBIBYTE = 2**20

pytestmark = pytest.mark.skipif(not BENCH.exists(), reason="a source distribution has no results")


def measured(name):
    """Every row of a record: by shape, dtype, quantity and logits, and then by subject."""
    by_case = {}
    for row in json.loads((BENCH / f"{name}.json").read_text("utf-8"))["rows"]:
        case = row["case"]
        key = (*case["shape"], case["dtype"], case["quantity"], case["logits"])
        by_case.setdefault(key, {})[row["subject"]] = row
    return by_case


def shown(first_cell):
    """README's table that begins with this cell, as lists of cells, without its header."""
    lines = ROOT.joinpath("README.md").read_text("utf-8").splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith(f"| {first_cell} |"))
    end = next(i for i, line in enumerate(lines) if i > start and not line.startswith("|"))
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[start + 2 : end]]


def each(rows, subject, cell):
    """A cell of every version, in README's order."""
    return ", ".join(cell(row[subject]) for row in rows)


def ratio(row):
    return f"{row['to_optax']['median']:.2f}"


def mebibytes(row):
    return f"{row['temp_bytes'] / MEBIBYTE:.0f}"


def losses():
    records = [measured(f"plain_{version}") for version in (NEWEST, OLDEST)]
    for tokens, vocab in dict.fromkeys(key[:2] for key in records[0]):
        cells = [
            each([record[tokens, vocab, "float32", quantity, logits] for record in records], "jaxsoftmax", ratio)
            for quantity in ("value", "value and gradient")
            for logits in ("ordinary", "confident")
        ]
        in_graph = records[0][tokens, vocab, "float32", "logits in the graph", "ordinary"]
        memory = f"{mebibytes(in_graph['jaxsoftmax'])} of {mebibytes(in_graph['optax'])}"
        yield [f"{tokens} × {vocab}", *cells, memory]


def heads():
    records = [measured(f"linear_{version}") for version in (NEWEST, OLDEST)]
    for *shape, dtype in dict.fromkeys(key[:4] for key in records[0]):
        rows = [record[*shape, dtype, "value and gradient", "ordinary"] for record in records]
        yield [
            " × ".join(map(str, shape)),
            dtype,
            each(rows, "jaxsoftmax", ratio),
            each(rows, "floor", ratio),
            ratio(rows[0]["tokamax"]),
            ratio(rows[1]["torch"]),
            each(rows, "jaxsoftmax", mebibytes),
            each(rows, "optax", mebibytes),
        ]


@pytest.mark.parametrize(("first_cell", "expected"), [("tokens × V", losses), ("tokens × embed × vocab", heads)])
def test_every_cell_is_that_of_the_records(first_cell, expected):
    assert shown(first_cell) == list(expected())


def test_the_memory_quoted_in_the_text_is_that_of_the_records():
    record = measured(f"memory_{OLDEST}")
    first, second = (
        record[*shape, "float32", "value and gradient", "ordinary"]
        for shape in ((4096, 256, 50257), (2048, 512, 131072))
    )
    text = " ".join(ROOT.joinpath("README.md").read_text("utf-8").split())
    assert (
        f"{mebibytes(first['jaxsoftmax'])} MiB where optax takes {mebibytes(first['optax'])} at 4096 × 256 × 50257, "
        f"{mebibytes(second['jaxsoftmax'])} MiB for {mebibytes(second['optax'])} at 2048 × 512 × 131072"
    ) in text


def test_the_errors_quoted_in_the_text_cover_those_of_the_records():
    errors = {"float32": [], "bfloat16": []}
    for version in (NEWEST, OLDEST):
        for case, rows in measured(f"linear_{version}").items():
            if rows["jaxsoftmax"]["gradient_error"] is not None:
                errors[case[3]].append(float(rows["jaxsoftmax"]["gradient_error"]))
    text = " ".join(ROOT.joinpath("README.md").read_text("utf-8").split())
    assert "within 4.5e-7 of float64's in norm, in bfloat16 within 1.7e-3" in text
    assert 4.0e-7 < max(errors["float32"]) <= 4.5e-7
    assert 1.6e-3 < max(errors["bfloat16"]) <= 1.75e-3
