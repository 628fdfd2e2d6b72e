"""A few random rows of every kind, judged by 50 digits; `python -m tests.random_rows` tries as many as are wanted."""

import jax
import optax

from tests import random_rows
from tests.tiers import in_tiers


@in_tiers("seed", [1, 2], first=[1])
def test_nothing_is_further_off_than_its_conditioning(seed):
    worst = random_rows.worst_of(seed, 100)
    assert {name: found for name, found in worst.items() if found[0] > 1} == {}


def test_a_textbook_formula_is_caught(monkeypatch):
    program, loss = random_rows.PROGRAM, jax.jit(optax.softmax_cross_entropy_with_integer_labels)

    def textbook(x, b, v, y):
        return program(x, b, v, y) | {"integer label": loss(x, y)}

    monkeypatch.setattr(random_rows, "PROGRAM", textbook)
    assert random_rows.worst_of(1, 100)["integer label"][0] > 1e3
