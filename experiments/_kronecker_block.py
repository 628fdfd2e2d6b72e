"""The curvature of a network's head alone: exactly, and as K-FAC's one Kronecker product.

Logits are linear in the head, z = h̃ᵀW with h̃ = (h, 1) and W the kernel above the bias, so that the block of the Hessian
is Gauss–Newton's, E[h̃h̃ᵀ ⊗ (diag(s) − ssᵀ)]. K-FAC has the product of the means, E[h̃h̃ᵀ] ⊗ E[diag(s) − ssᵀ], instead.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

import jaxsoftmax
from experiments._curvature_agreement import TOLERANCE_ULPS, ulps_apart
from experiments._digits_mlp import Mlp, hidden_of
from jaxsoftmax import analytic

Inputs = Float[Array, "rows inputs"]
Head = Float[Array, "inputs classes"]
Labels = Int[Array, " rows"]
Block = Float[Array, "inputs*classes inputs*classes"]
ToBlock = Callable[[Inputs, Head, Labels], Block]


def head_inputs(mlp: Mlp, x: Float[Array, "rows pixels"]) -> Inputs:
    """Returns h̃, the hidden states and a one."""
    hidden = hidden_of(mlp, x)
    return jnp.concatenate([hidden, jnp.ones_like(hidden[:, :1])], axis=1)


def head_of(mlp: Mlp) -> Head:
    """Returns W, the kernel above the bias."""
    return jnp.concatenate([mlp.W2, mlp.b2[None]])


def hessian_block(inputs: Inputs, head: Head, labels: Labels) -> Block:
    """Returns the block by `jax.hessian` of the loss."""

    def loss(flat: Float[Array, " inputs*classes"]) -> Float[Array, ""]:
        return jaxsoftmax.cross_entropy(inputs @ flat.reshape(head.shape), labels)

    return jax.hessian(loss)(head.ravel())


def exact_block(inputs: Inputs, head: Head, labels: Labels) -> Block:
    """Returns the mean of the rows' Kronecker products."""
    hessians = analytic.cross_entropy_hessian(inputs @ head, labels)  # (M15)
    return jnp.einsum("ni,nj,ncd->icjd", inputs, inputs, hessians).reshape(head.size, head.size) / len(labels)


def kronecker_block(inputs: Inputs, head: Head, labels: Labels) -> Block:
    """Returns the Kronecker product of the two means."""
    hessians = analytic.cross_entropy_hessian(inputs @ head, labels)  # (M15)
    return jnp.kron(inputs.T @ inputs / len(labels), jnp.mean(hessians, axis=0))


@dataclass(frozen=True)
class Blocks:
    """How far the head's blocks are from each other."""

    exact_ulps: float  # the mean of Kronecker products, from `jax.hessian`
    one_row_ulps: float  # K-FAC's block of one row, from the exact one
    error: float  # K-FAC's block of the batch, from the exact one: relative, in Frobenius' norm
    largest_eigenvalues: tuple[float, float]  # the exact one's and K-FAC's

    @property
    def holds(self) -> bool:
        """Whether the exact block is the Hessian's, and K-FAC's is exact for one row."""
        return max(self.exact_ulps, self.one_row_ulps) <= TOLERANCE_ULPS


def blocks(mlp: Mlp, x: np.ndarray, y: np.ndarray, kronecker: ToBlock = kronecker_block) -> Blocks:
    """Compares the head's blocks of a batch, and of its first row."""
    wide = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), mlp)
    inputs, head, labels = head_inputs(wide, jnp.asarray(x)), head_of(wide), jnp.asarray(y)
    exact, by_modes, by_means = (np.asarray(block) for block in _all(kronecker, inputs, head, labels))
    one, _, one_by_means = _all(kronecker, inputs[:1], head, labels[:1])
    return Blocks(
        exact_ulps=ulps_apart(exact, by_modes),
        one_row_ulps=ulps_apart(one_by_means, one),
        error=float(np.linalg.norm(by_means - exact) / np.linalg.norm(exact)),
        largest_eigenvalues=(float(np.linalg.eigvalsh(exact)[-1]), float(np.linalg.eigvalsh(by_means)[-1])),
    )


@partial(jax.jit, static_argnums=0)
def _all(kronecker: ToBlock, inputs: Inputs, head: Head, labels: Labels) -> tuple[Block, Block, Block]:
    arguments = inputs, head, labels
    return exact_block(*arguments), hessian_block(*arguments), kronecker(*arguments)
