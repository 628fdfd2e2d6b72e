"""The fused head over global arrays on a mesh: each device takes its own tokens through its own classes."""

import math
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec
from jax.typing import ArrayLike
from jaxtyping import Float, Int, Real

from jaxsoftmax import _checks
from jaxsoftmax._head.auto_sharding import sharded_like
from jaxsoftmax._head.chunk_sizes import Settings
from jaxsoftmax._head.linear_cross_entropy import (
    CUSTOM_VJP_RULES,
    HeadArguments,
    HeadRules,
    as_settings,
    head_loss,
    validate,
)
from jaxsoftmax._loss_arguments import loss_options, require_reduction
from jaxsoftmax._math.token_loss import LossOptions
from jaxsoftmax._sharding import Shards

AxisNames = str | tuple[str, ...]


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
    """`linear_cross_entropy` of global arrays on a mesh, under plain `jax.jit` (M16, M22, M24-M27).

    Each device takes the chunks of its own tokens through its own classes. Over `vocab_axis` go one maximum and one sum
    of a few numbers a token, and a sum of the gradient in `hidden`; over `token_axes` a sum of the loss and of the
    gradients in `kernel` and `bias`. No device holds another's tokens, nor more of the kernel than its classes.

    Args:
      hidden: floating, [*batch, embed].
      kernel: floating, [embed, vocab]. Where it is sharded over embed too (FSDP), each device gathers its classes.
      labels: integers in [0, vocab), [*batch].
      mesh: of Auto and Explicit axes. Over those named neither here nor there all devices compute the same.
      token_axes: the axis or axes over which the first batch dimension is sharded; or a `PartitionSpec` of [*batch],
        such as P("data", "sequence").
      vocab_axis: the axis or axes over which the classes are sharded, contiguously; None if each device has
        them all.
      bias: as in `linear_cross_entropy`, and so are all the following.
      class_weights: w, [vocab].
      token_weights: u, [*batch].
      ignore_index: an integer label to leave out.
      label_smoothing: eps in [0, 1].
      z_loss: zeta >= 0.
      logit_softcap: c > 0, or None.
      reduction: "mean" (over all tokens of the mesh, by the global sum of their weights), "sum" or "none".
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

    Source: M14, M16, M22, M24-M27.

    >>> import jax, jax.numpy as jnp
    >>> mesh = jax.make_mesh((jax.device_count(),), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    >>> hidden, kernel = jnp.array([[1.0, 0.0], [0.0, 0.0]]), jnp.array([[0.0, -20.0], [0.0, 0.0]])
    >>> loss = jax.jit(lambda h, k, y: sharded_linear_cross_entropy(h, k, y, mesh=mesh, token_axes="data"))
    >>> print(loss(hidden, kernel, jnp.array([0, 1])))
    0.3465736
    """
    require_reduction(reduction)
    options = loss_options(ignore_index, label_smoothing, z_loss, logit_softcap)
    arguments = validate(hidden, kernel, labels, bias, class_weights, token_weights)
    plan = mesh_plan(mesh, token_axes, vocab_axis, arguments.labels.ndim)
    arguments = arguments._replace(
        hidden=_sharded_as_given(plan, arguments.hidden),
        kernel=_sharded_as_given(plan, arguments.kernel),
        bias=None if arguments.bias is None else _sharded_as_given(plan, arguments.bias),
    )
    settings = as_settings(chunk_size, memory_budget, schedule)
    return sharded_head_loss(CUSTOM_VJP_RULES, plan, options, reduction, settings, arguments)


class MeshPlan(NamedTuple):
    """How tokens and classes are sharded over the mesh: the axes of each batch dimension, and those of the classes."""

    mesh: Mesh | AbstractMesh
    tokens: tuple[tuple[str, ...], ...]
    classes: tuple[str, ...]

    def specs(self) -> HeadArguments:
        """The `PartitionSpec` of every argument."""
        tokens, classes = PartitionSpec(*self.tokens), PartitionSpec(self.classes)
        hidden, kernel = PartitionSpec(*self.tokens, None), PartitionSpec(None, self.classes)
        return HeadArguments(hidden, tokens, tokens, kernel, classes, classes)

    def padding(self, size: int, axes: tuple[str, ...]) -> int:
        """By how much a dimension is padded, so that the devices along the axes have equal parts of it."""
        return -size % math.prod(self.mesh.shape[axis] for axis in axes)

    def axes(self, kind: AxisType) -> tuple[str, ...]:
        """The mesh's axes of that type."""
        return tuple(
            axis for axis, type in zip(self.mesh.axis_names, self.mesh.axis_types, strict=True) if type == kind
        )


def mesh_plan(mesh: Any, token_axes: Any, vocab_axis: Any, batch_dimensions: int) -> MeshPlan:
    """The plan for tokens and classes sharded over these axes, if the mesh has them."""
    if not isinstance(mesh, Mesh | AbstractMesh):
        raise TypeError(f"mesh: expected a jax.sharding.Mesh or AbstractMesh, got {type(mesh).__name__}")
    given = token_axes if isinstance(token_axes, PartitionSpec) else (token_axes,)
    tokens = tuple(_checks.as_axis_names("token_axes", axes, ", or a PartitionSpec") for axes in given)
    if len(tokens) > batch_dimensions:
        raise ValueError(f"token_axes: expected axes for {batch_dimensions} batch dimensions, got {token_axes!r}")
    tokens += ((),) * (batch_dimensions - len(tokens))
    plan = MeshPlan(mesh, tokens, _checks.as_axis_names("vocab_axis", vocab_axis))
    for name, axes in {"token_axes": sum(tokens, ()), "vocab_axis": plan.classes}.items():
        _require_axes_of(mesh, name, axes)
    named = [*sum(tokens, ()), *plan.classes]
    if len(set(named)) < len(named):
        raise ValueError(f"token_axes, vocab_axis: expected each axis once, got {token_axes!r} and {vocab_axis!r}")
    return plan


def _require_axes_of(mesh: Mesh | AbstractMesh, name: str, axes: tuple[str, ...]) -> None:
    around = jax.sharding.get_abstract_mesh()
    taken = [axis for axis, kind in zip(around.axis_names, around.axis_types, strict=True) if kind == AxisType.Manual]
    for axis in axes:
        if axis not in mesh.axis_names:
            raise ValueError(f"{name}: expected axes of the mesh, {mesh.axis_names}, got {axis!r}")
        if axis in taken:
            raise ValueError(
                f"{name}: expected axes that no jax.shard_map around has taken, got {axis!r}; inside of one, use "
                "linear_cross_entropy with axis_name"
            )


@partial(jax.jit, static_argnums=(0, 1, 2, 3, 4))  # without jit, a `jax.shard_map` doesn't take symbolic zeros
def sharded_head_loss(
    rules: HeadRules, plan: MeshPlan, options: LossOptions, reduction: str, settings: Settings, arguments: HeadArguments
) -> Array:
    """The head's loss, from each device's part of the arguments."""
    batch, vocab = arguments.labels.shape, arguments.kernel.shape[1]
    padded = _padded(plan, options, arguments)
    unpadded = vocab if padded.kernel.shape[1] > vocab else None
    shards = Shards(plan.classes, sum(plan.tokens, ()), unpadded)
    on_devices = jax.shard_map(
        partial(head_loss, rules, options, shards, reduction, settings),
        mesh=plan.mesh,
        in_specs=(plan.specs(),),
        out_specs=PartitionSpec(*plan.tokens) if reduction == "none" else PartitionSpec(),
    )
    losses = on_devices(_placed(plan, padded))
    return _without_padding(plan, losses, batch) if reduction == "none" else losses


def _padded(plan: MeshPlan, options: LossOptions, arguments: HeadArguments) -> HeadArguments:
    """The arguments, padded with tokens of weight 0 and with columns that are no classes."""
    hidden, labels, token_weights, kernel, bias, class_weights = arguments
    rows = [(0, plan.padding(n, axes)) for n, axes in zip(labels.shape, plan.tokens, strict=True)]
    columns = [(0, plan.padding(kernel.shape[1], plan.classes))]
    if any(after for _, after in rows):
        token_weights = jnp.pad(jnp.ones(labels.shape) if token_weights is None else token_weights, rows)
        hidden, labels = (_with_last_repeated(array, [after for _, after in rows]) for array in (hidden, labels))
    if columns[0][1]:
        if class_weights is not None or options.label_smoothing:
            class_weights = jnp.pad(jnp.ones(kernel.shape[1]) if class_weights is None else class_weights, columns)
        kernel, bias = jnp.pad(kernel, [(0, 0), *columns]), None if bias is None else jnp.pad(bias, columns)
    return HeadArguments(hidden, labels, token_weights, kernel, bias, class_weights)


def _with_last_repeated(tokens: Array, times: list[int]) -> Array:
    """Hidden states or labels, padded in each batch dimension with its last token.

    Hidden states of zeros would be NaN times an infinite kernel. A NaN that is ignored has to be ignored again.
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
    return HeadArguments(*(None if a is None else _on(plan, spec, a) for a, spec in zip(arguments, specs, strict=True)))


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


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _sharded_as_given(plan: MeshPlan, argument: Array) -> Array:
    """The argument, whose gradient comes back sharded as the argument is.

    Of an Explicit axis JAX sees to that itself. Of an Auto axis no spec is known before compilation: see
    `sharded_like`.
    """
    return argument


def _sharded_as_given_fwd(_plan, argument):
    return argument, argument


def _sharded_as_given_bwd(plan, argument, argument_bar):
    return (sharded_like(argument_bar, argument) if plan.axes(AxisType.Auto) else argument_bar,)


_sharded_as_given.defvjp(_sharded_as_given_fwd, _sharded_as_given_bwd)
