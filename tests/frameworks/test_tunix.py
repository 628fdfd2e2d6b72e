"""The recipes for tunix give the numbers of tunix' own functions, alone and inside of its losses."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.frameworks.recipes import GRADIENTS, OF_A_FRAMEWORK, VALUES, agree, framework, recipes

pytestmark = OF_A_FRAMEWORK
REASON = "needs google-tunix: install the extra `frameworks`"
RNG = np.random.default_rng(0)
LOGITS, TEACHER = 3 * RNG.normal(size=(2, 3, 5, 40)).astype("f4")
IDS = RNG.integers(0, 40, (3, 5))


@pytest.fixture(scope="module")
def tunix():
    return SimpleNamespace(
        common=framework("tunix.rl.common", REASON),
        algo_core=framework("tunix.rl.algo_core", REASON),
        logit=framework("tunix.distillation.strategies.logit", REASON),
        dpo=framework("tunix.sft.dpo.dpo_trainer", REASON),
        toy=framework("tunix.tests.test_common", REASON),
        nnx=framework("flax.nnx", REASON),
    )


def value_and_grad(f, *inputs):
    def weighted(*inputs):
        out = f(*inputs)
        return jnp.sum(out * jnp.cos(jnp.arange(out.size)).reshape(out.shape))

    return f(*inputs), jax.grad(weighted)(*inputs)


@pytest.mark.parametrize("scale", [1.0, 10.0])
def test_log_probabilities_are_those_of_selective_log_softmax(tunix, scale):
    got, expected = (
        value_and_grad(lambda x, f=f: f(x, IDS), scale * LOGITS)
        for f in (recipes().selective_log_softmax, tunix.common.selective_log_softmax)
    )
    agree(got, expected, VALUES)


def test_the_id_minus_one_is_nan_where_tunix_takes_the_last_class(tunix):
    ids = IDS.copy()
    ids[0, 0] = -1
    theirs, wrapped = (tunix.common.selective_log_softmax(LOGITS, each) for each in (ids, ids % 40))
    np.testing.assert_array_equal(theirs, wrapped)
    np.testing.assert_array_equal(np.isnan(recipes().selective_log_softmax(LOGITS, ids)), ids == -1)


def test_entropies_are_those_of_compute_entropy_from_logits(tunix):
    home = tunix.common if hasattr(tunix.common, "compute_entropy_from_logits") else tunix.algo_core
    got, expected = (
        value_and_grad(f, LOGITS) for f in (recipes().compute_entropy_from_logits, home.compute_entropy_from_logits)
    )
    agree(got, expected, VALUES)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_distillation_is_that_of_the_logit_strategy(tunix, temperature):
    strategy = tunix.logit.LogitStrategy(None, None, None, temperature=temperature, alpha=1.0)
    one_hot = jax.nn.one_hot(IDS, 40)

    def theirs(logits):
        return strategy.compute_loss(logits, TEACHER, one_hot)[0]

    def ours(logits):
        return recipes().logit_distillation(logits, TEACHER, temperature)

    agree(*(jax.value_and_grad(f)(LOGITS) for f in (ours, theirs)), VALUES)


def toy(tunix):
    return tunix.toy.ToyTransformer(tunix.toy.ModelConfig(), rngs=tunix.nnx.Rngs(0))


@pytest.mark.parametrize("temperature", [1.0, 0.7, 0])
@pytest.mark.parametrize("chunk_size", [2, 5])
def test_fused_log_probabilities_and_entropies_are_those_of_the_models_logits(tunix, temperature, chunk_size):
    model = toy(tunix)
    hidden = RNG.normal(size=(3, 5, 16)).astype("f4")
    ids = RNG.integers(0, model.config.vocab_size, (3, 5))

    def theirs(hidden, model):
        if hasattr(tunix.common, "compute_chunked_logps"):  # since 0.1.8
            return tunix.common.compute_chunked_logps(model, hidden, ids, temperature, chunk_size, True)
        logits = model.lm_head(hidden) / (temperature or 1.0)
        return tunix.common.selective_log_softmax(logits, ids), tunix.algo_core.compute_entropy_from_logits(logits)

    def ours(hidden, model):
        return recipes().compute_chunked_logps(model, hidden, ids, temperature, chunk_size, True)

    def gradients(f):
        def total(hidden, model):
            log_prob, entropy = f(hidden, model)
            return jnp.sum(log_prob) + 0.3 * jnp.sum(entropy)

        return tunix.nnx.grad(total, argnums=(0, 1))(hidden, model)

    agree(ours(hidden, model), theirs(hidden, model), VALUES)
    (ours_hidden, ours_model), (theirs_hidden, theirs_model) = gradients(ours), gradients(theirs)
    agree(ours_hidden, theirs_hidden, GRADIENTS)
    agree(*(dict(each["lm_head"]) for each in (ours_model, theirs_model)), GRADIENTS)


def preference_example(tunix, model):
    """Two pairs of completions of five tokens; ORPO has no reference."""
    ids = jnp.asarray(RNG.integers(1, model.config.vocab_size, (4, 8)))
    return tunix.dpo.TrainExample(
        input_ids=ids,
        positions=jnp.tile(jnp.arange(8), (4, 1)),
        attention_mask=jnp.tril(jnp.ones((8, 8), bool))[None].repeat(4, 0),
        ref_chosen_logps=jnp.array([-30.0, -31.0]),
        ref_rejected_logps=jnp.array([-30.5, -29.0]),
        completion_mask=jnp.arange(5) < jnp.array([[5], [3], [4], [5]]),
        logits_to_keep=5,
    )


@pytest.mark.parametrize("algorithm", ["dpo", "orpo"])
def test_preference_loss_of_tunix_is_the_same_with_the_recipes_log_probabilities(tunix, monkeypatch, algorithm):
    model, calls = toy(tunix), []
    example = preference_example(tunix, model)

    def value_and_grad():
        jax.clear_caches()  # tunix jits what calls the function that is replaced
        return tunix.nnx.value_and_grad(tunix.dpo.dpo_loss_fn, has_aux=True)(model, example, algorithm)

    def counted(logits, ids):
        calls.append(ids.shape)
        return recipes().selective_log_softmax(logits, ids)

    (expected, _), expected_grad = value_and_grad()
    monkeypatch.setattr(tunix.common, "selective_log_softmax", counted)
    (got, _), got_grad = value_and_grad()
    assert calls
    agree(got, expected, VALUES)
    agree(dict(got_grad["lm_head"]), dict(expected_grad["lm_head"]), GRADIENTS)
