"""Token statistics, sparse labels, loss parts and distillation, over rows and in heads: cases, by closed forms.

Each function has 216 cases: 12 programs, with 18 draws of numbers each.
"""

from itertools import product

import jax
import pytest

from jaxsoftmax import _loss_parts, forward_mode
from jaxsoftmax._math import divergence, log_ratio, row_stats, sparse_loss
from tests.generated_programs import FEW, FUNCTIONS, PROGRAMS, assert_is_textbook, generated, traits
from tests.head_cases import SCHEDULES, follow
from tests.tiers import in_tiers

DTYPES = ("float32", "bfloat16", "float64")
# Which programs every run judges, and in which dtype; all others are judged nightly.
FIRST = [
    ("stats", "rows", 3, "bfloat16"),
    ("stats", "head", 3, "bfloat16"),
    ("sparse", "rows", 8, "float32"),
    ("integer", "head", 3, "float32"),
    ("distillation", "head", 3, "bfloat16"),  # a mean
    ("distillation", "head", 8, "float32"),  # unreduced
]


# Each program in one dtype or two, each function in each: a program in the first, the next in the next.
CASES = [
    (*function, number, dtype)
    for function in FUNCTIONS
    for number in PROGRAMS
    for dtype in ("float32", DTYPES[2 - number % 2])
]
HEADS = [function for function in FUNCTIONS if function[1] == "head"]


def test_programs_show_every_keyword_with_each_kind_of_constant():
    for family in ("stats", "sparse", "integer", "distillation"):
        shown = set().union(*(traits(generated(family, "head", number)) for number in PROGRAMS))
        names = {name for trait in shown for name in (trait if isinstance(trait, tuple) else (trait,))}
        constants = {"stats": {"temperature", "logit_softcap"}, "distillation": {"temperature"}}
        wanted = constants.get(family, {"logit_softcap", "label_smoothing", "z_loss"})
        assert {(name, traced) for name in wanted for traced in (False, True)} <= shown
        assert "bias" in names
        assert family == "distillation" or {("transposed_kernel", True), ("transposed_kernel", False)} <= shown


@pytest.mark.parametrize(("family", "level"), FUNCTIONS)
def test_few_programs_show_every_trait_of_all(family, level):
    of_few, of_all = (set().union(*(traits(generated(family, level, n)) for n in each)) for each in (FEW, PROGRAMS))
    assert of_few == of_all


@in_tiers(("family", "level", "number", "dtype"), CASES, FIRST)
def test_value_gradients_and_hessian_are_those_of_the_textbook(family, level, number, dtype, monkeypatch):
    # (M16, M24, M27, M28, M29, M30, M31, M32, M33)
    follow(monkeypatch, "CPU")
    assert_is_textbook(generated(family, level, number), dtype)


SCHEDULED = [
    (schedule, family, number, DTYPES[(number + at) % 2])
    for (at, schedule), (family, _) in product(enumerate(SCHEDULES[1:]), HEADS)
    if family == "integer" or "all tokens" not in schedule  # a loop for losses of integer labels
    for number in FEW
]


@pytest.mark.slow
@pytest.mark.parametrize(("schedule", "family", "number", "dtype"), SCHEDULED)
def test_heads_are_the_textbook_by_every_schedule(schedule, family, number, dtype, monkeypatch):
    follow(monkeypatch, schedule, classes=5)
    assert_is_textbook(generated(family, "head", number), dtype)


VMAPPED = [(*function, number) for function in FUNCTIONS for number in FEW]
FIRST_VMAPPED = [("stats", "rows", 9), ("sparse", "rows", 7), ("distillation", "head", 9)]


@in_tiers(("family", "level", "number"), VMAPPED, FIRST_VMAPPED)
def test_a_vmapped_batch_of_arguments_is_the_textbook_of_each(family, level, number, monkeypatch):
    follow(monkeypatch, "CPU")
    assert_is_textbook(generated(family, level, number), "float32", vmapped=True)


FORWARD = [(*function, number, DTYPES[number % 2]) for function in FUNCTIONS for number in FEW]


@pytest.mark.slow
@pytest.mark.parametrize(("family", "level", "number", "dtype"), FORWARD)
def test_forward_mode_variants_are_the_textbook(family, level, number, dtype, monkeypatch):
    follow(monkeypatch, "CPU")
    call = getattr(forward_mode, FUNCTIONS[family, level])
    assert_is_textbook(generated(family, level, number), dtype, call=call)


def without_margins(coefs, z, state, _true=row_stats.stats_entries):
    return _true(coefs._replace(margin_coef=None), z, state)


def tilted(place):
    """The function with its result, or the last part of it, 1e-4 too large."""

    def of(*arguments, _true=place):
        result = _true(*arguments)
        return (*result[:-1], 1.0001 * result[-1]) if isinstance(result, tuple) else 1.0001 * result

    return of


def sums_not_divided(reduction, *arguments, _true=_loss_parts.loss_parts, **keywords):
    return _true("none" if reduction == "none" else "sum", *arguments, **keywords)


WRONG = {  # where, the wrong rule, and a program that shows it
    "no margins in the entropy's gradient": (row_stats, "stats_entries", without_margins, ("stats", "head", 3)),
    "a mean margin": (row_stats, "mean_margin", tilted(row_stats.mean_margin), ("stats", "rows", 2)),
    "what is added at sparse labels": (
        sparse_loss,
        "sparse_gradient",
        tilted(sparse_loss.sparse_gradient),
        ("sparse", "head", 8),
    ),
    "the regularizer of sparse labels": (sparse_loss, "regularizer", lambda *_: None, ("sparse", "rows", 8)),
    "loss parts that are no means": (
        "jaxsoftmax._cross_entropy",
        "loss_parts",
        sums_not_divided,
        ("integer", "rows", 3),
    ),
    "terms of a divergence": (divergence, "phi", tilted(divergence.phi), ("distillation", "rows", 8)),
    "q - p": (divergence, "excess", tilted(divergence.excess), ("distillation", "rows", 1)),
    "log-ratios": (log_ratio, "log_ratio", tilted(log_ratio.log_ratio), ("distillation", "head", 3)),
}


@in_tiers("name", WRONG, first=["no margins in the entropy's gradient"])
def test_a_wrong_equation_is_caught(name, monkeypatch):
    module, attribute, wrong, program = WRONG[name]
    follow(monkeypatch, "CPU")
    target = f"{module}.{attribute}" if isinstance(module, str) else f"{module.__name__}.{attribute}"
    monkeypatch.setattr(target, wrong)
    with pytest.raises(AssertionError):
        assert_is_textbook(generated(*program), "float32", draws=range(2))
    monkeypatch.undo()
    jax.clear_caches()
