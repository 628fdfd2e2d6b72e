"""How the tokens and classes of a fused head over global arrays are sharded over a mesh."""

import math
from typing import Any, NamedTuple

import jax
from jax.sharding import AbstractMesh, AxisType, Mesh, PartitionSpec

from jaxsoftmax import _checks
from jaxsoftmax._head.arguments import HeadArguments

AxisNames = str | tuple[str, ...]


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
