"""The fused head over global arrays on a mesh: each device takes its own tokens through its own classes."""

import math
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec
from jax.typing import ArrayLike
from jaxtyping import Float, Int, Real

from jaxsoftmax import _checks, _cross_entropy, _linear_cross_entropy
from jaxsoftmax._linear_cross_entropy import Arguments, LinearRules
from jaxsoftmax._shards import Shards
from jaxsoftmax._token_loss import LossOptions

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
) -> Float[Array, "*batch"]:
    """`linear_cross_entropy` of global arrays on a mesh, under plain `jax.jit` (M16, M22, M24-M27).

    Each device takes the chunks of its own tokens through its own classes. Over `vocab_axis` go one maximum and one sum
    of a few numbers a token, and a sum of the gradient in `hidden`; over `token_axes` a sum of the loss and of the
    gradients in `kernel` and `bias`. No device holds another's tokens, nor more of the kernel than its classes.

    Args:
      hidden: floating, [*batch, embed].
      kernel: floating, [embed, vocab]. If it is spread over embed too (FSDP), each device gathers that for its classes.
      labels: integers in [0, vocab), [*batch].
      mesh: of Auto and Explicit axes. Over those named neither here nor there all devices compute the same.
      token_axes: the axis or axes over which the first batch dimension is spread; or a `PartitionSpec` of [*batch],
        such as P("data", "sequence").
      vocab_axis: the axis or axes over which the classes are spread, in contiguous shards; None if each device has
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

    Returns:
      The loss, as of `linear_cross_entropy`. Sizes that the mesh doesn't divide are filled up, the kernel by a copy;
      what is filled in has no part in any number. Over Explicit axes gradients come back spread as their arguments;
      over Auto axes XLA has the choice, and spreads the kernel's over embed too where the kernel is.

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
    options = _cross_entropy.loss_options(ignore_index, label_smoothing, z_loss, logit_softcap)
    arguments, chunk_size = _linear_cross_entropy.checked(
        hidden, kernel, labels, bias, class_weights, token_weights, reduction, chunk_size
    )
    plan = plan_of(mesh, token_axes, vocab_axis, arguments.labels.ndim)
    arguments = arguments._replace(
        hidden=_landing(plan, arguments.hidden),
        kernel=_landing(plan, arguments.kernel),
        bias=None if arguments.bias is None else _landing(plan, arguments.bias),
    )
    return apply(_linear_cross_entropy.REVERSE_MODE, plan, options, arguments, reduction, chunk_size)


class Plan(NamedTuple):
    """How tokens and classes are spread over the mesh: the axes of each batch dimension, and those of the classes."""

    mesh: Mesh | AbstractMesh
    tokens: tuple[tuple[str, ...], ...]
    classes: tuple[str, ...]

    def specs(self) -> Arguments:
        """Of every argument."""
        tokens, classes = PartitionSpec(*self.tokens), PartitionSpec(self.classes)
        hidden, kernel = PartitionSpec(*self.tokens, None), PartitionSpec(None, self.classes)
        return Arguments(hidden, tokens, tokens, kernel, classes, classes)

    def missing(self, size: int, axes: tuple[str, ...]) -> int:
        """What fills a dimension up, so that the devices along the axes have equal parts of it."""
        return -size % math.prod(self.mesh.shape[axis] for axis in axes)

    def axes(self, kind: AxisType) -> tuple[str, ...]:
        """Those of that kind."""
        return tuple(
            axis for axis, type in zip(self.mesh.axis_names, self.mesh.axis_types, strict=True) if type == kind
        )


def plan_of(mesh: Any, token_axes: Any, vocab_axis: Any, batch_dimensions: int) -> Plan:
    """The plan, if the mesh has the axes."""
    if not isinstance(mesh, Mesh | AbstractMesh):
        raise TypeError(f"mesh: expected a jax.sharding.Mesh or AbstractMesh, got {type(mesh).__name__}")
    given = token_axes if isinstance(token_axes, PartitionSpec) else (token_axes,)
    tokens = tuple(_checks.as_axis_names("token_axes", axes, ", or a PartitionSpec") for axes in given)
    if len(tokens) > batch_dimensions:
        raise ValueError(f"token_axes: expected axes for {batch_dimensions} batch dimensions, got {token_axes!r}")
    tokens += ((),) * (batch_dimensions - len(tokens))
    plan = Plan(mesh, tokens, _checks.as_axis_names("vocab_axis", vocab_axis))
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


@partial(jax.jit, static_argnums=(0, 1, 2, 4, 5))  # without jit, a `jax.shard_map` doesn't take symbolic zeros
def apply(
    rules: LinearRules, plan: Plan, options: LossOptions, arguments: Arguments, reduction: str, chunk_size: int | None
) -> Array:
    """The head of each device's part of the arguments."""
    batch, vocab = arguments.labels.shape, arguments.kernel.shape[1]
    filled = _filled(plan, options, arguments)
    unpadded = vocab if filled.kernel.shape[1] > vocab else None
    options = replace(options, shards=Shards(plan.classes, sum(plan.tokens, ()), unpadded))
    spread = jax.shard_map(
        partial(_linear_cross_entropy.apply, rules, options, reduction=reduction, chunk_size=chunk_size),
        mesh=plan.mesh,
        in_specs=(plan.specs(),),
        out_specs=PartitionSpec(*plan.tokens) if reduction == "none" else PartitionSpec(),
    )
    losses = spread(_placed(plan, filled))
    return _cut_to(plan, losses, batch) if reduction == "none" else losses


def _filled(plan: Plan, options: LossOptions, arguments: Arguments) -> Arguments:
    """Filled up with tokens of weight 0, and with columns that are no classes."""
    hidden, labels, token_weights, kernel, bias, class_weights = arguments
    rows = [(0, plan.missing(n, axes)) for n, axes in zip(labels.shape, plan.tokens, strict=True)]
    columns = [(0, plan.missing(kernel.shape[1], plan.classes))]
    if any(after for _, after in rows):
        token_weights = jnp.pad(jnp.ones(labels.shape) if token_weights is None else token_weights, rows)
        hidden, labels = _with_last_repeated(hidden, [after for _, after in rows]), jnp.pad(labels, rows)
    if columns[0][1]:
        if class_weights is not None or options.label_smoothing:
            class_weights = jnp.pad(jnp.ones(kernel.shape[1]) if class_weights is None else class_weights, columns)
        kernel, bias = jnp.pad(kernel, [(0, 0), *columns]), None if bias is None else jnp.pad(bias, columns)
    return Arguments(hidden, labels, token_weights, kernel, bias, class_weights)


def _with_last_repeated(hidden: Array, times: list[int]) -> Array:
    """In each dimension; not with zeros, which an infinite kernel would make NaN."""
    for axis, missing in enumerate(times):
        size = hidden.shape[axis]
        if missing:  # else the dimension may be spread over an Explicit axis, and can't be sliced
            last = lax.slice_in_dim(hidden, size - 1, size, axis=axis)
            hidden = jnp.concatenate([hidden, *[last] * missing], axis)
    return hidden


def _placed(plan: Plan, arguments: Arguments) -> Arguments:
    """Spread as the specs say, but for what `jax.shard_map` does itself: on Auto axes."""
    arguments = arguments._replace(kernel=_cut_into_classes(plan, arguments.kernel))
    explicit = plan.axes(AxisType.Explicit)
    if not explicit:
        return arguments
    specs = (PartitionSpec(*(_among(explicit, axes) for axes in spec)) for spec in plan.specs())
    return Arguments(*(None if a is None else _on(plan, spec, a) for a, spec in zip(arguments, specs, strict=True)))


def _cut_to(plan: Plan, losses: Array, batch: tuple[int, ...]) -> Array:
    """The losses without those of the tokens filled in."""
    explicit = plan.axes(AxisType.Explicit)
    if explicit:  # a dimension that the mesh doesn't divide can't be spread
        whole = (axes if n == m else () for axes, n, m in zip(plan.tokens, losses.shape, batch, strict=True))
        losses = _on(plan, PartitionSpec(*(_among(explicit, axes) for axes in whole)), losses)
    return losses[tuple(map(slice, batch))]


def _on(plan: Plan, spec: PartitionSpec, array: Array) -> Array:
    return jax.sharding.reshard(array, NamedSharding(plan.mesh, spec))


def _cut_into_classes(plan: Plan, kernel: Array) -> Array:
    """The kernel spread over its classes besides what it is spread over: else XLA gathers all of it, and then cuts."""
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
def _landing(plan: Plan, argument: Array) -> Array:
    """The argument, whose gradient comes back spread as the argument is.

    Of an Explicit axis JAX sees to that itself. Of an Auto axis no spec is known before compilation: it is the
    element-by-element choice between the two by which XLA spreads the gradient like the argument.
    """
    return argument


def _landing_fwd(_plan, argument):
    return argument, argument


def _landing_bwd(plan, argument, argument_bar):
    if not plan.axes(AxisType.Auto):
        return (argument_bar,)
    always = lax.optimization_barrier(jnp.ones((), bool))
    return (jnp.where(always, argument_bar, argument),)


_landing.defvjp(_landing_fwd, _landing_bwd)
