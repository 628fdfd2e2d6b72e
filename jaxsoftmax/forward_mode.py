"""Twins of the losses and of log-sum-exp, for pure forward mode: the same names, signatures and values.

JAX refuses `jax.jvp`, `jax.jacfwd` and `jax.linearize` through a function whose gradient is attached with
`jax.custom_vjp`, as the functions of `jaxsoftmax` are. These attach the same closed forms with `jax.custom_jvp`:
the tangent is <gradient, v>, linear in v, and JAX transposes it for reverse mode. Both modes work to any order; the
price is that the gradient [*batch, vocab] is saved for a later transpose, where `jaxsoftmax` saves row statistics (of
`linear_cross_entropy` nothing is saved: each chunk's logits are formed again), and that the derivative in a label at a
logit of -inf, which is infinite, makes even a tangent of 0 in that label a NaN.

>>> import jax, jax.numpy as jnp
>>> logits, v = jnp.array([0.0, -20.0]), jnp.array([1.0, 0.0])
>>> loss, slope = jax.jvp(lambda x: softmax_cross_entropy_with_integer_labels(x, 0), (logits,), (v,))
>>> print(loss, slope)
2.0611537e-09 -2.0611537e-09
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax import Array
from jax.sharding import AbstractMesh, Mesh, PartitionSpec
from jax.typing import ArrayLike
from jaxtyping import Bool, Float, Int, Real

from jaxsoftmax import (
    _class_blocks,
    _cross_entropy,
    _float_labels,
    _integer_labels,
    _linear_cross_entropy,
    _lse_state,
    _parallel,
    _shards,
    _token_chunks,
    _token_loss,
)
from jaxsoftmax._class_blocks import Head
from jaxsoftmax._cross_entropy import LossRules
from jaxsoftmax._forward_logsumexp import logsumexp as logsumexp
from jaxsoftmax._linear_cross_entropy import LinearRules
from jaxsoftmax._parallel import AxisNames
from jaxsoftmax._softmax import log_softmax as log_softmax
from jaxsoftmax._softmax import softmax as softmax
from jaxsoftmax._tangents import inner
from jaxsoftmax._token_chunks import Chunk
from jaxsoftmax._token_loss import LossOptions


def softmax_cross_entropy(
    logits: Float[ArrayLike, "..."],
    labels: Real[ArrayLike, "..."],
    axis: int | tuple[int, ...] | None = -1,
    where: Bool[ArrayLike, "..."] | None = None,
) -> Float[Array, "*batch"]:
    """`jaxsoftmax.softmax_cross_entropy` with a forward-mode rule: <s sum(t) - t, v> - <log s, t_dot> (M11, M12).

    Args, Returns, Raises, Source: as `jaxsoftmax.softmax_cross_entropy`.

    Differentiation: both modes in logits and labels, to any order (`jax.custom_jvp`).

    >>> import jax, jax.numpy as jnp
    >>> print(jax.jacfwd(softmax_cross_entropy)(jnp.array([0.0, 0.0]), jnp.array([1.0, 0.0])))
    [-0.5  0.5]
    """
    return _cross_entropy.apply_float_labels(_BOTH_MODES, logits, labels, axis, where)


def softmax_cross_entropy_with_integer_labels(
    logits: Float[ArrayLike, "..."],
    labels: Int[ArrayLike, "*batch"],
    axis: int | tuple[int, ...] = -1,
    where: Bool[ArrayLike, "..."] | None = None,
) -> Float[Array, "*batch"]:
    """`jaxsoftmax.softmax_cross_entropy_with_integer_labels` with a forward-mode rule: <s - e_y, v> (M11).

    Args, Returns, Raises, Source: as `jaxsoftmax.softmax_cross_entropy_with_integer_labels`.

    Differentiation: both modes in the logits, to any order (`jax.custom_jvp`).

    >>> import jax, jax.numpy as jnp
    >>> print(jax.jacfwd(softmax_cross_entropy_with_integer_labels)(jnp.array([0.0, 0.0]), 0))
    [-0.5  0.5]
    """
    return _cross_entropy.apply_integer_labels(_BOTH_MODES, logits, labels, axis, where)


def cross_entropy(
    logits: Float[ArrayLike, "*batch vocab"],
    labels: Int[ArrayLike, "*batch"] | Float[ArrayLike, "*batch vocab"],
    *,
    class_weights: Real[ArrayLike, " vocab"] | None = None,
    token_weights: Real[ArrayLike, "*batch"] | None = None,
    ignore_index: int | None = None,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
    logit_softcap: float | None = None,
    reduction: str = "mean",
    axis_name: str | tuple[str, ...] | None = None,
) -> Float[Array, "*batch"]:
    """`jaxsoftmax.cross_entropy` with a forward-mode rule: the tangent is <gradient, v> (M25-M27).

    Args, Returns, Raises, Source: as `jaxsoftmax.cross_entropy`.

    Differentiation: both modes in logits, float labels and token weights, to any order (`jax.custom_jvp`).

    >>> import jax, jax.numpy as jnp
    >>> print(jax.jacfwd(cross_entropy)(jnp.array([[0.0, 0.0]]), jnp.array([0])))
    [[-0.5  0.5]]
    """
    options = _cross_entropy.loss_options(ignore_index, label_smoothing, z_loss, logit_softcap, axis_name)
    return _cross_entropy.apply_training_loss(
        _BOTH_MODES, options, logits, labels, class_weights, token_weights, reduction
    )


def linear_cross_entropy(
    hidden: Float[ArrayLike, "*batch embed"],
    kernel: Float[ArrayLike, "embed vocab"],
    labels: Int[ArrayLike, "*batch"],
    *,
    bias: Float[ArrayLike, " vocab"] | None = None,
    class_weights: Real[ArrayLike, " vocab"] | None = None,
    token_weights: Real[ArrayLike, "*batch"] | None = None,
    ignore_index: int | None = None,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
    logit_softcap: float | None = None,
    reduction: str = "mean",
    chunk_size: int | None = None,
    axis_name: str | tuple[str, ...] | None = None,
) -> Float[Array, "*batch"]:
    """`jaxsoftmax.linear_cross_entropy` with a forward-mode rule: the tangent of each logit, then <gradient, v> (M25).

    Args, Returns, Raises, Source: as `jaxsoftmax.linear_cross_entropy`.

    Differentiation: both modes in hidden, kernel, bias and token weights, to any order, in the memory of a chunk's
    logits: nothing of a chunk is saved, and reverse mode forms its logits again.

    >>> import jax, jax.numpy as jnp
    >>> kernel, labels = jnp.array([[0.0, 0.0]]), jnp.array([0])
    >>> print(jax.jacfwd(linear_cross_entropy)(jnp.array([[1.0]]), kernel + jnp.array([2.0, 0.0]), labels))
    [[-0.23840584]]
    """
    options = _cross_entropy.loss_options(ignore_index, label_smoothing, z_loss, logit_softcap, axis_name)
    arguments, chunk_size = _linear_cross_entropy.checked(
        hidden, kernel, labels, bias, class_weights, token_weights, reduction, chunk_size
    )
    return _linear_cross_entropy.apply(_BOTH_MODES_LINEAR, options, arguments, reduction, chunk_size)


def sharded_linear_cross_entropy(
    hidden: Float[ArrayLike, "*batch embed"],
    kernel: Float[ArrayLike, "embed vocab"],
    labels: Int[ArrayLike, "*batch"],
    *,
    mesh: Mesh | AbstractMesh,
    token_axes: AxisNames | PartitionSpec,
    vocab_axis: AxisNames | None = None,
    bias: Float[ArrayLike, " vocab"] | None = None,
    class_weights: Real[ArrayLike, " vocab"] | None = None,
    token_weights: Real[ArrayLike, "*batch"] | None = None,
    ignore_index: int | None = None,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
    logit_softcap: float | None = None,
    reduction: str = "mean",
    chunk_size: int | None = None,
) -> Float[Array, "*batch"]:
    """`jaxsoftmax.sharded_linear_cross_entropy` with a forward-mode rule, as `linear_cross_entropy` has it here (M25).

    Args, Returns, Raises, Source: as there; but over Auto axes XLA has the choice how a gradient is spread.

    Differentiation: both modes in hidden, kernel, bias and token weights, to any order.

    >>> import jax, jax.numpy as jnp
    >>> mesh = jax.make_mesh((jax.device_count(),), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    >>> head = partial(sharded_linear_cross_entropy, labels=jnp.array([0]), mesh=mesh, token_axes="data")
    >>> print(jax.jvp(lambda h: head(h, jnp.array([[2.0, 0.0]])), (jnp.ones((1, 1)),), (jnp.ones((1, 1)),))[1])
    -0.23840584
    """
    options = _cross_entropy.loss_options(ignore_index, label_smoothing, z_loss, logit_softcap)
    arguments, chunk_size = _linear_cross_entropy.checked(
        hidden, kernel, labels, bias, class_weights, token_weights, reduction, chunk_size
    )
    plan = _parallel.plan_of(mesh, token_axes, vocab_axis, arguments.labels.ndim)
    return _parallel.apply(_BOTH_MODES_LINEAR, plan, options, arguments, reduction, chunk_size)


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def _integer_label_losses(
    options: LossOptions, logits: Array, labels: Array, class_weights: Array | None, where: Array | None
) -> Array:
    return _integer_labels.primal(options, logits, labels, class_weights, where, reused=False)[0]


@_integer_label_losses.defjvp
def _integer_label_losses_jvp(options, primals, tangents):
    logits, labels, class_weights, where = primals
    losses, row = _integer_labels.primal(options, logits, labels, class_weights, where)
    rows = _integer_labels.gradient(options, logits, labels, class_weights, where, row.state)
    return losses, options.shards.sum(inner(rows, tangents[0], -1)[..., 0])  # (M25)


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def _float_label_losses(
    options: LossOptions, logits: Array, labels: Array, class_weights: Array | None, where: Array | None
) -> Array:
    return _float_labels.primal(options, logits, labels, class_weights, where)[0]


@partial(_float_label_losses.defjvp, symbolic_zeros=True)
def _float_label_losses_jvp(options, primals, tangents):
    logits, labels, class_weights, where = primals
    losses, statistics = _float_labels.primal(options, logits, labels, class_weights, where)
    by_logits, by_labels = _float_labels.gradients(options, logits, labels, class_weights, where, statistics)
    losses_dot = inner(by_logits, tangents[0], -1) + inner(by_labels, tangents[1], -1)  # (M26, M12)
    return losses, options.shards.sum(losses_dot[..., 0])


def _linear_losses(options: LossOptions, chunk: Chunk, head: Head, labels: Array, class_weights: Array | None) -> Array:
    weights = head._replace(hidden=None)
    # Wide outside of the chunks: a transpose adds the chunks' gradients up where the weights come in.
    wide = jax.tree.map(lambda w: w.astype(_lse_state.accumulation_dtype(w.dtype)), weights)
    (wide, class_weights), _ = _shards.alike(options.shards, (wide, class_weights), (head.hidden, labels))

    def loss(x: Array, y: Array) -> Array:
        narrow = jax.tree.map(lambda w, given: w.astype(given.dtype), wide, weights)
        return _integer_label_losses(options, _class_blocks.logits(x, narrow), y, class_weights, None)

    return _token_chunks.losses(loss, options, chunk, head, labels)


def _linear_total(
    options: LossOptions, chunk: Chunk, head: Head, scale: Array, labels: Array, class_weights: Array | None
) -> Array:
    return jnp.sum(_token_loss.weighted(scale, _linear_losses(options, chunk, head, labels, class_weights)))


_BOTH_MODES = LossRules(_integer_label_losses, _float_label_losses)
_BOTH_MODES_LINEAR = LinearRules(_linear_total, _linear_losses)
