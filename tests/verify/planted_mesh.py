"""Wrong heads over several devices: a collective left out or doubled, labels numbered wrongly, padding left in."""

import jax
import jax.numpy as jnp
from jax import lax

from tests.verify.planted import Planted, by_call

HEAD, MESH_HEAD = "linear_cross_entropy", "sharded_linear_cross_entropy"
SHARDS_THEOREM, MESH_THEOREM = ("M22-shards",), ("M27-mesh",)


def _of_own_shard(right, hidden, kernel, labels, *, axis_name, reduction, **keywords):
    """The loss among the classes of the label's shard, as without the sum of the states."""
    place = labels - lax.axis_index(axis_name) * kernel.shape[1]
    own = (place >= 0) & (place < kernel.shape[1])
    losses = right(hidden, kernel, jnp.where(own, place, 0), reduction="none", **keywords)
    losses = lax.psum(jnp.where(own, losses, 0), axis_name)
    return jnp.sum(losses) if reduction == "sum" else losses


def _with_labels(relabelled):
    """The right head of other labels(labels, classes of a shard, classes of all)."""

    def head(right, hidden, kernel, labels, *, axis_name, **keywords):
        columns = kernel.shape[1]
        classes = columns * lax.axis_size(axis_name)
        labels = jnp.where((labels >= 0) & (labels < classes), relabelled(labels, columns, classes), labels)
        return right(hidden, kernel, labels, axis_name=axis_name, **keywords)

    return by_call(head)


def _log_of_a_sum(right, hidden, kernel, labels, *, bias, axis_name, token_weights, reduction, chunk_size):
    """m + log(sum exp(z - m)) - z_y, whose 1 absorbs the tails."""
    del right, chunk_size
    z = hidden @ kernel + bias
    place = (labels - lax.axis_index(axis_name) * kernel.shape[1])[:, None]
    m = lax.pmax(lax.stop_gradient(jnp.max(z, -1)), axis_name)
    total = lax.psum(jnp.sum(jnp.exp(z - m[:, None]), -1), axis_name)
    picked = lax.psum(jnp.sum(jnp.where(place == jnp.arange(kernel.shape[1]), z, 0), -1), axis_name)
    invalid = (labels < 0) | (labels >= kernel.shape[1] * lax.axis_size(axis_name))
    losses = token_weights * jnp.where(invalid, jnp.nan, m + jnp.log(total) - picked)
    return jnp.sum(losses) if reduction == "sum" else losses


def _summed_by(rule, axis):
    """A cast to varying over the axis, whose transpose is not the sum but rule(cotangent, axis)."""

    @jax.custom_vjp
    def cast(argument):
        return lax.pcast(argument, (axis,), to="varying")

    cast.defvjp(lambda argument: (cast(argument), None), lambda _, bar: (rule(bar, axis),))
    return cast


def _first_alone(bar, axis):
    return lax.psum(jnp.where(lax.axis_index(axis) == 0, bar, 0), axis)


def _twice(bar, axis):
    return lax.axis_size(axis) * lax.psum(bar, axis)


def _with_sum(name, rule, axis):
    """The right head, but for how one argument's gradient is summed over the devices of an axis."""

    def head(right, hidden, kernel, labels, *, bias, **keywords):
        given = {"hidden": hidden, "kernel": kernel, "bias": bias}
        given[name] = _summed_by(rule, axis)(given[name])
        return right(labels=labels, **given, **keywords)

    return by_call(head)


def _sum(bar, axis):
    return lax.psum(bar, axis)


def _filled_up_with_classes(right, hidden, kernel, labels, *, bias=None, class_weights=None, **keywords):
    missing = (0, -kernel.shape[1] % 4)
    weights = None if class_weights is None else jnp.pad(class_weights, missing)
    kernel, bias = jnp.pad(kernel, ((0, 0), missing)), None if bias is None else jnp.pad(bias, missing)
    return right(hidden, kernel, labels, bias=bias, class_weights=weights, **keywords)


def _mean_of_means(right, hidden, kernel, labels, *, token_weights=None, reduction="mean", **keywords):
    if reduction != "mean" or token_weights is None:
        return right(hidden, kernel, labels, token_weights=token_weights, reduction=reduction, **keywords)
    halves = (slice(0, 4), slice(4, None))
    parts = [right(hidden[h], kernel, labels[h], token_weights=token_weights[h], **keywords) for h in halves]
    return sum(parts) / 2


def _rounded_before_the_sum(right, hidden, kernel, labels, **keywords):
    """A gradient in hidden that was rounded to 4 bits."""

    @jax.custom_vjp
    def rounded(argument):
        return argument

    rounded.defvjp(
        lambda argument: (argument, None), lambda _, bar: (lax.reduce_precision(bar, exponent_bits=8, mantissa_bits=3),)
    )
    return right(rounded(hidden), kernel, labels, **keywords)


SHARDS = (
    Planted("loss of a shard's own classes", HEAD, by_call(_of_own_shard), SHARDS_THEOREM),
    Planted("labels counted from the shard's first class", HEAD,
            _with_labels(lambda labels, columns, classes: labels % columns), SHARDS_THEOREM),
    Planted("shards' first class one off", HEAD,
            _with_labels(lambda labels, columns, classes: (labels + 1) % classes), SHARDS_THEOREM),
    Planted("shards in another order", HEAD,
            _with_labels(lambda labels, columns, classes: (labels + columns) % classes), SHARDS_THEOREM),
    Planted("log of a sum of sums", HEAD, by_call(_log_of_a_sum), SHARDS_THEOREM,
            failing_only={"quantity": {"gradients over shards, and losses as those in the token weights"}}),
    Planted("dX of one shard alone", HEAD, _with_sum("hidden", _first_alone, "vocab"), SHARDS_THEOREM),
    Planted("dX summed twice", HEAD, _with_sum("hidden", _twice, "vocab"), SHARDS_THEOREM),
    Planted("dW of one device's tokens", HEAD, _with_sum("kernel", _first_alone, "data"), SHARDS_THEOREM),
    Planted("db summed twice", HEAD, _with_sum("bias", _twice, "data"), SHARDS_THEOREM),
)  # fmt: skip

MESHES = (
    Planted("filled up with classes of logit 0", MESH_HEAD, by_call(_filled_up_with_classes), MESH_THEOREM),
    Planted("mean of the devices' means", MESH_HEAD, by_call(_mean_of_means), MESH_THEOREM),
    Planted("dX rounded before it is summed", MESH_HEAD, by_call(_rounded_before_the_sum), MESH_THEOREM,
            dtypes=("bfloat16",)),
)  # fmt: skip

CONTROLS = (
    Planted("right by the labels", HEAD, _with_labels(lambda labels, columns, classes: labels), (), SHARDS_THEOREM),
    Planted("right by the sum of dX", HEAD, _with_sum("hidden", _sum, "vocab"), (), SHARDS_THEOREM),
    Planted("right by the sum of dW", HEAD, _with_sum("kernel", _sum, "data"), (), SHARDS_THEOREM),
)  # fmt: skip
