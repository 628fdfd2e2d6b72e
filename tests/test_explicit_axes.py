"""Arrays sharded over Explicit axes of a mesh beside others that are sharded over fewer of them, or over none."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import jaxsoftmax
from jaxsoftmax import SparseLabels, forward_mode
from tests.tiers import in_tiers

pytestmark = pytest.mark.mesh
RANDOM = np.random.default_rng(0)
LOGITS = RANDOM.normal(size=(4, 16)).astype(np.float32)
OTHERS = {
    "a row": np.full(16, 1 / 16, np.float32),
    "rows": RANDOM.uniform(size=(4, 16)).astype(np.float32),
    "labels": SparseLabels(RANDOM.integers(0, 16, (4, 12)), RANDOM.uniform(size=(4, 12)).astype(np.float32)),
}
CALLS = {  # with what stands beside the logits
    "drop-in": ("a row", lambda f, x, q: jnp.sum(f.softmax_cross_entropy(x, q))),
    "weighted logsumexp": ("a row", lambda f, x, b: jnp.sum(f.logsumexp(x, -1, b=b))),
    "logsumexp of a number": ("a row", lambda f, x, b: jnp.sum(f.logsumexp(x, -1, b=2.0)) + 0 * jnp.sum(b)),
    "float labels": ("rows", lambda f, x, q: f.cross_entropy(x, q)),
    "distillation": ("rows", lambda f, x, u: f.distillation(x, u)),
    "many sparse labels": ("labels", lambda f, x, y: f.cross_entropy(x, y)),
}
LAYOUTS = {"tokens": P("data"), "classes": P(None, "vocab"), "both": P("data", "vocab")}


@jax.jit
def gradients(x, others):
    """By library and call, in one program."""
    return {
        f"{library.__name__}, {name}": jax.value_and_grad(partial(call, library), (0, 1), allow_int=True)(
            x, others[kind]
        )
        for library in (jaxsoftmax, forward_mode)
        for name, (kind, call) in CALLS.items()
    }


@in_tiers("layout", LAYOUTS, first=["both"])
@in_tiers("beside", ["replicated", "sharded over tokens"], first=["replicated"])
def test_gradients_are_those_of_one_device(layout, beside):
    mesh = jax.make_mesh((2, 2), ("data", "vocab"), axis_types=(AxisType.Explicit,) * 2)

    def place(array, spec):
        return jax.device_put(array, NamedSharding(mesh, spec))

    spec = P(LAYOUTS[layout][0]) if beside == "sharded over tokens" else P()
    others = {kind: jax.tree.map(lambda a: place(a, spec if a.ndim == 2 else P()), o) for kind, o in OTHERS.items()}
    with jax.set_mesh(mesh):
        got = gradients(place(LOGITS, LAYOUTS[layout]), others)
    expected = gradients(jnp.asarray(LOGITS), jax.tree.map(jnp.asarray, OTHERS))
    for name, (value, (by_logits, by_other)) in expected.items():
        np.testing.assert_allclose(got[name][0], value, rtol=1e-5, err_msg=name)
        np.testing.assert_allclose(got[name][1][0], by_logits, rtol=1e-4, atol=1e-6, err_msg=name)
        if not isinstance(by_other, SparseLabels):
            np.testing.assert_allclose(got[name][1][1], by_other, rtol=1e-4, atol=1e-6, err_msg=name)


def test_arrays_that_are_sharded_differently_are_left_to_jax():
    mesh = jax.make_mesh((2, 2), ("data", "vocab"), axis_types=(AxisType.Explicit,) * 2)
    x, q = (jax.device_put(OTHERS["rows"], NamedSharding(mesh, spec)) for spec in (P("data"), P("vocab")))
    with jax.set_mesh(mesh), pytest.raises(Exception, match="shard"):
        jax.jit(jaxsoftmax.cross_entropy)(x, q)
