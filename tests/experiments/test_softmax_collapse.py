"""The runs of the softmax collapse are comparable and go on after a kill, and a claim that doesn't hold is noticed."""

import itertools
from dataclasses import replace
from functools import partial

import jax
import numpy as np
import pytest

from experiments.data.modular_addition import Sums, initial_layers, logits_of, split_table
from experiments.runner.checkpoints import Checkpoints
from experiments.softmax_collapse import claim as softmax_collapse
from experiments.softmax_collapse import training
from experiments.softmax_collapse.training import (
    DOUBLE,
    LIBRARY,
    METHODS,
    OPTAX,
    SCALE,
    STEPS_A_CALL,
    UNSCALED,
    Metrics,
    Setting,
    gradient_of,
    metrics_of,
    one_step,
    start,
    train_all,
)

SMALL = Setting(modulus=5, width=8, rate=4e-3, steps=2 * STEPS_A_CALL, seeds=(3,))


compiled_gradient_of = jax.jit(gradient_of, static_argnums=2)
compiled_step = jax.jit(one_step, static_argnums=(2, 3))
compiled_metrics_of = jax.jit(metrics_of, static_argnums=3)
compiled_start = jax.jit(start, static_argnums=(0, 1, 2))


def started(method):
    """The first parameters and the optimiser's state, in the method's precision."""
    with jax.enable_x64(method.dtype == "float64"):
        return compiled_start(SMALL, method, 3)


def bits(tree):
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(tree)]


def confident_layers(gap):
    """Layers whose logits don't depend on their input: ``gap`` for 0, and 0 for the four others."""
    shapes = jax.eval_shape(partial(initial_layers, 5, 8, seed=0))
    layers = jax.tree.map(lambda array: np.zeros(array.shape, array.dtype), shapes)
    layers[-1][1][0] = gap
    return layers


ZEROS = Sums(*(np.array(column, np.int32) for column in ([0, 1, 2], [0, 4, 3], [0, 0, 0])))


def test_split_is_of_the_whole_table():
    train, test = split_table(7, seed=1)
    assert (len(train.total), len(test.total)) == (29, 20)
    both = {pair for part in (train, test) for pair in zip(part.first.tolist(), part.second.tolist(), strict=True)}
    assert both == set(itertools.product(range(7), repeat=2))
    assert all(((part.first + part.second) % 7 == part.total).all() for part in (train, test))


@pytest.mark.slow
def test_network_takes_the_one_hot_vectors_of_both_numbers():
    train, _ = split_table(7, seed=1)
    layers = jax.jit(partial(initial_layers, 7, 8, seed=1))()
    hidden = np.concatenate([np.eye(7, dtype=np.float32)[column] for column in train[:2]], axis=1)
    for index, (kernel, bias) in enumerate(layers):
        hidden = (np.maximum(hidden, 0) if index else hidden) @ np.asarray(kernel) + np.asarray(bias)
    np.testing.assert_allclose(jax.jit(logits_of)(layers, train), hidden, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_every_method_starts_from_the_same_parameters():
    starts = [started(method)[0] for method in (*METHODS, UNSCALED)]
    assert {leaf.dtype.name for leaf in jax.tree.leaves(starts[METHODS.index(DOUBLE)])} == {"float64"}
    assert all(bits(jax.tree.map(np.float64, layers)) == bits(jax.tree.map(np.float64, starts[0])) for layers in starts)


@pytest.mark.slow
def test_scale_multiplies_the_gradient_and_leaves_the_step_bit_for_bit():
    train, _ = split_table(SMALL.modulus, seed=3)
    before = started(LIBRARY)
    gradients = [compiled_gradient_of(before[0], train, method) for method in (LIBRARY, UNSCALED)]
    assert bits(gradients[0]) == bits(jax.tree.map(partial(np.multiply, np.float32(SCALE)), gradients[1]))
    after = [compiled_step(before, train, SMALL, method)[0] for method in (LIBRARY, UNSCALED)]
    assert bits(after[0]) == bits(after[1]) != bits(before[0])


@pytest.mark.slow
def test_without_the_scale_the_squares_of_small_gradients_underflow():
    _, state = started(LIBRARY)
    before = confident_layers(60.0)
    sums = Sums(*(np.tile(column, 5) for column in ZEROS))  # a step is compiled for that many
    after = [compiled_step((before, state), sums, SMALL, method)[0] for method in (LIBRARY, UNSCALED)]
    moved = [float(np.max(np.abs(layers[-1][1] - before[-1][1]))) for layers in after]
    assert moved[0] == pytest.approx(SMALL.rate, rel=1e-3)
    assert moved[1] > 1.0


@pytest.mark.slow
@pytest.mark.parametrize(("method", "loss", "label_zero"), [(OPTAX, 0.0, 1.0), (LIBRARY, 4 * np.exp(-20.0), 0.0)])
def test_metrics_of_a_confident_network(method, loss, label_zero):
    layers = confident_layers(20.0)
    found = compiled_metrics_of(layers, ZEROS, ZEROS._replace(total=np.array([0, 0, 1])), method)
    assert found.loss == pytest.approx(loss, rel=1e-6, abs=0)
    assert found.exact_loss == pytest.approx(4 * np.exp(-20.0), rel=1e-6, abs=0)
    assert (found.mean_gap, found.label_zero, found.whole_zero) == (20.0, label_zero, 0.0)
    assert found.test_accuracy == pytest.approx(2 / 3)
    labels = 4 * np.exp(-20.0) * (1 - label_zero)
    assert found.gradient_norm == pytest.approx(np.hypot(labels, 2 * np.exp(-20.0)), rel=1e-5, abs=0)


@pytest.mark.slow
def test_run_that_is_killed_goes_on_bit_for_bit(tmp_path, monkeypatch, capfd):
    uninterrupted = train_all(SMALL, Checkpoints(tmp_path / "a"))
    monkeypatch.setattr(training, "_SECONDS_BETWEEN_CHECKPOINTS", 0.0)
    steps = itertools.count(-1)  # the first report is of the steps before this start

    def killed_in_the_third_run(count):
        if next(steps) == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_all(SMALL, Checkpoints(tmp_path / "b"), killed_in_the_third_run)
    assert bits(train_all(SMALL, Checkpoints(tmp_path / "b"))) == bits(uninterrupted)
    assert f"resuming at step {5 * STEPS_A_CALL} " in capfd.readouterr().err
    counts = []
    assert bits(train_all(SMALL, Checkpoints(tmp_path / "b"), counts.append)) == bits(uninterrupted)
    assert counts == [4 * SMALL.steps]


STEPS = np.arange(1, 41)


def collapsing(gap):
    """Curves of a gap that ends at ``gap`` nats, which from 17 on has no loss and no labels' gradients."""
    found = falling(gap)
    gone = found.mean_gap > 17.0
    stuck = np.exp(-np.minimum(found.mean_gap, 18.0))
    return found._replace(loss=np.where(gone, 0.0, found.loss), exact_loss=stuck, label_zero=1.0 * gone)


def falling(gap):
    """Curves of a gap that grows to ``gap`` nats, with a loss of its exponential."""
    gaps = np.minimum(STEPS, gap) * 1.0
    curves = dict.fromkeys(Metrics._fields, np.zeros(len(STEPS)))
    loss = np.exp(-gaps)
    return Metrics(**curves | {"loss": loss, "exact_loss": loss, "gradient_norm": loss, "mean_gap": gaps})


def judged(optax, library):
    setting = replace(SMALL, steps=len(STEPS) * STEPS_A_CALL, seeds=(0, 1))
    good = {OPTAX: collapsing(20), LIBRARY: falling(40), DOUBLE: collapsing(30), UNSCALED: falling(40)}
    runs = {(method.name, seed): good[method] for method, seed in setting.runs}
    runs |= {(OPTAX.name, 1): optax, (LIBRARY.name, 1): library}
    checks = softmax_collapse.judge(setting, runs).checks
    return [check.split(",")[0] for check, holds in checks.items() if not holds]


def test_claim_holds_where_one_collapses_and_the_other_goes_on():
    assert judged(collapsing(20), falling(40)) == []


ZERO = "in float32 optax's loss becomes exactly 0"
LOST = "in float32 optax leaves 10 % of the labels without a gradient"
KEPT = "in float32 this library's loss is never 0 in a record"
STALLS = f"from there on optax's networks keep over {softmax_collapse.STALL:g} of their loss"
FALLS = f"this library's loss falls to less than {softmax_collapse.FALL:g} of what it was where optax's became 0"
WIDER = "its logit gap ends wider than optax's ever is in float32"


@pytest.mark.parametrize(
    ("optax", "library", "failing"),
    [
        (collapsing(20), collapsing(20), [KEPT, FALLS, WIDER]),  # optax's loss in this library's place
        (falling(40), falling(40), [ZERO, LOST, STALLS, FALLS, WIDER]),
        (collapsing(16), falling(40), [ZERO, LOST, STALLS, FALLS]),
        (collapsing(20), falling(21), [FALLS]),
        (collapsing(35), falling(30), [WIDER]),
        (collapsing(20)._replace(exact_loss=falling(24).exact_loss), falling(40), [STALLS]),
        (collapsing(20)._replace(loss=falling(20).loss), falling(40), [ZERO, STALLS, FALLS]),
        (collapsing(20)._replace(label_zero=falling(20).label_zero), falling(40), [LOST]),
    ],
)
def test_claim_that_fails_with_one_seed_is_noticed(optax, library, failing):
    assert judged(optax, library) == failing


def test_one_label_that_loses_its_gradient_once_is_noticed():
    library = falling(40)
    library.label_zero[7] = 1e-4
    assert judged(collapsing(20), library) == [KEPT]
