"""The generated cases of the head by every schedule but that of `test_linear_cross_entropy`, the CPU's."""

from itertools import product

import pytest

from tests.head_cases import SCHEDULES, SEEDS, TOLERANCE, assert_is_reference, follow, generated, head_of

FIRST = [("whole rows", 70, "bfloat16"), ("whole rows, all tokens", 70, "bfloat16")]
CASES = [
    pytest.param(*case, marks=[pytest.mark.slow] * (case not in FIRST))
    for case in product(SCHEDULES[1:], SEEDS, TOLERANCE)
]


@pytest.mark.parametrize(("schedule", "seed", "dtype"), CASES)
def test_head_is_the_loss_of_materialised_logits(schedule, seed, dtype, monkeypatch):  # (M16, M24, M25, M26, M27)
    case = generated(seed)
    follow(monkeypatch, schedule, case.small)
    assert_is_reference(head_of(case), case, dtype)
