"""The fused heads for pure forward mode."""

from jax import Array
from jax.sharding import AbstractMesh, Mesh, PartitionSpec
from jax.typing import ArrayLike, DTypeLike
from jaxtyping import Float, Int, Real

from jaxsoftmax._distillation import as_divergence
from jaxsoftmax._head.arguments import PrecisionLike, as_settings, validate
from jaxsoftmax._head.linear_distillation import DistillationTask, linear_distillation_with, validate_heads
from jaxsoftmax._head.linear_token_stats import linear_token_stats_with
from jaxsoftmax._head.loss import head_task, linear_cross_entropy_with
from jaxsoftmax._head.mesh_plan import AxisNames, mesh_plan
from jaxsoftmax._head.sharded import sharded_linear_cross_entropy_with
from jaxsoftmax._loss_arguments import loss_options
from jaxsoftmax._row_stats import TokenStats
from jaxsoftmax._sparse_labels import SparseLabels
from jaxsoftmax.forward_mode._rules import CUSTOM_JVP_DISTILLATION_RULES, CUSTOM_JVP_HEAD_RULES


def linear_cross_entropy(
    hidden: Float[ArrayLike, "*batch embed"],
    kernel: Float[ArrayLike, "embed vocab"] | Float[ArrayLike, "vocab embed"],
    labels: Int[ArrayLike, "*batch"] | SparseLabels,
    *,
    bias: Float[ArrayLike, " vocab"] | None = None,
    class_weights: Real[ArrayLike, " vocab"] | None = None,
    token_weights: Real[ArrayLike, "*batch"] | None = None,
    ignore_index: int | None = None,
    label_smoothing: float | Float[Array, ""] = 0.0,
    z_loss: float | Float[Array, ""] = 0.0,
    logit_softcap: float | Float[Array, ""] | None = None,
    reduction: str = "mean",
    has_aux: bool = False,
    transposed_kernel: bool = False,
    dtype: DTypeLike | None = None,
    precision: PrecisionLike = None,
    chunk_size: int | None = None,
    memory_budget: int | None = None,
    schedule: str | None = None,
    axis_name: str | tuple[str, ...] | None = None,
) -> Float[Array, "*batch"]:
    """`jaxsoftmax.linear_cross_entropy` with a forward-mode rule: a tangent of logits, then <gradient, v> (M25).

    Args, Returns, Raises, Source: as `jaxsoftmax.linear_cross_entropy`; but a chunk has by default the size that it
    has there on a CPU, whatever the platform. `memory_budget` bounds a chunk alone, beside which kernel and bias are
    held in float32; `schedule` changes nothing.

    Differentiation: both modes in hidden, kernel, bias and the weights of tokens and labels, to any order, in the
    memory of a chunk's logits: nothing of a chunk is saved, and reverse mode forms its logits again.

    >>> import jax, jax.numpy as jnp
    >>> kernel, labels = jnp.array([[0.0, 0.0]]), jnp.array([0])
    >>> print(jax.jacfwd(linear_cross_entropy)(jnp.array([[1.0]]), kernel + jnp.array([2.0, 0.0]), labels))
    [[-0.23840584]]
    """
    options = loss_options(ignore_index, label_smoothing, z_loss, logit_softcap)
    settings = as_settings(chunk_size, memory_budget, schedule, dtype, precision, transposed_kernel)
    arguments = validate(settings, options, hidden, kernel, labels, bias, class_weights, token_weights)
    task = head_task(CUSTOM_JVP_HEAD_RULES, reduction, has_aux, settings)
    return linear_cross_entropy_with(task, options, axis_name, arguments)


def linear_token_stats(
    hidden: Float[ArrayLike, "*batch embed"],
    kernel: Float[ArrayLike, "embed vocab"] | Float[ArrayLike, "vocab embed"],
    labels: Int[ArrayLike, "*batch"],
    *,
    bias: Float[ArrayLike, " vocab"] | None = None,
    temperature: float | Float[Array, ""] = 1.0,
    logit_softcap: float | Float[Array, ""] | None = None,
    ignore_index: int | None = None,
    transposed_kernel: bool = False,
    dtype: DTypeLike | None = None,
    precision: PrecisionLike = None,
    chunk_size: int | None = None,
    memory_budget: int | None = None,
    axis_name: str | tuple[str, ...] | None = None,
) -> TokenStats:
    """`jaxsoftmax.linear_token_stats` with a forward-mode rule: the tangent of each logit, then <gradient, v> (M28).

    Args, Returns, Raises, Source: as `jaxsoftmax.linear_token_stats`; but a chunk has by default the size that it has
    there on a CPU, whatever the platform.

    Differentiation: both modes in hidden, kernel and bias, to any order, in the memory of a chunk's logits.

    >>> import jax, jax.numpy as jnp
    >>> kernel, labels = jnp.array([[2.0, 0.0]]), jnp.array([0])
    >>> print(jax.jacfwd(lambda h: linear_token_stats(h, kernel, labels).log_prob)(jnp.array([[1.0]])))
    [[[0.23840584]]]
    """
    options = loss_options(ignore_index, logit_softcap=logit_softcap, temperature=temperature)
    settings = as_settings(chunk_size, memory_budget, None, dtype, precision, transposed_kernel)
    arguments = validate(settings, options, hidden, kernel, labels, bias, sparse=False)
    return linear_token_stats_with(CUSTOM_JVP_HEAD_RULES, settings, options, axis_name, arguments)


def sharded_linear_cross_entropy(
    hidden: Float[ArrayLike, "*batch embed"],
    kernel: Float[ArrayLike, "embed vocab"] | Float[ArrayLike, "vocab embed"],
    labels: Int[ArrayLike, "*batch"] | SparseLabels,
    *,
    mesh: Mesh | AbstractMesh,
    token_axes: AxisNames | PartitionSpec,
    vocab_axis: AxisNames | None = None,
    bias: Float[ArrayLike, " vocab"] | None = None,
    class_weights: Real[ArrayLike, " vocab"] | None = None,
    token_weights: Real[ArrayLike, "*batch"] | None = None,
    ignore_index: int | None = None,
    label_smoothing: float | Float[Array, ""] = 0.0,
    z_loss: float | Float[Array, ""] = 0.0,
    logit_softcap: float | Float[Array, ""] | None = None,
    reduction: str = "mean",
    has_aux: bool = False,
    transposed_kernel: bool = False,
    dtype: DTypeLike | None = None,
    precision: PrecisionLike = None,
    chunk_size: int | None = None,
    memory_budget: int | None = None,
    schedule: str | None = None,
) -> Float[Array, "*batch"]:
    """`jaxsoftmax.sharded_linear_cross_entropy` with a forward-mode rule, as `linear_cross_entropy` has it here (M25).

    Args, Returns, Raises, Source: those of `jaxsoftmax.sharded_linear_cross_entropy`; but over Auto axes XLA has the
    choice how a gradient is sharded.

    Differentiation: both modes in hidden, kernel, bias and the weights of tokens and labels, to any order.

    >>> import jax, jax.numpy as jnp
    >>> mesh = jax.make_mesh((jax.device_count(),), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    >>> from functools import partial
    >>> head = partial(sharded_linear_cross_entropy, labels=jnp.array([0]), mesh=mesh, token_axes="data")
    >>> print(jax.jvp(lambda h: head(h, jnp.array([[2.0, 0.0]])), (jnp.ones((1, 1)),), (jnp.ones((1, 1)),))[1])
    -0.23840584
    """
    options = loss_options(ignore_index, label_smoothing, z_loss, logit_softcap)
    settings = as_settings(chunk_size, memory_budget, schedule, dtype, precision, transposed_kernel)
    arguments = validate(settings, options, hidden, kernel, labels, bias, class_weights, token_weights)
    plan = mesh_plan(mesh, token_axes, vocab_axis, len(arguments.batch))
    task = head_task(CUSTOM_JVP_HEAD_RULES, reduction, has_aux, settings)
    return sharded_linear_cross_entropy_with(task, plan, options, arguments)


def linear_distillation(
    hidden: Float[ArrayLike, "*batch embed"],
    kernel: Float[ArrayLike, "embed vocab"],
    teacher_hidden: Float[ArrayLike, "*batch teacher_embed"],
    teacher_kernel: Float[ArrayLike, "teacher_embed vocab"],
    *,
    bias: Float[ArrayLike, " vocab"] | None = None,
    teacher_bias: Float[ArrayLike, " vocab"] | None = None,
    divergence: str = "forward_kl",
    beta: float = 0.5,
    temperature: float | Float[Array, ""] = 1.0,
    token_weights: Real[ArrayLike, "*batch"] | None = None,
    reduction: str = "mean",
    chunk_size: int | None = None,
    memory_budget: int | None = None,
    axis_name: str | tuple[str, ...] | None = None,
) -> Float[Array, "..."]:
    """`jaxsoftmax.linear_distillation` with a forward-mode rule: the tangent is <gradient, v> (M29, M30).

    Args, Returns, Raises, Source: as `jaxsoftmax.linear_distillation`; but a chunk has by default the size that it has
    there on a CPU, whatever the platform.

    Differentiation: both modes in hidden, kernel and bias of either head and the token weights, to any order.

    >>> import jax, jax.numpy as jnp
    >>> kernel, teacher = jnp.array([[0.0, 1.0]]), jnp.array([[2.0]])
    >>> slope = jax.jacfwd(linear_distillation)(jnp.array([[1.0]]), kernel, teacher, kernel)
    >>> print(round(float(slope[0, 0]), 4))
    -0.1497
    """
    which, options = as_divergence(divergence, beta), loss_options(temperature=temperature)
    settings = as_settings(chunk_size, memory_budget)
    arguments = validate_heads(
        settings, hidden, kernel, teacher_hidden, teacher_kernel, bias, teacher_bias, token_weights
    )
    task = DistillationTask(CUSTOM_JVP_DISTILLATION_RULES, which, reduction, settings)
    return linear_distillation_with(task, options, axis_name, arguments)
