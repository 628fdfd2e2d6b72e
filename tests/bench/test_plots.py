"""Lines are drawn along sweeps alone, and their power is the fitted one."""

import pytest

from jaxsoftmax.bench._case import GRADIENT, Case
from jaxsoftmax.bench._plots import draw, slope, sweeps
from jaxsoftmax.bench._presets import PRESETS, cases_of
from tests.bench.records import row


def _linear(*shape, dtype="float32"):
    return Case("linear", shape, dtype, quantity=GRADIENT)


def test_the_preset_sweep_has_a_sweep_along_either_axis():
    cases = cases_of(PRESETS["sweep"], None, [], [], [], quick=False)
    by_vocab, by_tokens = sweeps(cases)
    assert [case.vocab for case in by_vocab.cases] == [2048, 4096, 8192, 16384, 32768, 65536]
    assert [case.tokens for case in by_tokens.cases] == [256, 512, 1024, 2048, 4096]
    assert (by_vocab.fixed, by_tokens.fixed) == ("N = 1024, D = 256", "D = 256, V = 16384")


@pytest.mark.parametrize(
    "others", [(), (_linear(2, 3, 5, dtype="bfloat16"),), (_linear(4, 3, 9),), (_linear(2, 4, 5),)]
)
def test_a_single_point_is_no_sweep(others):
    assert sweeps([_linear(2, 3, 5), *others]) == ()


def test_the_longest_sweep_is_drawn_in_the_order_of_its_axis():
    (sweep,) = sweeps([_linear(2, 3, 9), _linear(2, 3, 5), _linear(7, 3, 4), _linear(2, 3, 7), _linear(7, 3, 8)])
    assert [sweep.at(case) for case in sweep.cases] == [5, 7, 9]


def test_the_slope_of_a_power_is_the_power():
    assert slope([(x, 3.0 * x**1.5) for x in (1, 2, 5, 9)]) == pytest.approx(1.5)
    assert slope([(1, 2.0)]) is None


def test_the_figure_is_drawn_where_nothing_is_known_of_memory():
    cases = [_linear(2, 3, 5), _linear(2, 3, 50)]
    assert draw([row(case, temp_bytes=None) for case in cases], sweeps(cases), "").startswith(b"\x89PNG\r\n\x1a\n")


def test_the_figure_is_a_png_also_where_a_subject_failed_or_takes_no_memory():
    cases = [_linear(2, 3, 5), _linear(2, 3, 50), _linear(4, 3, 5)]
    rows = [row(case, subject) for case in cases for subject in ("jaxsoftmax", "optax", "floor")]
    rows += [row(case, "torch", temp_bytes=None) for case in cases] + [row(cases[0], "jax", seconds=None, failure="no")]
    image = draw(rows, sweeps(cases), "A processor, 2 cores")
    assert image.startswith(b"\x89PNG\r\n\x1a\n")
    assert image.endswith(b"IEND\xaeB`\x82")
