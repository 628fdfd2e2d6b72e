"""The fused head over several devices: M22 and M27 of shards."""

from dataclasses import replace
from functools import partial
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, PartitionSpec

from jaxsoftmax.verify import _head_inputs
from jaxsoftmax.verify._exact_head import HEAD, Setting
from jaxsoftmax.verify._head_inputs import EVERYTHING, NEAR_CERTAIN, drawn, packed
from jaxsoftmax.verify._head_theorems import SUMMED, gradient_of, mean_exactly, product_of, value_of
from jaxsoftmax.verify._theorem import FLOAT32, Claim, Inputs, Theorem

MESH_HEAD = "sharded_linear_cross_entropy"
SHAPES = {1: (1, 1), 2: (1, 2), 4: (2, 2), 8: (2, 4)}  # tokens' and classes' shards, by the number of devices
SHARDED = Setting(4, 3, 8, chunk=1, reduction="sum", weighted=True)
UNREDUCED = replace(SHARDED, reduction="none")
TAILS = Setting(2, 2, 8, chunk=1, reduction="sum", weighted=True)


def mesh() -> Mesh:
    """Of as many devices as there are, up to 8."""
    count = max(n for n in SHAPES if n <= jax.device_count())
    return jax.make_mesh(SHAPES[count], ("data", "vocab"), (AxisType.Auto,) * 2, devices=jax.devices()[:count])


def on_mesh(f: Any) -> Any:
    """The head of global arrays."""
    return partial(f, mesh=mesh(), token_axes="data", vocab_axis="vocab")


def over_shards(f: Any) -> Any:
    """The head by each device's shard of tokens and classes."""
    tokens, classes, alone = PartitionSpec("data"), PartitionSpec("vocab"), PartitionSpec()

    def head(hidden, kernel, labels, *, bias, token_weights, reduction, **keywords):
        def local(hidden, kernel, labels, bias, token_weights):
            given = {"bias": bias, "token_weights": token_weights, "axis_name": "vocab"}
            value = f(hidden, kernel, labels, reduction=reduction, **given, **keywords)
            return jax.lax.psum(value, "data") if reduction == "sum" else value

        specs = (tokens, PartitionSpec(None, "vocab"), tokens, classes, tokens)
        out = alone if reduction == "sum" else tokens
        spread = jax.jit(jax.shard_map(local, mesh=mesh(), in_specs=specs, out_specs=out))
        return spread(hidden, kernel, labels, bias, token_weights)

    return head


def by(way: Any, quantity: Any) -> Any:
    """The call of a setting's loss or product, of the head in one of the two ways."""
    return lambda f, *row: quantity(way(f), *row)


def over_devices(inputs: Any) -> Any:
    """The inputs, of which the regime says how many shards of tokens and of classes there are."""

    def named(dtype: str) -> list[Inputs]:
        shards = " x ".join(map(str, mesh().devices.shape))
        return [replace(each, regime=f"{shards} devices, {each.regime}") for each in inputs(dtype)]

    return named


def on_borders(dtype: str) -> list[Inputs]:
    """Labels on the borders of shards."""
    theta = packed(*drawn(SHARDED, 31), np.array([1.0, 0.5, 2.0, 0.25]))
    return [Inputs("labels on the shards' borders", (theta[None], np.array([[0, 1, 4, 7]], np.int32)))]


def with_no_class(dtype: str) -> list[Inputs]:
    """Labels on the borders of shards, and labels that are no class."""
    (data,) = on_borders(dtype)
    return [data, Inputs("labels -1, V and -V", (data.arrays[0], np.array([[3, -1, 8, -8]], np.int32)))]


def confident(dtype: str) -> list[Inputs]:
    """Two tokens, each sure of its label by one gap, on the first shard and on the last, or another's."""
    gaps = np.array([20.0, 30.0, 40.0, 60.0])
    bias = np.array([0.5, -1, 0, 2, -0.25, 1, 0, 0.5])
    rows = -gaps[:, None, None] - np.array([[0, 1, 0, 3, 0.5, 2, 1, 0], [1, 0, 2, 0, 0.5, 1, 3, 0.25]])
    labels = np.array([[0, 7], [1, 6], [2, 5], [3, 4]])
    np.put_along_axis(rows, labels[..., None], 0, -1)
    theta = np.stack([packed(np.eye(2), row - bias, bias, np.array([1, 2])) for row in rows])
    return [Inputs(f"confident gap {gaps[0]:.0f}-{gaps[-1]:.0f}", (theta, labels.astype(np.int32)))]


over_two_or_more = partial(Claim, dtypes=FLOAT32, rowwise=False, devices=2)
on_one_or_more = partial(over_two_or_more, devices=1)

MESH_THEOREMS = (
    Theorem(
        "M22-shards",
        "merging of shards",
        "the states (m_i, r_i) of shards of the classes, on several devices, are joined by one maximum and one sum; "
        "labels count the classes of all, and dX is summed over the shards",
        "sums of V products, to the ulp of their terms; tails to 6 ulps of themselves",
        "the loss of a shard's own classes (tokamax); labels counted from the shard's first class, or one off; dX of "
        "one shard, or summed twice; log of a sum of sums, which loses the tails",
        (
            over_two_or_more(HEAD, "losses over shards", 0, by(over_shards, UNREDUCED.loss), value_of(UNREDUCED),
                             over_devices(with_no_class), 6),
            over_two_or_more(HEAD, "gradients over shards", 1, by(over_shards, SHARDED.loss), gradient_of(SHARDED),
                             over_devices(on_borders), 6),
            over_two_or_more(HEAD, "gradients over shards, and losses as those in the token weights", 1,
                             by(over_shards, TAILS.loss), gradient_of(TAILS), over_devices(confident), 6),
        ),
    ),
    Theorem(
        "M27-mesh",
        "fused head on a mesh",
        "the head of arrays on a mesh is the fused head, for sizes that the mesh doesn't divide too: the mean is over "
        "the weights of all devices' tokens; gradients are summed in float32 before they are rounded",
        "as M27-head; in low precision half an ulp for G, half for the sum over devices",
        "a mean of the devices' means; columns added up to an even number of classes left in the log-sum-exp",
        (
            on_one_or_more(MESH_HEAD, "mean and gradients, everything on", 0,
                           lambda f, theta, y: EVERYTHING.loss_and_gradient(on_mesh(f), theta, y), mean_exactly,
                           over_devices(_head_inputs.weighted), 6),
            on_one_or_more(MESH_HEAD, "Hessian-vector product, everything on", 0, by(on_mesh, SUMMED.hessian_product),
                           product_of(SUMMED), over_devices(_head_inputs.moved), 6),
            on_one_or_more(MESH_HEAD, "gradients in low precision", 1, by(on_mesh, NEAR_CERTAIN.loss),
                           gradient_of(NEAR_CERTAIN), over_devices(_head_inputs.near_certain), 1, dtypes=("bfloat16",)),
        ),
    ),
)  # fmt: skip
