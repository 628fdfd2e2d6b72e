"""The recipe for levanter is an implementation of its fused head, with the numbers of its reference."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.frameworks.recipes import GRADIENTS, OF_A_FRAMEWORK, VALUES, agree, framework, recipes

pytestmark = OF_A_FRAMEWORK
REASON = "needs levanter: `pip install --pre marin-levanter`, which wants jax < 0.12 and optax < 0.2.7"
RNG = np.random.default_rng(0)
TOKENS, EMBED, VOCAB = 12, 16, 50
X, W = RNG.normal(size=(TOKENS, EMBED)).astype("f4"), RNG.normal(size=(EMBED, VOCAB)).astype("f4")
LABELS = RNG.integers(0, VOCAB, TOKENS).astype("i4")
WEIGHT = np.where(np.arange(TOKENS) % 3 == 0, 0, 1.5).astype("f4")


@pytest.fixture(scope="module")
def levanter():
    home = "levanter.kernels.pallas.fused_cross_entropy_loss"
    return SimpleNamespace(
        fused=framework(f"{home}.api", REASON).fused_cross_entropy_loss_and_logsumexp_penalty,
        loss=framework("levanter.models.loss", REASON),
        haliax=framework("haliax", REASON),
    )


@pytest.mark.parametrize("their", ["reference", "xla"])
@pytest.mark.parametrize("reduction", ["mean", "sum", None])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"logsumexp_weight": 0.2},
        {"logit_soft_cap": 1.7},
        {"logsumexp_weight": 0.2, "logit_soft_cap": 1.7, "weight": jnp.asarray(WEIGHT)},
        {"block_size": 16, "precision": "highest"},
    ],
    ids=["plain", "penalty", "cap", "all", "block"],
)
def test_fused_loss_and_gradients_are_those_of_levanters_implementations(levanter, their, reduction, options):
    def loss(x, w, implementation):
        out = levanter.fused(x, LABELS, w, reduction=reduction, implementation=implementation, **options)
        return jnp.sum(out * jnp.cos(jnp.arange(out.size)).reshape(out.shape)), out

    def program(implementation):
        return jax.value_and_grad(lambda x, w: loss(x, w, implementation), (0, 1), has_aux=True)(X, W)

    ((_, got), got_bar), ((_, expected), expected_bar) = program([recipes().levanter_head]), program([their])
    agree(got, expected, VALUES)
    agree(got_bar, expected_bar, GRADIENTS)


def test_predictions_are_those_of_levanters_reference(levanter):
    def predictions(implementation):
        return levanter.fused(X, LABELS, W, implementation=[implementation], return_argmax=True)[1]

    np.testing.assert_array_equal(predictions(recipes().levanter_head), predictions("reference"))


def test_loss_of_levanters_models_takes_the_recipe_as_its_implementation(levanter):
    hax = levanter.haliax
    position, embed, vocab = hax.Axis("position", TOKENS), hax.Axis("embed", EMBED), hax.Axis("vocab", VOCAB)
    hidden, kernel, labels = hax.named(X, (position, embed)), hax.named(W, (embed, vocab)), hax.named(LABELS, position)

    def loss(hidden, kernel, implementation):
        return levanter.loss.fused_cross_entropy_loss_and_logsumexp_penalty(
            hidden,
            kernel,
            embed,
            vocab,
            labels,
            reduction=hax.mean,
            weight=hax.named(WEIGHT, position),
            logsumexp_weight=0.1,
            implementation=implementation,
        ).scalar()

    def program(implementation):
        return jax.value_and_grad(lambda h, k: loss(h, k, [implementation]), (0, 1))(hidden, kernel)

    (got, got_bar), (expected, expected_bar) = program(recipes().levanter_head), program("reference")
    agree(got, expected, VALUES)
    agree(got_bar, expected_bar, GRADIENTS)
