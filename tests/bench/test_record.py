"""A record survives being written down."""

import json
import math

import pytest

from jaxsoftmax.bench._record import record_from
from tests.bench.records import LINEAR, record, row


def test_a_record_is_read_back_as_it_was():
    made = record(row(), row(LINEAR, "tokamax", seconds=None, failure="ValueError: no"), row(gradient_error=math.inf))
    assert record_from(json.loads(json.dumps(made.as_dict(), allow_nan=False))) == made


def test_an_error_of_nan_is_read_back_as_nan():
    document = json.loads(json.dumps(record(row(worst_token_error=math.nan)).as_dict(), allow_nan=False))
    assert document["rows"][0]["worst_token_error"] == "nan"
    assert math.isnan(record_from(document).rows[0].worst_token_error)


@pytest.mark.parametrize(
    "plant",
    [
        lambda document: document.pop("machine"),
        lambda document: document["rows"][0].pop("to_base"),
        lambda document: document["rows"][0]["case"].update(kind="quadratic"),
        lambda document: document["rows"][0]["case"].update(shape=[1]),
        lambda document: document["rows"][0]["case"].update(shape=[-1, 4, 32]),
        lambda document: document["rows"][0]["case"].update(shape=[1e999, 4, 32]),
        lambda document: document["rows"][0]["case"].update(shape=[10**30, 4, 32]),
        lambda document: document["rows"][0].update(gradient_error=10**400),
        lambda document: document["rows"][0].update(temp_bytes="10"),
        lambda document: document["rows"][0].update(failure={"a": 1}),
        lambda document: document.update(machine=["a processor"]),
        lambda document: document.update(versions="0.1.0"),
        lambda document: document["rows"][0]["seconds"].update(median="long"),
        lambda document: document.update(rows=[1]),
    ],
)
def test_what_is_no_record_is_refused(plant):
    document = json.loads(json.dumps(record().as_dict()))
    plant(document)
    with pytest.raises(ValueError, match="no record of a benchmark"):
        record_from(document)
