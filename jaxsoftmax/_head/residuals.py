"""The residuals of the fused head, in a pytree whose structure doesn't depend on which gradients are wanted.

After several forward passes through one jitted function, JAX uses the last pass's tree for every backward pass. So the
tree can't say which gradients are wanted. Shapes do: a gradient that isn't wanted is an array of shape (0,).
"""

import jax.numpy as jnp
from jax import Array

from jaxsoftmax._head.problem import GradSpec, GradSpecs, HeadGrads, HeadInputs
from jaxsoftmax._sharding import psum_to_vma

_NOT_WANTED = (0,)


def specs_and_wanted(inputs: HeadInputs) -> tuple[GradSpecs, GradSpecs]:
    """The `GradSpec` of every input, and of those whose gradient is wanted, from a pass with `symbolic_zeros`."""
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
    """Each gradient, summed over the devices that share its argument, in the argument's dtype."""

    def as_specified(spec: GradSpec, g: Array) -> Array:
        return psum_to_vma(spec.axes, g).astype(spec.dtype)

    pairs = zip(wanted, gradients, strict=True)
    return HeadInputs(*(None if spec is None else as_specified(spec, g) for spec, g in pairs))


def _or_placeholder(spec: GradSpec | None, gradient: Array | None) -> Array | None:
    return jnp.zeros(_NOT_WANTED) if gradient is None and spec is not None else gradient
