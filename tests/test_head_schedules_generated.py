"""Generated cases of the head, few that show each pair of facts, by every schedule but a CPU's (which takes all)."""

from tests.head_cases import PAIRWISE, SCHEDULES, TOLERANCE, assert_is_reference, follow, generated, head_of
from tests.tiers import in_tiers

FIRST = [("whole rows", 70, "bfloat16"), ("whole rows, all tokens", 70, "bfloat16")]
# Each schedule in each dtype: a case in one of them, the next in the next.
EVERY = [
    (schedule, seed, tuple(TOLERANCE)[(number + at) % len(TOLERANCE)])
    for at, schedule in enumerate(SCHEDULES[1:])
    for number, seed in enumerate(PAIRWISE)
]


@in_tiers(("schedule", "seed", "dtype"), list(dict.fromkeys(FIRST + EVERY)), FIRST)
def test_head_is_the_loss_of_materialised_logits(schedule, seed, dtype, monkeypatch):  # (M16, M24, M25, M26, M27)
    case = generated(seed)
    follow(monkeypatch, schedule, case.small)
    assert_is_reference(head_of(case), case, dtype)
