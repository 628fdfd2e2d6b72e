"""Both losses give one curve, a killed run too, in either framework; and what would be wrong is noticed."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from experiments.data.corpus import Corpus
from experiments.data.token_sequences import PADDING, batch_of, token_data
from experiments.language_model.claim import CURVE_TOLERANCE, FULL, Findings, Job, judge
from experiments.language_model.gradient_accumulation import (
    Accumulation,
    Apart,
    accumulation,
    apart,
    with_uneven_padding,
)
from experiments.language_model.runs import Kind, relative_differences
from experiments.language_model.step_costs import Costs, head_bytes
from experiments.language_model.text_sample import sample
from experiments.language_model.training import FUSED, LOSSES, MATERIALISED, Trainer, fused, materialised, train
from experiments.models.transformer import Sizes, nnx_model
from experiments.models.transformer_equinox import equinox_model
from experiments.runner.checkpoints import Checkpoints

ROOT = Path(__file__).parents[2]
SIZES = Sizes(vocabulary=300, length=32, embed=16, layers=1, heads=2, tied=True)
BATCH, STEPS = 16, 8  # 512 tokens a step: two chunks of the fused head


def written_paragraphs(count):
    """Invented words, the first of them often; the same always."""
    random = np.random.default_rng(0)
    letters = [chr(letter) for letter in random.integers(ord("a"), ord("z") + 1, 4000)]
    words = ["".join(letters[4 * word : 4 * word + length]) for word, length in enumerate(random.integers(1, 9, 900))]
    lengths = random.integers(3, 120, count)
    return [" ".join(words[min(rank, 900) - 1] for rank in random.zipf(1.3, length)) for length in lengths]


@pytest.fixture(scope="module")
def data():
    """Each paragraph as a file of its own, for more padding."""
    paragraphs = written_paragraphs(200)
    return token_data(Corpus("paragraphs", len(paragraphs), paragraphs, paragraphs[:9]), SIZES.vocabulary, SIZES.length)


@pytest.fixture(scope="module")
def model():
    return nnx_model(SIZES, seed=0)


def losses_of(model, loss, data, directory):
    trainer, batches = Trainer(model, loss, STEPS), partial(batch_of, data.train, BATCH, 0)
    step = trainer.compiled_step(batches(0))
    return train(trainer.first_state(), step, batches, STEPS, Checkpoints(directory), 100).losses


def divided_by_all_tokens(hidden, kernel, labels):
    losses = optax.softmax_cross_entropy_with_integer_labels(hidden @ kernel, labels)
    return jnp.mean(jnp.where(labels == PADDING, 0.0, losses))


@pytest.mark.slow
@pytest.mark.parametrize("tied", [True, False])
def test_curves_of_both_losses_and_both_frameworks_are_equal(data, tied, tmp_path):
    sizes = dataclasses.replace(SIZES, tied=tied)
    nnx = nnx_model(sizes, seed=0)
    equinox = equinox_model(sizes, nnx.parameters)
    curves = {name: losses_of(nnx, loss, data, tmp_path / name) for name, loss in LOSSES.items()}
    assert np.max(relative_differences(curves[FUSED], curves[MATERIALISED])) < CURVE_TOLERANCE / 10
    of_equinox = losses_of(equinox, fused, data, tmp_path / "e")
    assert np.max(relative_differences(of_equinox, curves[FUSED])) < CURVE_TOLERANCE / 10
    wrong = losses_of(nnx, divided_by_all_tokens, data, tmp_path / "wrong")
    assert np.max(relative_differences(wrong, curves[MATERIALISED])) > 10 * CURVE_TOLERANCE


@pytest.mark.slow
@pytest.mark.parametrize("tied", [True, False])
def test_equinox_module_with_the_parameters_of_nnx_has_its_hidden_states_and_kernel(data, tied):
    sizes = dataclasses.replace(SIZES, layers=2, tied=tied)
    nnx = nnx_model(sizes, seed=3)
    equinox = equinox_model(sizes, nnx.parameters)
    for mine, its in zip(
        *(jax.jit(of.forward)(of.parameters, data.train[:2, :-1]) for of in (equinox, nnx)), strict=True
    ):
        np.testing.assert_allclose(mine, its, rtol=0, atol=1e-5 * np.abs(its).max())


@pytest.mark.slow
def test_hidden_states_see_no_later_token(model):
    tokens = np.random.default_rng(0).integers(PADDING + 1, SIZES.vocabulary, (1, SIZES.length))
    changed = np.where(np.arange(SIZES.length) < 20, tokens, PADDING)
    before, after = (jax.jit(model.forward)(model.parameters, each)[0] for each in (tokens, changed))
    np.testing.assert_array_equal(before[:, :20], after[:, :20])
    assert (before[:, 20:] != after[:, 20:]).any()


@pytest.mark.slow
@pytest.mark.parametrize("steps", [1, 2])
def test_fewest_steps_have_a_rate(model, steps):
    parameters = Trainer(model, fused, steps).first_state().parameters
    assert jax.tree.structure(parameters) == jax.tree.structure(model.parameters)


@jax.jit
def losses_by_name(hidden, kernel, labels):
    return {loss.__name__: loss(hidden, kernel, labels) for loss in (materialised, fused, divided_by_all_tokens)}


@pytest.mark.slow
def test_loss_is_the_mean_over_the_tokens_that_are_not_padding(data):
    labels = with_uneven_padding(data.train, BATCH)[:, 1:]
    real = labels != PADDING
    assert 0.05 < real.mean() < 0.95
    random = np.random.default_rng(0)
    hidden, kernel = random.normal(size=(*labels.shape, SIZES.embed)), random.normal(size=(SIZES.embed, 300))
    logits = hidden[real] @ kernel
    expected = np.mean(np.logaddexp.reduce(logits, axis=1) - logits[np.arange(real.sum()), labels[real]])
    found = losses_by_name(hidden.astype(np.float32), kernel.astype(np.float32), labels)
    np.testing.assert_allclose(found["materialised"], expected, rtol=1e-6)
    np.testing.assert_allclose(found["fused"], expected, rtol=1e-6)
    np.testing.assert_allclose(found["divided_by_all_tokens"], expected * real.mean(), rtol=1e-6)


@pytest.mark.slow
def test_gradients_of_parts_are_the_whole_batchs_but_not_as_the_mean_of_means(model, data):
    found = accumulation(model, data.train, BATCH)
    assert found.is_uneven
    assert found.sums.holds
    assert found.mean_of_means.gradients > 1e-2


def test_gradient_of_one_parameter_that_is_not_a_number_is_noticed():
    whole = np.float32(1), {"a": np.ones(2, np.float32), "b": np.ones(2, np.float32)}
    broken = whole[0], whole[1] | {"b": np.float32([1, np.nan])}
    assert apart(whole, whole).holds
    assert not apart(broken, whole).holds


@pytest.mark.slow
@pytest.mark.usefixtures("fresh_compilation")
def test_fused_head_takes_less_than_a_quarter_of_the_memory_at_32k():
    taken = {
        name: head_bytes(loss, dataclasses.replace(FULL.sizes, tied=True), FULL.batch) for name, loss in LOSSES.items()
    }
    assert taken[MATERIALISED] >= 2 * 4 * 2048 * 32768
    assert taken[FUSED] <= taken[MATERIALISED] / 4


@pytest.mark.slow
def test_sample_continues_the_prompt_and_the_same_seed_writes_the_same(model, data):
    write = partial(sample, model, data.tokenizer, "import ", length=24)
    texts = [write(temperature=1.0, seed=seed) for seed in (0, 0, 1)]
    assert texts[0] == texts[1] != texts[2]
    assert all(text.startswith("import ") for text in texts)
    assert write(temperature=0.0, seed=0) == write(temperature=0.0, seed=1)
    assert "<|padding|>" not in "".join(texts)


class KilledError(Exception):
    """Stands for the end of the process."""


@pytest.mark.slow
def test_run_that_ends_midway_goes_on_to_the_same_curve_and_parameters_bit_for_bit(model, data, tmp_path, capsys):
    trainer, asked = Trainer(model, fused, STEPS), []
    step = trainer.compiled_step(data.train[:BATCH])

    def batches(number, dies_at=None):
        asked.append(number)
        if number == dies_at:
            raise KilledError
        return batch_of(data.train, BATCH, 0, number)

    def take(name, batches):
        return train(trainer.first_state(), step, batches, STEPS, Checkpoints(tmp_path / name), between=2)

    whole = take("whole", batches)
    with pytest.raises(KilledError):
        take("killed", partial(batches, dies_at=5))
    asked.clear()
    resumed = take("killed", batches)
    assert asked == [4, 5, 6, 7]
    assert "resuming at step 4" in capsys.readouterr().err
    for mine, its in zip(jax.tree.leaves(resumed), jax.tree.leaves(whole), strict=True):
        np.testing.assert_array_equal(mine, its)


@pytest.mark.slow
def test_killed_command_started_again_gives_the_curves_of_one_that_ran_through(tmp_path):
    results = {name: tmp_path / name for name in ("through", "killed")}
    corpus = tmp_path / "corpus"
    corpus.write_text("\n\n".join(written_paragraphs(400)))
    command = [sys.executable, "-m", "experiments", "language_model", "--quick", "--corpus", str(corpus)]
    commands = {name: [*command, "--results", str(place)] for name, place in results.items()}
    with subprocess.Popen(commands["killed"], cwd=ROOT, stderr=subprocess.DEVNULL) as process:
        in_the_second_run = f".language_model.{FUSED}-tied-*.checkpoints/[0-9][0-9]"
        while not any(results["killed"].glob(in_the_second_run)):
            assert process.poll() is None
            time.sleep(0.02)
        os.kill(process.pid, signal.SIGKILL)
    again, through = (
        subprocess.run(commands[name], cwd=ROOT, capture_output=True, text=True) for name in ("killed", "through")
    )
    assert again.returncode == through.returncode == 0, again.stderr + through.stderr
    assert again.stderr.count("resuming at step") >= 2
    assert "resuming" not in through.stderr
    found = [json.loads((place / "language_model.json").read_text())["measurements"] for place in results.values()]
    for kind in ("tied", "untied"):
        assert found[0]["models"][kind]["losses"] == found[1]["models"][kind]["losses"]
    assert found[0]["samples"] == found[1]["samples"]
    assert {path.name for path in results["killed"].iterdir()} == {"language_model.json", "language_model.png"}


def found_as_claimed(**changes):
    losses = np.linspace(10.0, 7.0, FULL.steps, dtype=np.float32)
    costs = Costs(
        {MATERIALISED: [2.0] * 5, FUSED: [1.9] * 5},
        {MATERIALISED: 600 << 20, FUSED: 150 << 20},
        {MATERIALISED: 512 << 20, FUSED: 100 << 20},
    )
    both = {MATERIALISED: losses, FUSED: losses}
    kinds = [Kind(tied, both, losses, dict.fromkeys(both, 7.5), costs, None) for tied in (True, False)]
    in_parts = Accumulation([2, 1], Apart(1e-7, 1e-6), Apart(1e-2, 1.0))
    corpus = Corpus("a text", 1, ["text"], ["text"])
    found = Findings(Job(corpus, FULL), 32768, 100, 0.02, kinds, losses[:5], in_parts, {}, judges_time=True)
    return dataclasses.replace(found, **changes)


def with_kind(**changes):
    """The findings, of which the untied model has others."""
    tied, untied = found_as_claimed().kinds
    return {"kinds": [tied, dataclasses.replace(untied, **changes)]}


def with_costs(**changes):
    return with_kind(costs=dataclasses.replace(found_as_claimed().kinds[1].costs, **changes))


def curves_apart(by):
    losses = found_as_claimed().kinds[1].losses
    other = losses[FUSED].copy()
    other[-1] *= 1.0 + by
    return with_kind(losses=losses | {FUSED: other})


PLANTED = {
    "same curve": curves_apart(2e-4),
    "curve": curves_apart(np.nan),
    "temporary memory": with_costs(head_bytes={MATERIALISED: 512, FUSED: 129}),
    "no slower": with_costs(seconds={MATERIALISED: [2.0] * 5, FUSED: [2.1] * 5}),
    "held-out": with_kind(held_out={MATERIALISED: 7.5, FUSED: 10.5}),
    "summed over the parts": {"accumulation": Accumulation([2, 1], Apart(1e-7, 1e-3), Apart(1e-2, 1.0))},
    "the parts of a batch": {"accumulation": Accumulation([2, 1], Apart(1e-7, np.nan), Apart(1e-2, 1.0))},
    "means is noticed": {"accumulation": Accumulation([2, 1], Apart(0.0, 0.0), Apart(0.0, 0.0))},
    "Equinox": {"equinox": np.linspace(10.0, 9.0, 5, dtype=np.float32)},
}


@pytest.mark.parametrize("part", PLANTED)
def test_each_part_of_the_claim_fails_on_its_own(part):
    checks = judge(found_as_claimed(**PLANTED[part])).checks
    assert [part in check for check, holds in checks.items() if not holds] == [True]


def test_claim_holds_for_what_it_says():
    assert judge(found_as_claimed()).passed


def test_quick_run_does_not_judge_time():
    assert judge(found_as_claimed(**PLANTED["no slower"], judges_time=False)).passed
