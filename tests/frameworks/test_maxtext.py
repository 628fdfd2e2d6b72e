"""The recipe for MaxText gives the numbers of its vocabulary tiling, with a head of one kernel."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.frameworks.recipes import GRADIENTS, OF_A_FRAMEWORK, VALUES, agree, framework, recipes

pytestmark = OF_A_FRAMEWORK
REASON = "needs the extra `frameworks`, `pip install --no-deps maxtext==0.2.5` and `pip install pathwaysutils`"
RNG = np.random.default_rng(0)
EMBED, VOCAB = 16, 50
HIDDEN, KERNEL = RNG.normal(size=(2, 6, EMBED)).astype("f4"), RNG.normal(size=(EMBED, VOCAB)).astype("f4")
TARGETS = RNG.integers(0, VOCAB, (2, 6))
SEGMENTATION = np.array([[1, 1, 1, 2, 2, 0], [1, 1, 1, 1, 0, 0]])


@pytest.fixture(scope="module")
def maxtext():
    return SimpleNamespace(
        tiling=framework("maxtext.utils.vocabulary_tiling", REASON),
        types=framework("maxtext.common.common_types", REASON),
        nnx=framework("flax.nnx", REASON),
    )


def head(nnx):
    """A model that is its head alone: one kernel, at the path that MaxText differentiates in."""

    class Head(nnx.Module):
        def __init__(self):
            self.logits_dense = nnx.Linear(EMBED, VOCAB, use_bias=False, rngs=nnx.Rngs(0))
            self.logits_dense.kernel[...] = jnp.asarray(KERNEL)
            self.mesh = jax.make_mesh((1,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))

        def logits_from_hidden_states_for_vocab_tiling(self, hidden, deterministic, model_mode):
            return self.logits_dense(hidden)

    return Head()


def config(types, tiles, z_loss):
    return SimpleNamespace(
        enable_dropout=False,
        shard_mode=types.ShardMode.AUTO,
        debug_sharding=False,
        vocab_tiling_ag_once=False,
        num_vocab_tiling=tiles,
        vocab_size=VOCAB,
        z_loss_multiplier=z_loss,
    )


@pytest.mark.parametrize(("tiles", "z_loss"), [(1, 0.0), (3, 0.0), (4, 1e-2)])
def test_sums_and_gradients_are_those_of_vocabulary_tiling(maxtext, tiles, z_loss):
    data = {"targets": jnp.asarray(TARGETS), "targets_segmentation": jnp.asarray(SEGMENTATION)}
    settings = config(maxtext.types, tiles, z_loss)

    def theirs(hidden, model):
        return maxtext.tiling.vocab_tiling_nnx_loss(model, hidden, data, settings, True)

    def ours(hidden, kernel):
        return recipes().vocab_tiling_loss(hidden, kernel, TARGETS, SEGMENTATION, z_loss)

    model = head(maxtext.nnx)
    expected, (hidden_bar, model_bar) = maxtext.nnx.value_and_grad(theirs, argnums=(0, 1), has_aux=True)(HIDDEN, model)
    got, got_bar = jax.value_and_grad(ours, (0, 1), has_aux=True)(HIDDEN, KERNEL)
    agree(got[0], expected[0], VALUES)
    np.testing.assert_allclose(got[1], expected[1], **VALUES)
    agree(got_bar, (hidden_bar, model_bar["logits_dense"]["kernel"][...]), GRADIENTS)
