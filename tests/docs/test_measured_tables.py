"""The pages' tables of measurements are those of the kept records."""

import json
import re

import jax
import jax.numpy as jnp
import pytest

from docs.generate.repository import RESULTS
from experiments.__main__ import NAMES
from jaxsoftmax import linear_cross_entropy
from tests.docs.pages import PAGES, README, shown

BENCH = RESULTS / "bench"
NEWEST, OLDEST = "jax_0.12", "jax_0.10"  # the order in which the pages quote them
MEBIBYTE = 2**20
TEXT = " ".join(PAGES.split())

pytestmark = pytest.mark.skipif(not BENCH.exists(), reason="a source distribution has no results")


def measured(name):
    """Every row of a record with integer labels: by shape, dtype, quantity and logits, and then by subject."""
    by_case = {}
    for row in json.loads((BENCH / f"{name}.json").read_text("utf-8"))["rows"]:
        case = row["case"]
        if case["function"] != "integer-labels":
            continue
        key = (*case["shape"], case["dtype"], case["quantity"], case["logits"])
        by_case.setdefault(key, {})[row["subject"]] = row
    return by_case


def each(rows, subject, cell):
    """A cell of every version, in the order of versions."""
    return ", ".join(cell(row[subject]) for row in rows)


def ratio(row):
    return f"{row['to_base']['median']:.2f}"


def mebibytes(row):
    return f"{row['temp_bytes'] / MEBIBYTE:.0f}"


def losses():
    records = [measured(f"plain_{version}") for version in (NEWEST, OLDEST)]
    for tokens, vocab in dict.fromkeys(key[:2] for key in records[0] if key[-1] == "confident"):
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
            mebibytes(rows[0]["tokamax"]),
        ]


@pytest.mark.parametrize(("first_cell", "expected"), [("tokens × V", losses), ("tokens × embed × vocab", heads)])
def test_every_cell_is_that_of_the_records(first_cell, expected):
    assert shown(first_cell) == list(expected())


def test_times_of_losses_of_logits_in_readme_are_those_of_the_records():
    columns = zip(*(cells[1:-1] for cells in losses()), strict=True)
    ordinary, confident = ([], [])
    for column, times in zip(columns, (ordinary, confident, ordinary, confident), strict=True):
        times += [float(number) for cell in column for number in cell.split(", ")]
    said = (
        f"take {min(ordinary)} to {max(ordinary)} of optax's time, with many confident tokens up to {max(confident)}."
    )
    assert said in " ".join(README.split())


def test_times_with_logits_in_the_graph_quoted_in_the_text_are_those_of_the_records():
    newest, oldest = (
        {key[:2]: float(ratio(rows["jaxsoftmax"])) for key, rows in record.items() if key[3] == "logits in the graph"}
        for record in (measured(f"plain_{NEWEST}"), measured(f"plain_{OLDEST}"))
    )
    small = newest.pop((4096, 1000)), oldest.pop((4096, 1000))
    both = [*newest.values(), *oldest.values()]
    assert (
        f"take {min(both)} to {max(both)} of optax's time from V = 8192 on, and at 4096 × 1000 {small[0]}, or "
        f"{small[1]} with 0.10.2."
    ) in TEXT


def test_times_of_softmax_quoted_in_the_text_are_those_of_the_records():
    def spread(shape):
        rows = [
            row
            for version in (NEWEST, OLDEST)
            for row in json.loads((BENCH / f"plain_{version}.json").read_text("utf-8"))["rows"]
            if row["case"]["function"] in ("softmax", "log_softmax") and row["case"]["shape"] == shape
        ]
        assert {row["case"]["logits"] for row in rows} == {"ordinary", "confident"}
        ratios = sorted(row["to_base"]["median"] for row in rows if row["subject"] == "jaxsoftmax")
        return f"{ratios[0]:.2f} to {ratios[-1]:.2f}"

    assert (
        f"take {spread([1024, 8192])} of `jax.nn`'s time at 1024 × 8192, confident rows or not, and in the short "
        f"rows of 65536 × 64 they take {spread([65536, 64])}."
    ) in TEXT


def test_every_experiment_is_in_its_table_with_the_minutes_it_took():
    table = {cells[0].strip("`"): cells for cells in shown("experiment")}
    assert list(table) == list(NAMES)
    for name, cells in table.items():
        result = json.loads((RESULTS / f"{name}.json").read_text("utf-8"))
        if not result.get("resumed"):
            seconds, minutes = result["seconds"], int(cells[-1])
            assert seconds <= 66 * minutes
            assert minutes == 1 or seconds > 40 * minutes


def test_the_accuracies_in_the_table_are_those_of_softmax_collapse():
    claim = next(cells[1] for cells in shown("experiment") if cells[0] == "`softmax_collapse`")
    conclusion = " ".join(json.loads((RESULTS / "softmax_collapse.json").read_text("utf-8"))["conclusion"])
    accuracies = [round(float(number)) for number in re.findall(r"float(?:32|64): ([\d.]+) %", conclusion)]
    assert [int(number) for number in re.findall(r"(\d+) %", claim)] == accuracies


def test_the_derived_theorems_are_those_that_the_experiment_executes():
    proved = json.loads((RESULTS / "derivation.json").read_text("utf-8"))["measurements"]["proved"]
    numbers = {int(number[1:]) for chain in proved for number in chain["theorem"].split("/")}
    cell = next(cells[2] for cells in shown("you look for") if "experiments derivation" in cells[1])
    cell = re.sub(r"\(derivations.*?\)", "", cell)
    ranges = [[int(number) for number in re.findall(r"\d+", part)] for part in cell.split(", ")]
    assert {number for first, *last in ranges for number in range(first, (last or [first])[0] + 1)} == numbers


def test_the_memory_quoted_in_the_text_is_that_of_the_records():
    record = measured(f"memory_{OLDEST}")
    first, second = (
        record[*shape, "float32", "value and gradient", "ordinary"]
        for shape in ((4096, 256, 50257), (2048, 512, 131072))
    )
    assert (
        f"{mebibytes(first['jaxsoftmax'])} MiB where optax takes {mebibytes(first['optax'])} at 4096 × 256 × 50257, "
        f"{mebibytes(second['jaxsoftmax'])} MiB for {mebibytes(second['optax'])} at 2048 × 512 × 131072"
    ) in TEXT


def test_the_time_within_a_budget_is_that_of_the_compiled_records():
    def spread(*stems):
        rows = [row for stem in stems for row in json.loads((RESULTS / f"compiled/{stem}.json").read_text())["rows"]]
        lean = [row["to_base"] for row in rows if row["case"]["function"] == "lean" and row["subject"] == "jaxsoftmax"]
        return f"{min(lean):.2f} to {max(lean):.2f}"

    tpu, h200 = spread("tpu_v5e", "tpu_v6e", "tpu_v5p"), spread("cuda_h200")
    assert (
        f"with a budget of 256 MiB the head takes {tpu} times optax's time on a TPU, and {h200} on an H200, at 8192 "
        "tokens and at 32768."
    ) in TEXT


def test_the_errors_quoted_in_the_text_cover_those_of_the_records():
    errors = {"float32": [], "bfloat16": []}
    for version in (NEWEST, OLDEST):
        for case, rows in measured(f"linear_{version}").items():
            if rows["jaxsoftmax"]["gradient_error"] is not None:
                errors[case[3]].append(float(rows["jaxsoftmax"]["gradient_error"]))
    assert "within 4.5e-7 of float64's in norm, in bfloat16 within 1.7e-3" in TEXT
    assert 4.0e-7 < max(errors["float32"]) <= 4.5e-7
    assert 1.6e-3 < max(errors["bfloat16"]) <= 1.75e-3


@pytest.mark.usefixtures("fresh_compilation")
@pytest.mark.skipif(jax.default_backend() != "cpu", reason="the quoted memory is that of a CPU")
@pytest.mark.parametrize(
    ("options", "oldest", "newest"),
    [
        ({"logit_softcap": 30.0}, 202, 202),
        pytest.param({"bias": True}, 201, 112, marks=pytest.mark.slow),
        pytest.param({"ignore_index": -1}, 165, 116, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_the_memory_of_options_quoted_in_the_text_is_what_is_compiled(options, oldest, newest):
    def loss(hidden, kernel, bias, labels):
        return linear_cross_entropy(hidden, kernel, labels, **options | ({"bias": bias} if "bias" in options else {}))

    floats = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((4096, 256), (256, 50257), (50257,))]
    labels = jax.ShapeDtypeStruct((4096,), jnp.int32)
    step = jax.jit(jax.value_and_grad(loss, (0, 1, 2) if "bias" in options else (0, 1)))
    temporary = step.lower(*floats, labels).compile().memory_analysis().temp_size_in_bytes / MEBIBYTE
    expected = oldest if jax.__version_info__ < (0, 11) else newest
    assert round(temporary) == expected
    assert f"({oldest} MiB" in TEXT


def test_the_range_of_the_other_machine_is_quoted():
    ratios = {"float32": [], "bfloat16": []}
    for key, row in measured("linear_epyc_jax_0.12").items():
        if "value and gradient" in key:
            ratios[key[3]].append(row["jaxsoftmax"]["to_base"]["median"])
    spread = {dtype: f"{min(of):.2f} to {max(of):.2f}" for dtype, of in ratios.items()}
    assert f"take {spread['float32']} of optax's time in float32, {spread['bfloat16']} in bfloat16." in TEXT
