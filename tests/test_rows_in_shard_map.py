"""Rows that lie whole on the devices of a `jax.shard_map`: what is computed there is what is computed outside."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from jaxsoftmax import cross_entropy, log_softmax, logsumexp, softmax, softmax_cross_entropy
from jaxsoftmax import softmax_cross_entropy_with_integer_labels as drop_in_of_integers
from tests.test_sharded_vocabulary import INF, MESH, ROWS

# With labels, weights and masks that vary over the mesh as the rows do, or that don't.
OF_WHOLE_ROWS = {
    "softmax": softmax,
    "log_softmax": log_softmax,
    "logsumexp": partial(logsumexp, axis=-1),
    "weighted logsumexp": partial(logsumexp, axis=-1, b=np.float32([2, -1, 1, 1, 3, 1, 1, 1])),
    "integer labels": lambda x: cross_entropy(x, jnp.argmin(x, -1), label_smoothing=0.125, reduction="none"),
    "float labels": lambda x: cross_entropy(x, jnp.full(x.shape, 0.125), reduction="none"),
    "drop-in of integer labels": lambda x: drop_in_of_integers(
        x, jnp.zeros(len(x), int), where=jnp.arange(8)[None] < 7
    ),
    "drop-in of float labels": lambda x: softmax_cross_entropy(x, jnp.full(8, 0.125)),
    "drop-in, in the labels": lambda x: softmax_cross_entropy(jnp.arange(8.0), jnp.exp(-(x**2))),
    "masked by what varies": lambda x: logsumexp(jnp.broadcast_to(jnp.arange(8.0), x.shape), -1, where=x > 0) * x[:, 0],
}


def all_orders(function, x):
    """The values, a vector-Jacobian product and the product of a Hessian."""

    def uneven(array):
        return jnp.ones_like(array) * jnp.cos(jnp.arange(array.size, dtype=x.dtype)).reshape(array.shape)

    def product(x):
        values, transpose = jax.vjp(function, x)
        return values, transpose(uneven(values))[0]

    (values, cotangent), (_, second) = jax.jvp(product, (x,), (uneven(x),))
    return values, cotangent, second


FIRST = ("softmax", "weighted logsumexp", "integer labels", "float labels", "masked by what varies")
OTHERS = tuple(name for name in OF_WHOLE_ROWS if name not in FIRST)
AXES = [pytest.param("data", marks=pytest.mark.slow), ("data", "vocab")]


@pytest.mark.parametrize("names", [FIRST, pytest.param(OTHERS, marks=pytest.mark.slow)], ids=["first", "others"])
@pytest.mark.parametrize("axes", AXES, ids=["some axes", "all axes"])
def test_rows_that_lie_whole_on_devices_are_as_outside_of_a_shard_map(axes, names):
    def of_all(x):
        return {name: all_orders(OF_WHOLE_ROWS[name], x) for name in names}

    rows = np.vstack([ROWS[:6], np.full(8, -INF), ROWS[7]]).astype(np.float32)
    shards = np.split(rows, 2 if axes == "data" else 8)
    inside = jax.jit(jax.shard_map(of_all, mesh=MESH, in_specs=P(axes), out_specs=P(axes)))(rows)
    outside = [jax.jit(of_all)(shard) for shard in shards]
    for name in names:
        expected = [np.concatenate(parts) for parts in zip(*(shard[name] for shard in outside), strict=True)]
        for got, values in zip(inside[name], expected, strict=True):
            np.testing.assert_allclose(got, values, rtol=1e-5, atol=1e-6, err_msg=name)
