# pyright: strict, reportUnnecessaryTypeIgnoreComment=true, reportUnknownMemberType=false
"""A program that uses the package from outside, with types: where a wheel is installed, `pyright` passes and it runs.

`wrong_calls` holds what a type checker must refuse: each call names the rule that refuses it, and pyright complains of
a rule that has nothing to refuse. Members of unknown type are let pass, for some of JAX's are.
"""

from typing import assert_type

import jax
import jax.numpy as jnp
from jax import Array
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

import jaxsoftmax
from jaxsoftmax import analytic, forward_mode


def drop_ins(logits: Array, labels: Array, target: Array) -> Array:
    """The functions of `jax.nn` and of optax."""
    assert_type(jaxsoftmax.softmax(logits), Array)
    assert_type(jaxsoftmax.log_softmax(logits, axis=0, where=logits > 0), Array)
    assert_type(jaxsoftmax.logsumexp(logits, -1, keepdims=True), Array)
    assert_type(jaxsoftmax.logsumexp(logits, b=target, return_sign=True), tuple[Array, Array])
    assert_type(jaxsoftmax.softmax_cross_entropy(logits, target), Array)
    return assert_type(jaxsoftmax.softmax_cross_entropy_with_integer_labels(logits, labels), Array)


def training_loss(logits: Array, labels: Array) -> Array:
    """The loss over logits, with every keyword."""
    loss = jaxsoftmax.cross_entropy(
        logits,
        labels,
        class_weights=jnp.ones(logits.shape[-1]),
        token_weights=jnp.ones(labels.shape),
        ignore_index=-100,
        label_smoothing=0.1,
        z_loss=1e-4,
        logit_softcap=30.0,
        reduction="sum",
    )
    return assert_type(loss, Array)


def fused_head(hidden: Array, kernel: Array, labels: Array) -> Array:
    """The same over hidden states, on one device and on a mesh."""
    mesh = jax.make_mesh((jax.device_count(),), ("data",), axis_types=(AxisType.Auto,))
    sharded = jaxsoftmax.sharded_linear_cross_entropy(hidden, kernel, labels, mesh=mesh, token_axes=P("data"))
    assert_type(sharded, Array)
    one_device = jaxsoftmax.linear_cross_entropy(hidden, kernel, labels, bias=jnp.zeros(kernel.shape[1]), chunk_size=2)
    return assert_type(one_device, Array) - sharded


def losses_with_parts(hidden: Array, kernel: Array, labels: Array) -> Array:
    """What `has_aux` says of the result, to a type checker too; and a boolean mask as token weights."""
    mesh = jax.make_mesh((jax.device_count(),), ("data",), axis_types=(AxisType.Auto,))
    loss, parts = jaxsoftmax.cross_entropy(hidden @ kernel, labels, token_weights=labels > 0, has_aux=True)
    assert_type(loss, Array)
    assert_type(parts, jaxsoftmax.LossParts)
    _, parts = forward_mode.linear_cross_entropy(hidden, kernel, labels, z_loss=1e-4, has_aux=True)
    assert_type(parts.correct, Array)
    sharded = jaxsoftmax.sharded_linear_cross_entropy
    _, parts = sharded(hidden, kernel, labels, mesh=mesh, token_axes="data", chunk_size=2, has_aux=True)
    assert_type(parts, jaxsoftmax.LossParts)
    with_parts = hidden.ndim > 1
    either = jaxsoftmax.linear_cross_entropy(hidden, kernel, labels, has_aux=with_parts)
    assert_type(either, Array | tuple[Array, jaxsoftmax.LossParts])
    return parts.nll


def closed_forms(logits: Array, labels: Array, hidden: Array, kernel: Array) -> Array:
    """The derivatives as plain functions, and the variants for forward mode."""
    assert_type(analytic.softmax_jacobian(logits), Array)
    gradients = analytic.linear_cross_entropy_gradients(hidden, kernel, labels)
    assert_type(gradients, analytic.LinearCrossEntropyGradients)
    assert_type(gradients.kernel, Array)
    assert_type(forward_mode.logsumexp(logits), Array)
    assert_type(forward_mode.logsumexp(logits, return_sign=True), tuple[Array, Array])
    return assert_type(forward_mode.cross_entropy(logits, labels), Array)


def wrong_calls(logits: Array, labels: Array) -> Array:
    """What a type checker must refuse."""
    jaxsoftmax.cross_entropy(logits)  # pyright: ignore[reportCallIssue]
    jaxsoftmax.cross_entropy(logits, labels, 0.1)  # pyright: ignore[reportCallIssue]
    jaxsoftmax.cross_entropy(logits, labels, label_smoothing="a tenth")  # pyright: ignore[reportArgumentType, reportCallIssue]
    jaxsoftmax.linear_cross_entropy(logits, logits, labels, ignore_label=0)  # pyright: ignore[reportCallIssue]
    jaxsoftmax.softmax([logits])  # pyright: ignore[reportArgumentType]
    jaxsoftmax.softmax_loss(logits)  # pyright: ignore[reportAttributeAccessIssue]
    return jaxsoftmax.logsumexp(logits, return_sign=True)  # pyright: ignore[reportReturnType]


def main() -> None:
    """Calls each function once, and prints one line."""
    hidden, kernel, labels = jnp.ones((4, 3)), jnp.ones((3, 5)), jnp.array([0, 1, 2, 3])
    logits = hidden @ kernel
    losses = drop_ins(logits, labels, jax.nn.one_hot(labels, 5))
    of_parts = losses_with_parts(hidden, kernel, labels)
    scalars = (training_loss(logits, labels), closed_forms(logits, labels, hidden, kernel), of_parts)
    difference = fused_head(hidden, kernel, labels)
    print(losses.shape, [scalar.shape for scalar in scalars], bool(abs(difference) < 1e-6))


if __name__ == "__main__":
    main()
