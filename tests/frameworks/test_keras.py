"""The recipe for Keras gives the numbers of SparseCategoricalCrossentropy, and of a fit with it."""

import os

import jax
import numpy as np
import pytest

from tests.frameworks.recipes import GRADIENTS, OF_A_FRAMEWORK, VALUES, agree, framework, recipes

pytestmark = OF_A_FRAMEWORK
RNG = np.random.default_rng(0)
EMBED, VOCAB = 16, 50
HIDDEN, KERNEL, BIAS = (RNG.normal(size=n).astype("f4") for n in ((4, 6, EMBED), (EMBED, VOCAB), (VOCAB,)))
LABELS = RNG.integers(0, VOCAB, (4, 6))
PADDED = np.where(np.arange(6) < np.array([[6], [4], [0], [3]]), LABELS, -1)
WEIGHTS = RNG.uniform(0, 2, (4, 6)).astype("f4")


@pytest.fixture(scope="module")
def keras():
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(os.environ, "KERAS_BACKEND", "jax")
        module = framework("keras", "needs Keras 3: install the extra `frameworks`")
    if module.backend.backend() != "jax":
        pytest.skip("Keras was imported with another backend than JAX")
    return module


@pytest.mark.parametrize("ignore_class", [None, -1])
@pytest.mark.parametrize("sample_weight", [None, WEIGHTS], ids=["plain", "weighted"])
def test_loss_and_gradients_are_those_of_sparse_categorical_crossentropy(keras, ignore_class, sample_weight):
    labels = LABELS if ignore_class is None else PADDED
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=ignore_class)

    def theirs(hidden, kernel, bias):
        return loss(labels, hidden @ kernel + bias, sample_weight=sample_weight)

    def ours(hidden, kernel, bias):
        return recipes().sparse_categorical_crossentropy(hidden, kernel, bias, labels, sample_weight, ignore_class)

    (got, got_bar), (expected, expected_bar) = (
        jax.jit(jax.value_and_grad(f, (0, 1, 2)))(HIDDEN, KERNEL, BIAS) for f in (ours, theirs)
    )
    agree(got, expected, VALUES)
    agree(got_bar, expected_bar, GRADIENTS)


def fused_layer(keras):
    class FusedHead(keras.layers.Layer):
        """A last Dense layer and its loss, without logits."""

        def build(self, shape, *_):
            self.kernel = self.add_weight(shape=(EMBED, VOCAB), initializer=lambda *_, **__: KERNEL)
            self.bias = self.add_weight(shape=(VOCAB,), initializer="zeros")

        def call(self, hidden, labels):
            loss = recipes().sparse_categorical_crossentropy
            self.add_loss(loss(hidden, self.kernel.value, self.bias.value, labels, ignore_class=-1))
            return hidden

    return FusedHead()


def fit(keras, fused):
    """Weights of a head, and the losses, after six steps of training on hidden states."""
    hidden = keras.Input((6, EMBED))
    options = {"epochs": 3, "batch_size": 2, "shuffle": False, "verbose": 0}
    if fused:
        labels = keras.Input((6,), dtype="int32")
        model = keras.Model([hidden, labels], fused_layer(keras)(hidden, labels))
        model.compile("sgd")
        history = model.fit([HIDDEN, PADDED.astype("i4")], **options)
    else:
        kernel = keras.initializers.Constant(KERNEL)
        model = keras.Model(hidden, keras.layers.Dense(VOCAB, kernel_initializer=kernel)(hidden))
        model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=-1))
        history = model.fit(HIDDEN, PADDED, **options)
    return model.get_weights(), history.history["loss"]


def test_fit_with_the_fused_head_is_that_with_a_dense_layer_and_its_loss(keras):
    (got, got_losses), (expected, expected_losses) = fit(keras, fused=True), fit(keras, fused=False)
    agree(got, expected, GRADIENTS)
    agree(got_losses, expected_losses, VALUES)
