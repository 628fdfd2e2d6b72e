"""The cost model adds up, its reader reads loops and groups, and a wrong program or formula is noticed."""

import json
from dataclasses import replace
from itertools import chain

import pytest

from experiments.runner.results import DEFAULT_DIRECTORY
from experiments.scaling.claim import Found, judge, of_model, of_pod_model
from experiments.scaling.cost_model import (
    ACCELERATOR,
    CPU,
    Machine,
    Program,
    collectives,
    fastest,
    flops,
    of_large_model,
    over_pod,
    seconds,
    sent,
    temporary_bound,
)
from experiments.scaling.worker import cost

pytestmark = pytest.mark.usefixtures("fresh_compilation")
HEAD = Program(1024, 256, 32768, 2, 2)


def test_all_devices_together_take_the_flops_of_one():
    assert 4 * flops(HEAD, CPU) == flops(replace(HEAD, token_shards=1, class_shards=1), CPU) == 6 * 1024 * 256 * 32768


def test_a_single_device_has_no_collectives():
    assert collectives(replace(HEAD, token_shards=1, class_shards=1), CPU) == {}


def test_bytes_in_collectives_of_a_device_of_two_by_two():
    expected = {"all-reduce over vocab": 16 * 512 + 4 * 512 * 256, "all-reduce over data": 8 + 4 * 256 * 16384}
    assert collectives(HEAD, CPU) == expected
    assert sent(HEAD, expected) == sum(expected.values())  # 2 (q - 1)/q = 1 for q = 2


def test_bytes_sent_are_least_for_a_square_share():
    meshes = [Program(4096, 64, 4096 * 16, 256 // p_v, p_v) for p_v in (16, 32, 64, 128, 256)]
    least = min(meshes, key=lambda each: sent(each, collectives(each, ACCELERATOR)))
    assert least.own_tokens == least.own_classes


def test_chunks_change_neither_flops_nor_bytes_where_they_divide_the_tokens():
    chunked = replace(HEAD, chunk=128)
    assert (flops(chunked, CPU), collectives(chunked, CPU)) == (flops(HEAD, CPU), collectives(HEAD, CPU))


def test_sums_over_nodes_take_the_slow_links_for_a_part_alone():
    head, instant = of_large_model(16, 16), Machine(latency=0.0)
    inside, between = seconds(head, replace(instant, between=1e30)), seconds(head, replace(instant, inside=1e30))
    size = 4 * 65536 * 8192
    assert inside["dX"] == pytest.approx(2 * size * 7 / 8 / 450e9)
    assert between["dX"] == pytest.approx(2 * size / 8 * 1 / 2 / 50e9)


def test_step_is_never_shorter_than_its_products_and_fastest_is_as_fast_as_any():
    for p in (8, 64, 512):
        best = seconds(fastest(p))
        assert best["products"] < best["step"]
        assert best["step"] <= min(seconds(of_large_model(p, p_v))["step"] for p_v in (1, 8, p))


@pytest.fixture(scope="module")
def compiled():
    return cost(HEAD)


@pytest.mark.slow
def test_compiled_head_costs_what_the_model_says(compiled):
    found = Found(HEAD, compiled, of_model(HEAD))
    assert found.agrees("flops")
    assert found.agrees("collectives")
    assert found.agrees("temporary")


WRONG = {
    "flops": {"flops": 6.0},
    "collectives": {"collectives": {"all-reduce over data": 4}},
    "temporary": {"temporary": 1 << 20},
}


@pytest.mark.slow
@pytest.mark.parametrize("part", WRONG)
def test_wrong_formula_fails_its_check_alone(part, compiled):
    found = Found(HEAD, compiled, of_model(HEAD) | WRONG[part])
    failed = [check for check, holds in judge([found], _mistaken(compiled)).checks.items() if not holds]
    assert len(failed) == 1
    assert {"flops": "flops", "collectives": "bytes", "temporary": "memory"}[part] in failed[0]


@pytest.mark.slow
@pytest.mark.parametrize("part", WRONG)
def test_mistake_that_goes_unnoticed_fails(part, compiled):
    mistaken = Found(HEAD, _mistaken(compiled).measured | {part: compiled[part]}, of_model(HEAD))
    checks = judge([Found(HEAD, compiled, of_model(HEAD))], mistaken).checks
    assert [check for check, holds in checks.items() if not holds] == [list(checks)[-1]]


def _mistaken(compiled):
    measured = {"flops": 2 * compiled["flops"], "collectives": {}, "temporary": 10 * compiled["temporary"]}
    return Found(HEAD, measured, of_model(HEAD))


@pytest.mark.slow
@pytest.mark.parametrize("other", [{"kernel": "FSDP"}, {"hidden": "both"}, {"bias": True}], ids=str)
def test_arguments_sharded_otherwise_are_noticed_in_the_bytes(other, compiled):
    assert cost(replace(HEAD, **other))["collectives"] != compiled["collectives"] == collectives(HEAD, CPU)


@pytest.mark.slow
@pytest.mark.parametrize("vocab", [4096, 4099])
def test_gradient_of_a_kernel_that_is_not_sharded_is_gathered_where_classes_are_uneven(vocab):
    whole = Program(256, 64, vocab, 1, 4, kernel="whole")
    found = cost(whole)["collectives"]
    assert found == collectives(whole, CPU)
    assert found.get("all-gather over vocab", 0) == (4 * 64 * 4100 if vocab % 4 else 0)


@pytest.mark.slow
def test_all_logits_at_once_exceed_the_bound_of_chunks():
    chunked = Program(4096, 64, 8192, 1, 2, chunk=256)
    assert cost(chunked)["temporary"] <= temporary_bound(chunked, CPU)
    assert cost(replace(chunked, chunk=4096))["temporary"] > temporary_bound(chunked, CPU)


def test_results_are_of_the_whole_experiment_and_agree_with_the_model():
    document = json.loads((DEFAULT_DIRECTORY / "scaling.json").read_text(encoding="utf-8"))
    assert document["passed"]
    assert not document["quick"]
    for each in document["measurements"]["programs"]:
        assert each["model"] == of_model(Program(**each["program"]))
    pods = document["measurements"]["pods"]
    assert len(pods) == 2
    for each in chain.from_iterable(pods.values()):
        assert each["model"] == of_pod_model(Program(**each["program"]))


def test_a_collective_over_a_pod_that_the_model_lacks_fails():
    right = over_pod(1 << 20, 1 << 17, 32, 8, "classes")
    measured = of_pod_model(right)
    found = Found(HEAD, of_model(HEAD), of_model(HEAD))
    for changed, holds in (
        (measured["collectives"], True),
        (measured["collectives"] | {"all-gather over data": 4}, False),
    ):
        of_pod = Found(right, measured | {"collectives": changed}, of_pod_model(right))
        checks = judge([found], _mistaken(of_model(HEAD)), {"tpu:v5e:16x16": [of_pod]}).checks
        assert [name for name, held in checks.items() if not held] == (
            [] if holds else ["over a pod, each program's bytes in each collective are the model's"]
        )
