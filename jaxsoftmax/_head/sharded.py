"""The fused head over global arrays on a mesh: each device takes its own tokens through its own classes."""

from functools import partial
from typing import Any, Literal, Unpack, overload

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec
from jax.typing import ArrayLike, DTypeLike
from jaxtyping import Bool, Float, Int, Real

from jaxsoftmax._head.arguments import HeadArguments, HeadKeywords, PrecisionLike, as_settings, validate
from jaxsoftmax._head.loss import HeadTask, head_loss, head_task
from jaxsoftmax._head.mesh_plan import AxisNames, MeshPlan, mesh_plan
from jaxsoftmax._head.rules import CUSTOM_VJP_RULES, HeadRules
from jaxsoftmax._loss_arguments import loss_options
from jaxsoftmax._loss_parts import LossParts, with_parts
from jaxsoftmax._math.loss_options import LossOptions
from jaxsoftmax._rule_binding import with_rules
from jaxsoftmax._sharding import Shards
from jaxsoftmax._sparse_labels import SparseLabels


@overload
def sharded_linear_cross_entropy(
    hidden: Float[ArrayLike, "*batch embed"],
    kernel: Float[ArrayLike, "embed vocab"] | Float[ArrayLike, "vocab embed"],
    labels: Int[ArrayLike, "*batch"] | SparseLabels,
    *,
    mesh: Mesh | AbstractMesh,
    token_axes: AxisNames | PartitionSpec,
    vocab_axis: AxisNames | None = None,
    has_aux: Literal[False] = False,
    **keywords: Unpack[HeadKeywords],
) -> Float[Array, "*batch"]: ...


@overload
def sharded_linear_cross_entropy(
    hidden: Float[ArrayLike, "*batch embed"],
    kernel: Float[ArrayLike, "embed vocab"] | Float[ArrayLike, "vocab embed"],
    labels: Int[ArrayLike, "*batch"] | SparseLabels,
    *,
    mesh: Mesh | AbstractMesh,
    token_axes: AxisNames | PartitionSpec,
    vocab_axis: AxisNames | None = None,
    has_aux: Literal[True],
    **keywords: Unpack[HeadKeywords],
) -> tuple[Float[Array, "*batch"], LossParts]: ...


@overload
def sharded_linear_cross_entropy(
    hidden: Float[ArrayLike, "*batch embed"],
    kernel: Float[ArrayLike, "embed vocab"] | Float[ArrayLike, "vocab embed"],
    labels: Int[ArrayLike, "*batch"] | SparseLabels,
    *,
    mesh: Mesh | AbstractMesh,
    token_axes: AxisNames | PartitionSpec,
    vocab_axis: AxisNames | None = None,
    has_aux: bool = False,
    **keywords: Unpack[HeadKeywords],
) -> Float[Array, "*batch"] | tuple[Float[Array, "*batch"], LossParts]: ...


@with_rules(CUSTOM_VJP_RULES)
def sharded_linear_cross_entropy(
    _rules: HeadRules,
    /,
    hidden: Float[ArrayLike, "*batch embed"],
    kernel: Float[ArrayLike, "embed vocab"] | Float[ArrayLike, "vocab embed"],
    labels: Int[ArrayLike, "*batch"] | SparseLabels,
    *,
    mesh: Mesh | AbstractMesh,
    token_axes: AxisNames | PartitionSpec,
    vocab_axis: AxisNames | None = None,
    bias: Float[ArrayLike, " vocab"] | None = None,
    class_weights: Real[ArrayLike, " vocab"] | None = None,
    token_weights: Real[ArrayLike, "*batch"] | Bool[ArrayLike, "*batch"] | None = None,
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
) -> Float[Array, "*batch"] | tuple[Float[Array, "*batch"], LossParts]:
    """`linear_cross_entropy` of global arrays on a mesh, under plain `jax.jit` (M16, M22, M24-M27).

    Each device takes the chunks of its own tokens through its own classes. Over `vocab_axis` go one maximum and one sum
    of a few numbers a token, and a sum of the gradient in `hidden`; over `token_axes` a sum of the loss and of the
    gradients in `kernel` and `bias`. No device holds another's tokens, nor more of the kernel than its classes.

    Args:
      hidden: floating, [*batch, embed].
      kernel: floating, [embed, vocab]. Where it is sharded over embed too (FSDP), each device gathers its classes.
      labels: integers in [0, vocab), [*batch]; or `SparseLabels`.
      mesh: of Auto and Explicit axes. Over axes in neither `token_axes` nor `vocab_axis` all devices compute the
        same.
      token_axes: the axis or axes over which the first batch dimension is sharded; or a `PartitionSpec` of [*batch],
        such as P("data", "sequence").
      vocab_axis: the axis or axes over which the classes are sharded, contiguously; None if each device has
        them all.
      bias: as in `linear_cross_entropy`, and so are all the following.
      class_weights: w, [vocab].
      token_weights: u, [*batch], numbers or a boolean mask; 1 if None.
      ignore_index: an integer label to leave out.
      label_smoothing: eps in [0, 1].
      z_loss: zeta >= 0.
      logit_softcap: c > 0, or None.
      reduction: "mean" (over all tokens of the mesh, by the global sum of their weights), "sum" or "none".
      has_aux: whether to return `(loss, LossParts)`, of all tokens of the mesh.
      transposed_kernel: whether the kernel is [vocab, embed].
      dtype: that of hidden and kernel in the products, or None.
      precision: of the products, or None.
      chunk_size: tokens of each device whose logits are held at a time.
      memory_budget: bytes of temporary arrays on each device.
      schedule: "pallas" or None.

    Returns:
      The loss, as of `linear_cross_entropy`. Sizes that the mesh doesn't divide are padded, the kernel by a copy;
      padding has no part in any number. Over Explicit axes gradients come back sharded as their arguments; over
      Auto axes XLA has the choice, and shards the kernel's over embed too where the kernel is.

    Raises:
      TypeError: as `linear_cross_entropy`; `mesh` is no mesh, or an axis no name.
      ValueError: as `linear_cross_entropy`; an axis that the mesh lacks, or one that is named twice.

    Differentiation: as `linear_cross_entropy`; over Auto axes hidden, kernel and bias are saved besides, and gradients
    are saved in float32 until they are summed over devices. For pure forward mode use
    `jaxsoftmax.forward_mode.sharded_linear_cross_entropy`.

    Source: M14, M16, M22, M24-M27, M31, M33.

    >>> import jax, jax.numpy as jnp
    >>> mesh = jax.make_mesh((jax.device_count(),), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    >>> hidden, kernel = jnp.array([[1.0, 0.0], [0.0, 0.0]]), jnp.array([[0.0, -20.0], [0.0, 0.0]])
    >>> loss = jax.jit(lambda h, k, y: sharded_linear_cross_entropy(h, k, y, mesh=mesh, token_axes="data"))
    >>> print(loss(hidden, kernel, jnp.array([0, 1])))
    0.3465736
    """
    options = loss_options(ignore_index, label_smoothing, z_loss, logit_softcap)
    settings = as_settings(chunk_size, memory_budget, schedule, dtype, precision, transposed_kernel)
    arguments = validate(settings, options, hidden, kernel, labels, bias, class_weights, token_weights)
    plan = mesh_plan(mesh, token_axes, vocab_axis, len(arguments.batch))
    if plan.axes(AxisType.Auto):  # of an Explicit axis JAX sees to it itself
        given = {name: getattr(arguments, name) for name in ("hidden", "kernel", "bias")}
        arguments = arguments._replace(**jax.tree.map(_rules.sharded_as_given, given))
    task = head_task(_rules, reduction, has_aux, settings)
    loss, parts = _of_mesh(task, plan, options, arguments)
    return with_parts(task.has_aux, loss, parts)


@partial(jax.jit, static_argnums=(0, 1))  # without jit, a `jax.shard_map` doesn't take symbolic zeros
def _of_mesh(task: HeadTask, plan: MeshPlan, options: LossOptions, arguments: HeadArguments) -> Any:
    """The head's loss and its parts, from each device's part of the arguments."""
    arguments = arguments.with_embed_first(task.settings)
    task = task._replace(settings=task.settings._replace(transposed_kernel=False))
    batch, vocab = arguments.batch, arguments.kernel.shape[1]
    padded = _padded(plan, options, arguments)
    unpadded = vocab if padded.kernel.shape[1] > vocab else None
    shards = Shards(plan.classes, sum(plan.tokens, ()), unpadded)
    on_devices = jax.shard_map(
        partial(head_loss, task, shards),
        mesh=plan.mesh,
        in_specs=(PartitionSpec(), plan.specs()),
        out_specs=PartitionSpec(*plan.tokens) if task.reduction == "none" else PartitionSpec(),
    )
    loss_and_parts = on_devices(options, _placed(plan, padded))
    if task.reduction != "none":
        return loss_and_parts
    return jax.tree.map(lambda of_tokens: _without_padding(plan, of_tokens, batch), loss_and_parts)


def _padded(plan: MeshPlan, options: LossOptions, arguments: HeadArguments) -> HeadArguments:
    """The arguments, padded with tokens of weight 0 and with columns that are no classes."""
    hidden, labels, token_weights, kernel, bias, class_weights = arguments
    rows = [(0, plan.padding(n, axes)) for n, axes in zip(arguments.batch, plan.tokens, strict=True)]
    columns = [(0, plan.padding(kernel.shape[1], plan.classes))]
    if any(after for _, after in rows):
        token_weights = jnp.pad(jnp.ones(arguments.batch) if token_weights is None else token_weights, rows)
        repeated = partial(_with_last_repeated, times=[after for _, after in rows])
        hidden, labels = jax.tree.map(repeated, (hidden, labels))
    if columns[0][1]:
        if class_weights is not None or options.smooths:
            class_weights = jnp.pad(jnp.ones(kernel.shape[1]) if class_weights is None else class_weights, columns)
        kernel, bias = jnp.pad(kernel, [(0, 0), *columns]), None if bias is None else jnp.pad(bias, columns)
    return HeadArguments(hidden, labels, token_weights, kernel, bias, class_weights)


def _with_last_repeated(tokens: Array, times: list[int]) -> Array:
    """Hidden states or labels, padded in each batch dimension with its last token.

    Zero hidden states times an infinite kernel are NaN. Labels are repeated too, so that a copied NaN stays ignored.
    """
    for axis, missing in enumerate(times):
        size = tokens.shape[axis]
        if missing:  # else the dimension may be sharded over an Explicit axis, and can't be sliced
            last = lax.slice_in_dim(tokens, size - 1, size, axis=axis)
            tokens = jnp.concatenate([tokens, *[last] * missing], axis)
    return tokens


def _placed(plan: MeshPlan, arguments: HeadArguments) -> HeadArguments:
    """The arguments, sharded as the plan says; over Auto axes `jax.shard_map` does that itself."""
    arguments = arguments._replace(kernel=_sharded_over_classes(plan, arguments.kernel))
    explicit = plan.axes(AxisType.Explicit)
    if not explicit:
        return arguments
    specs = (PartitionSpec(*(_among(explicit, axes) for axes in spec)) for spec in plan.specs())
    on = (jax.tree.map(partial(_on, plan, spec), array) for array, spec in zip(arguments, specs, strict=True))
    return HeadArguments(*on)


def _without_padding(plan: MeshPlan, losses: Array, batch: tuple[int, ...]) -> Array:
    """The losses of the batch, without those of padding."""
    explicit = plan.axes(AxisType.Explicit)
    if explicit:  # a dimension that the mesh doesn't divide can't be sharded
        whole = (axes if n == m else () for axes, n, m in zip(plan.tokens, losses.shape, batch, strict=True))
        losses = _on(plan, PartitionSpec(*(_among(explicit, axes) for axes in whole)), losses)
    return losses[tuple(map(slice, batch))]


def _on(plan: MeshPlan, spec: PartitionSpec, array: Array) -> Array:
    return jax.sharding.reshard(array, NamedSharding(plan.mesh, spec))


def _sharded_over_classes(plan: MeshPlan, kernel: Array) -> Array:
    """The kernel, sharded over its classes besides: else XLA gathers all of it, and takes the device's part then."""
    auto, explicit = (_among(plan.axes(kind), plan.classes) for kind in (AxisType.Auto, AxisType.Explicit))
    if auto:
        spec = PartitionSpec(PartitionSpec.UNCONSTRAINED, auto)
        kernel = lax.with_sharding_constraint(kernel, NamedSharding(plan.mesh, spec))
    if explicit:
        embed = tuple(axis for axis in _names(jax.typeof(kernel).sharding.spec[0]) if axis not in explicit)
        kernel = _on(plan, PartitionSpec(embed, explicit), kernel)
    return kernel


def _among(axes: tuple[str, ...], entry: AxisNames | None) -> tuple[str, ...]:
    return tuple(axis for axis in _names(entry) if axis in axes)


def _names(entry: AxisNames | None) -> tuple[str, ...]:
    """The axes that an entry of a `PartitionSpec` names."""
    return (entry,) if isinstance(entry, str) else entry or ()
