"""The losses and log-sum-exp for pure forward mode: the same names, signatures and values.

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

from jaxsoftmax import _drop_in_losses, _float_labels, _integer_labels
from jaxsoftmax._cross_entropy import cross_entropy_with
from jaxsoftmax._drop_in_losses import LossRules
from jaxsoftmax._forward_logsumexp import logsumexp as logsumexp
from jaxsoftmax._head import schedules, token_chunks
from jaxsoftmax._head.chunk_sizes import Settings, chunk_sizes
from jaxsoftmax._head.linear_cross_entropy import HeadRules, as_settings, linear_cross_entropy_with, validate
from jaxsoftmax._head.problem import HeadInputs, head_size, logits_of
from jaxsoftmax._head.sharded import AxisNames, mesh_plan, sharded_head_loss
from jaxsoftmax._loss_arguments import loss_options, require_reduction
from jaxsoftmax._math import token_loss
from jaxsoftmax._math.precision import accumulation_dtype
from jaxsoftmax._math.token_loss import LossOptions
from jaxsoftmax._sharding import Shards, match_vma
from jaxsoftmax._softmax import log_softmax as log_softmax
from jaxsoftmax._softmax import softmax as softmax
from jaxsoftmax._tangents import inner
from jaxsoftmax._token_labels import TokenLabels


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
    return _drop_in_losses.softmax_cross_entropy_with(_CUSTOM_JVP_RULES, logits, labels, axis, where)


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
    return _drop_in_losses.integer_labels_with(_CUSTOM_JVP_RULES, logits, labels, axis, where)


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
    options = loss_options(ignore_index, label_smoothing, z_loss, logit_softcap)
    arrays = logits, labels, class_weights, token_weights
    return cross_entropy_with(_CUSTOM_JVP_RULES, options, reduction, axis_name, *arrays)


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
    memory_budget: int | None = None,
    schedule: str | None = None,
    axis_name: str | tuple[str, ...] | None = None,
) -> Float[Array, "*batch"]:
    """`jaxsoftmax.linear_cross_entropy` with a forward-mode rule: the tangent of each logit, then <gradient, v> (M25).

    Args, Returns, Raises, Source: as `jaxsoftmax.linear_cross_entropy`; but a chunk has by default the size that it
    has there on a CPU, whatever the platform. `memory_budget` bounds a chunk alone, beside which kernel and bias are
    held in float32; `schedule` changes nothing.

    Differentiation: both modes in hidden, kernel, bias and token weights, to any order, in the memory of a chunk's
    logits: nothing of a chunk is saved, and reverse mode forms its logits again.

    >>> import jax, jax.numpy as jnp
    >>> kernel, labels = jnp.array([[0.0, 0.0]]), jnp.array([0])
    >>> print(jax.jacfwd(linear_cross_entropy)(jnp.array([[1.0]]), kernel + jnp.array([2.0, 0.0]), labels))
    [[-0.23840584]]
    """
    options = loss_options(ignore_index, label_smoothing, z_loss, logit_softcap)
    arrays = hidden, kernel, labels, bias, class_weights, token_weights
    settings = as_settings(chunk_size, memory_budget, schedule)
    return linear_cross_entropy_with(_CUSTOM_JVP_HEAD_RULES, options, reduction, settings, axis_name, *arrays)


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
    memory_budget: int | None = None,
    schedule: str | None = None,
) -> Float[Array, "*batch"]:
    """`jaxsoftmax.sharded_linear_cross_entropy` with a forward-mode rule, as `linear_cross_entropy` has it here (M25).

    Args, Returns, Raises, Source: those of `jaxsoftmax.sharded_linear_cross_entropy`; but over Auto axes XLA has the
    choice how a gradient is sharded.

    Differentiation: both modes in hidden, kernel, bias and token weights, to any order.

    >>> import jax, jax.numpy as jnp
    >>> mesh = jax.make_mesh((jax.device_count(),), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    >>> head = partial(sharded_linear_cross_entropy, labels=jnp.array([0]), mesh=mesh, token_axes="data")
    >>> print(jax.jvp(lambda h: head(h, jnp.array([[2.0, 0.0]])), (jnp.ones((1, 1)),), (jnp.ones((1, 1)),))[1])
    -0.23840584
    """
    require_reduction(reduction)
    options = loss_options(ignore_index, label_smoothing, z_loss, logit_softcap)
    arguments = validate(hidden, kernel, labels, bias, class_weights, token_weights)
    plan = mesh_plan(mesh, token_axes, vocab_axis, arguments.labels.ndim)
    settings = as_settings(chunk_size, memory_budget, schedule)
    return sharded_head_loss(_CUSTOM_JVP_HEAD_RULES, plan, options, reduction, settings, arguments)


@partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def _integer_label_losses(
    options: LossOptions,
    shards: Shards,
    logits: Array,
    labels: TokenLabels,
    class_weights: Array | None,
    where: Array | None,
) -> Array:
    return _integer_labels.losses_and_stats(options, shards, logits, labels, class_weights, where)[0]


@_integer_label_losses.defjvp
def _integer_label_losses_jvp(options, shards, primals, tangents):
    logits, labels, class_weights, where = primals
    losses, stats = _integer_labels.losses_and_stats(options, shards, logits, labels, class_weights, where, shared=True)
    by_logits = _integer_labels.gradient(
        options, shards, logits, labels, class_weights, where, stats, jnp.ones_like(losses)
    )
    return losses, shards.psum(inner(by_logits, tangents[0], -1)[..., 0])  # (M25)


@partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def _float_label_losses(
    options: LossOptions, shards: Shards, logits: Array, labels: Array, class_weights: Array | None, where: Array | None
) -> Array:
    return _float_labels.losses_and_stats(options, shards, logits, labels, class_weights, where)[0]


@partial(_float_label_losses.defjvp, symbolic_zeros=True)
def _float_label_losses_jvp(options, shards, primals, tangents):
    logits, labels, class_weights, where = primals
    losses, stats = _float_labels.losses_and_stats(options, shards, logits, labels, class_weights, where)
    by_logits = _float_labels.logits_gradient(options, shards, logits, labels, class_weights, where, stats)
    by_labels = _float_labels.labels_gradient(options, logits, labels, class_weights, where, stats)
    losses_dot = inner(by_logits, tangents[0], -1) + inner(by_labels, tangents[1], -1)  # (M26, M12)
    return losses, shards.psum(losses_dot[..., 0])


def _linear_losses(
    options: LossOptions,
    shards: Shards,
    settings: Settings,
    inputs: HeadInputs,
    labels: TokenLabels,
    class_weights: Array | None,
) -> Array:
    weights = inputs._replace(hidden=None)
    # Wide outside of the chunks: a transpose adds the chunks' gradients up where the weights come in.
    wide = jax.tree.map(lambda w: w.astype(accumulation_dtype(w.dtype)), weights)
    of_tokens = inputs.hidden, labels.standing
    (wide, class_weights), _ = match_vma(shards, (wide, class_weights), of_tokens)

    def loss(x: Array, y: TokenLabels) -> Array:
        narrow = jax.tree.map(lambda w, given: w.astype(given.dtype), wide, weights)
        return _integer_label_losses(options, shards, logits_of(x, narrow), y, class_weights, None)

    # A chunk of one size on every platform: a derivative through a choice would save what each side of it needs.
    chunk = chunk_sizes(schedules.ON_EVERY_PLATFORM, settings, head_size(inputs)).tokens
    return token_chunks.losses_of_tokens(loss, options, shards, chunk, inputs, labels)


def _linear_total(
    options: LossOptions,
    shards: Shards,
    settings: Settings,
    inputs: HeadInputs,
    scale: Array,
    labels: TokenLabels,
    class_weights: Array | None,
) -> Array:
    losses = _linear_losses(options, shards, settings, inputs, labels, class_weights)
    return jnp.sum(token_loss.weighted(scale, losses))


_CUSTOM_JVP_RULES = LossRules(_integer_label_losses, _float_label_losses)
_CUSTOM_JVP_HEAD_RULES = HeadRules(_linear_total, _linear_losses)
