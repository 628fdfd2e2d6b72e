"""Losses over several batch dimensions are those of one, in no more memory than optax takes."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import jaxsoftmax
from jaxsoftmax import forward_mode

SHAPE = (3, 4, 5)
LOGITS = jnp.asarray(np.random.default_rng(0).normal(size=SHAPE), jnp.float32)
LABELS = jnp.arange(12).reshape(3, 4) % 5
TARGETS = jax.nn.softmax(LOGITS[::-1])
WEIGHTS = jnp.linspace(0.5, 2.0, 12).reshape(3, 4)
MASK = jnp.arange(60).reshape(SHAPE) % 7 != 0
CALLS = {
    "integer labels": lambda f, x, y, t, u, m: f.cross_entropy(x, y, reduction="none"),
    "float labels": lambda f, x, y, t, u, m: f.cross_entropy(x, t, reduction="none"),
    "every weight": lambda f, x, y, t, u, m: f.cross_entropy(
        x, y, class_weights=jnp.arange(1.0, 6.0), token_weights=u, ignore_index=2, label_smoothing=0.1
    ),
    "drop-in, masked": lambda f, x, y, t, u, m: f.softmax_cross_entropy_with_integer_labels(x, y, where=m),
    "drop-in of float labels, masked": lambda f, x, y, t, u, m: f.softmax_cross_entropy(x, t, where=m),
}
ON_CPU = pytest.mark.skipif(jax.default_backend() != "cpu", reason="rows are merged on a CPU")


def value_and_gradient(module, call, *arrays):
    loss, back = jax.vjp(lambda x: call(module, x, *arrays[1:]), arrays[0])
    return loss, back(jnp.ones_like(loss))[0]


@pytest.mark.parametrize("module", [jaxsoftmax, forward_mode], ids=["reverse", "both modes"])
@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_several_batch_dimensions_give_the_losses_and_gradients_of_one(module, call):
    arrays = LOGITS, LABELS, TARGETS, WEIGHTS, MASK
    loss, gradient = jax.jit(lambda *a: value_and_gradient(module, call, *a))(*arrays)
    flat = [array.reshape(12, *array.shape[2:]) for array in arrays]
    flat_loss, flat_gradient = jax.jit(lambda *a: value_and_gradient(module, call, *a))(*flat)
    assert loss.shape in ((), (3, 4))
    eps = jnp.finfo(jnp.float32).eps  # XLA adds up in another order
    np.testing.assert_allclose(loss.reshape(flat_loss.shape), flat_loss, rtol=4 * eps)
    np.testing.assert_allclose(gradient.reshape(12, 5), flat_gradient, rtol=4 * eps, atol=eps)


@pytest.mark.parametrize("batch", [(0, 3), (3, 0), (1, 1, 1)])
def test_batch_dimensions_may_be_empty_or_one(batch):
    logits, labels = jnp.zeros((*batch, 5)), jnp.zeros(batch, int)
    assert jaxsoftmax.cross_entropy(logits, labels, reduction="none").shape == batch
    assert jax.grad(jaxsoftmax.cross_entropy)(logits, labels).shape == logits.shape


def test_explicit_axes_may_spread_every_batch_dimension():
    mesh = jax.make_mesh((1, 1), ("data", "sequence"), axis_types=(AxisType.Explicit,) * 2, devices=jax.devices()[:1])
    spread = NamedSharding(mesh, P("data", "sequence", None))
    with jax.set_mesh(mesh):
        logits = jax.device_put(LOGITS, spread)
        labels = jax.device_put(LABELS, NamedSharding(mesh, P("data", "sequence")))
        value, gradient = jax.jit(jax.value_and_grad(jaxsoftmax.cross_entropy))(logits, labels)
    assert gradient.sharding.is_equivalent_to(spread, ndim=3)
    expected = jax.jit(jax.value_and_grad(jaxsoftmax.cross_entropy))(LOGITS, LABELS)
    np.testing.assert_allclose(value, expected[0], rtol=1e-6)
    np.testing.assert_allclose(gradient, expected[1], rtol=1e-6, atol=1e-8)


def temporary(loss, batch, embed=32, vocab=4096):
    """The bytes that XLA plans for the value and both gradients of a loss over logits that are formed in the graph."""
    hidden, kernel = (jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((*batch, embed), (embed, vocab)))
    step = jax.jit(jax.value_and_grad(lambda h, k, y: loss(h @ k, y).mean(), (0, 1)))
    compiled = step.lower(hidden, kernel, jax.ShapeDtypeStruct(batch, jnp.int32)).compile()
    return compiled.memory_analysis().temp_size_in_bytes


@ON_CPU
@pytest.mark.parametrize("batch", [(8, 256), (2, 4, 256)])
@pytest.mark.parametrize(
    "loss", [jaxsoftmax.cross_entropy, jaxsoftmax.softmax_cross_entropy_with_integer_labels], ids=lambda f: f.__name__
)
def test_a_step_over_sequences_takes_no_more_memory_than_optax(loss, batch):
    theirs = temporary(optax.softmax_cross_entropy_with_integer_labels, batch)
    assert temporary(loss, batch) <= 1.02 * theirs


@ON_CPU
def test_a_rule_of_sequences_as_they_are_would_take_more():
    def as_they_are(logits, labels):
        return jaxsoftmax._integer_labels.integer_label_losses(
            jaxsoftmax._token_loss.LossOptions(), logits, labels, None, None
        )

    assert temporary(as_they_are, (8, 256)) > 1.3 * temporary(jaxsoftmax.cross_entropy, (8, 256))
