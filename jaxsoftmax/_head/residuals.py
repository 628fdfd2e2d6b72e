"""What a forward pass of the fused head leaves for the backward pass, in a tree that is the same for every one.

Which gradients are wanted differs from pass to pass. It must not show in the tree of what is left: of several passes
through one jitted function JAX takes the tree of the last, for the backward pass of any. It shows in shapes instead:
in place of a gradient that isn't wanted stands an array of shape (0,), which no gradient has.
"""

import jax.numpy as jnp
from jax import Array

from jaxsoftmax._head.problem import GradSpec, GradSpecs, HeadGrads, HeadInputs
from jaxsoftmax._sharding import psum_to_vma

_NOT_WANTED = (0,)


def specs_and_wanted(inputs: HeadInputs) -> tuple[GradSpecs, GradSpecs]:
    """What each gradient shares with its input, of a forward pass with `symbolic_zeros`; and that of those wanted."""
    specs = GradSpecs(*(None if a is None else GradSpec.of(a.value) for a in inputs))
    wanted = (spec if a is not None and a.perturbed else None for a, spec in zip(inputs, specs, strict=True))
    return specs, GradSpecs(*wanted)


def left(specs: GradSpecs, gradients: HeadGrads) -> HeadGrads:
    """The gradients, to be left for the backward pass."""
    return HeadGrads(*map(_or_placeholder, specs, gradients))


def marks(specs: GradSpecs, wanted: GradSpecs) -> HeadGrads:
    """Which gradients are wanted, to be left for the backward pass."""
    return left(specs, HeadGrads(*(None if spec is None else jnp.zeros(1) for spec in wanted)))


def wanted_among(specs: GradSpecs, arrays: HeadGrads) -> GradSpecs:
    """The gradients that were wanted, from what is `left`, or from the `marks`."""
    pairs = zip(specs, arrays, strict=True)
    return GradSpecs(*(None if array is None or array.shape == _NOT_WANTED else spec for spec, array in pairs))


def as_wanted(wanted: GradSpecs, gradients: HeadGrads) -> HeadInputs:
    """Each gradient summed over the devices that share its argument, and then rounded as that is."""

    def as_specified(spec: GradSpec, g: Array) -> Array:
        return psum_to_vma(spec.axes, g).astype(spec.dtype)

    pairs = zip(wanted, gradients, strict=True)
    return HeadInputs(*(None if spec is None else as_specified(spec, g) for spec, g in pairs))


def _or_placeholder(spec: GradSpec | None, gradient: Array | None) -> Array | None:
    return jnp.zeros(_NOT_WANTED) if gradient is None and spec is not None else gradient
