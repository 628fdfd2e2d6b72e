"""Rounds are interleaved, and ratios are taken within a round."""

from jaxsoftmax.bench._timing import FEWEST, MOST, Spread, interleaved, ratios, spread


def _clocks(calls, **seconds):
    """Clocks that note who was asked, and answer with the next of their seconds."""

    def clock(name, answers):
        def ask():
            calls.append(name)
            return next(answers)

        return ask

    return {name: clock(name, iter(answers)) for name, answers in seconds.items()}


def test_subjects_take_turns():
    calls = []
    times = interleaved(_clocks(calls, a=[1.0, 2.0], b=[3.0, 4.0], c=[5.0, 6.0]), budget=0.0, repetitions=2)
    assert calls == ["a", "b", "c"] * 2
    assert times == {"a": [1.0, 2.0], "b": [3.0, 4.0], "c": [5.0, 6.0]}


def test_there_are_at_least_the_fewest_rounds_and_then_those_that_fit():
    slow, fit = ([1.0] * MOST, [0.25] * MOST)
    assert len(interleaved(_clocks([], a=slow), budget=0.5, repetitions=None)["a"]) == FEWEST
    assert len(interleaved(_clocks([], a=fit), budget=2.5, repetitions=None)["a"]) == 10
    assert len(interleaved(_clocks([], a=fit), budget=99.0, repetitions=None)["a"]) == MOST


def test_a_machine_that_slows_down_leaves_the_ratio_alone():
    assert ratios([1.0, 10.0, 100.0], [2.0, 20.0, 200.0]) == Spread(0.5, 0.5, 0.5)


def test_the_spread_is_the_quartiles():
    assert spread([4.0, 1.0, 2.0, 3.0, 5.0]) == Spread(2.0, 3.0, 4.0)
    assert spread([7.0]) == Spread(7.0, 7.0, 7.0)
