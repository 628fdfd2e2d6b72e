"""Losses over several batch dimensions are those of one, on one device in no more memory than optax takes."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import jaxsoftmax
from jaxsoftmax import forward_mode
from jaxsoftmax._reduction import blocked_cpu
from tests.test_residuals import residuals
from tests.tiers import in_tiers

SHAPE = (3, 4, 5)
LOGITS = np.random.default_rng(0).normal(size=SHAPE).astype(np.float32)
LABELS = np.arange(12, dtype=np.int32).reshape(3, 4) % 5
TARGETS = np.exp(LOGITS[::-1]) / np.sum(np.exp(LOGITS[::-1]), -1, keepdims=True)
WEIGHTS = np.linspace(0.5, 2.0, 12, dtype=np.float32).reshape(3, 4)
MASK = np.arange(60).reshape(SHAPE) % 7 != 0
CALLS = {
    "integer labels": lambda f, x, y, t, u, m: f.cross_entropy(x, y, reduction="none"),
    "float labels": lambda f, x, y, t, u, m: f.cross_entropy(x, t, reduction="none"),
    "every weight": lambda f, x, y, t, u, m: f.cross_entropy(
        x, y, class_weights=np.arange(1, 6, dtype=np.float32), token_weights=u, ignore_index=2, label_smoothing=0.1
    ),
    "drop-in, masked": lambda f, x, y, t, u, m: f.softmax_cross_entropy_with_integer_labels(x, y, where=m),
    "drop-in of float labels, masked": lambda f, x, y, t, u, m: f.softmax_cross_entropy(x, t, where=m),
}
MODULES = {"reverse": jaxsoftmax, "both modes": forward_mode}
ON_CPU = pytest.mark.skipif(jax.default_backend() != "cpu", reason="rows are merged on a CPU")


@pytest.fixture(params=[True, False], ids=["merged", "as they are"])
def merging(request, monkeypatch):
    """Has rows merged as on a single device, as they otherwise are here, or not."""
    monkeypatch.setattr(blocked_cpu, "_on_one_device", lambda: request.param)
    jax.clear_caches()
    yield request.param
    jax.clear_caches()


def value_and_gradient(module, call, *arrays):
    loss, back = jax.vjp(lambda x: call(module, x, *arrays[1:]), arrays[0])
    return loss, back(jnp.ones_like(loss))[0]


@cache
def outcomes(module, batch, merging):
    """Value and gradient of every call in one program; rows of one batch dimension are as they are anyway.

    `merging`, which the fixture has set, is here as a key of the cache.
    """
    arrays = [a.reshape(*batch, *a.shape[2:]) for a in (LOGITS, LABELS, TARGETS, WEIGHTS, MASK)]
    of_call = {name: partial(value_and_gradient, MODULES[module], call) for name, call in CALLS.items()}
    return jax.jit(lambda *arrays: {name: function(*arrays) for name, function in of_call.items()})(*arrays)


@pytest.mark.parametrize("module", ["reverse", pytest.param("both modes", marks=pytest.mark.slow)])
@pytest.mark.parametrize("call", CALLS)
def test_several_batch_dimensions_give_the_losses_and_gradients_of_one(module, call, merging):
    loss, gradient = outcomes(module, (3, 4), merging)[call]
    flat_loss, flat_gradient = outcomes(module, (12,), None)[call]
    assert loss.shape in ((), (3, 4))
    eps = jnp.finfo(jnp.float32).eps  # XLA adds up in another order
    np.testing.assert_allclose(loss.reshape(flat_loss.shape), flat_loss, rtol=4 * eps)
    np.testing.assert_allclose(gradient.reshape(12, 5), flat_gradient, rtol=4 * eps, atol=eps)


@pytest.mark.usefixtures("merging")
@in_tiers("batch", [(0, 3), (3, 0), (1, 1, 1)], first=[(0, 3)])
def test_batch_dimensions_may_be_empty_or_one(batch):
    @jax.jit
    def both(x, y):
        return jaxsoftmax.cross_entropy(x, y, reduction="none"), jax.grad(jaxsoftmax.cross_entropy)(x, y)

    logits, labels = np.zeros((*batch, 5), np.float32), np.zeros(batch, np.int32)
    losses, gradient = both(logits, labels)
    assert losses.shape == batch
    assert gradient.shape == logits.shape


def test_higher_derivatives_and_vmap_go_through_merged_rows():
    def loss(x):
        return jaxsoftmax.cross_entropy(x, LABELS)

    hessian, losses, mean = jax.jit(lambda x: (jax.hessian(loss)(x), jax.vmap(loss)(jnp.stack([x, x])), loss(x)))(
        LOGITS
    )
    s = (np.exp(LOGITS) / np.sum(np.exp(LOGITS), -1, keepdims=True)).reshape(12, 5)
    expected = np.zeros((12, 5, 12, 5))
    for t, row in enumerate(s):
        expected[t, :, t] = (np.diag(row) - np.outer(row, row)) / 12  # (M15)
    np.testing.assert_allclose(hessian.reshape(12, 5, 12, 5), expected, atol=1e-7)
    np.testing.assert_allclose(losses, [mean] * 2, rtol=1e-6)


def test_what_is_saved_is_the_arguments_as_they_came():
    def loss(x):
        return jaxsoftmax.cross_entropy(x, LABELS)

    def of_merged(x):
        return jaxsoftmax.cross_entropy(x.reshape(12, 5), LABELS.reshape(12))

    assert all(leaf.size <= 12 for leaf in residuals(loss, LOGITS))
    assert any(leaf.size == LOGITS.size for leaf in residuals(of_merged, LOGITS))  # the check can fail


def test_losses_are_sharded_as_the_logits_over_explicit_axes():
    mesh = jax.make_mesh((2, 2), ("data", "sequence"), axis_types=(AxisType.Explicit,) * 2, devices=jax.devices()[:4])
    shape, spec = (4, 6, 5), P("data", "sequence")
    with jax.set_mesh(mesh):
        logits = jax.device_put(np.ones(shape, np.float32), NamedSharding(mesh, spec))
        labels = jax.device_put(np.zeros(shape[:2], np.int32), NamedSharding(mesh, spec))
        losses = jax.jit(lambda x, y: jaxsoftmax.cross_entropy(x, y, reduction="none"))(logits, labels)
        gradient = jax.jit(jax.grad(jaxsoftmax.cross_entropy))(logits, labels)
    assert jax.typeof(losses).sharding.spec == spec
    assert jax.typeof(gradient).sharding.spec == P("data", "sequence", None)
    np.testing.assert_allclose(losses, np.full(shape[:2], np.log(5)), rtol=1e-6)


@cache
def temporary(loss, batch, merging, embed=32, vocab=4096):
    """The bytes that XLA plans for the value and both gradients of a loss over logits that are formed in the graph.

    `merging`, which the fixture has set, is here as a key of the cache.
    """
    hidden, kernel = (jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((*batch, embed), (embed, vocab)))
    step = jax.jit(jax.value_and_grad(lambda h, k, y: loss(h @ k, y).mean(), (0, 1)))
    lowered = step.lower(hidden, kernel, jax.ShapeDtypeStruct(batch, jnp.int32))
    compiled = lowered.compile(compiler_options={"xla_backend_optimization_level": 0})  # LLVM's, which plans no memory
    return compiled.memory_analysis().temp_size_in_bytes


@ON_CPU
@pytest.mark.usefixtures("fresh_compilation")
@pytest.mark.parametrize("batch", [(8, 256), pytest.param((2, 4, 256), marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "loss", [jaxsoftmax.cross_entropy, jaxsoftmax.softmax_cross_entropy_with_integer_labels], ids=lambda f: f.__name__
)
def test_a_step_over_sequences_takes_no_more_memory_than_optax_where_rows_are_merged(merging, loss, batch):
    theirs = temporary(optax.softmax_cross_entropy_with_integer_labels, batch, merging=None)
    assert (temporary(loss, batch, merging) <= 1.02 * theirs) == merging
