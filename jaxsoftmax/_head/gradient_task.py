"""What a loop of the fused head is to form, prepared alike for every loop: losses and gradients."""

from typing import NamedTuple

from jax import Array

from jaxsoftmax._head.problem import HeadGrads, HeadInputs, zero_ignored_hidden
from jaxsoftmax._head.rounding import loss_scale
from jaxsoftmax._math.token_loss import LossOptions
from jaxsoftmax._sharding import Shards, match_vma
from jaxsoftmax._token_labels import TokenLabels


class GradientTask(NamedTuple):
    """The losses l_t and the gradients of Σ_t u_t l_t that are to be formed, whichever loop forms them."""

    options: LossOptions
    shards: Shards
    saved: HeadGrads  # the dtypes that gradients are saved in; None of those not wanted
    inputs: HeadInputs  # hidden is 0 where the token is ignored
    scale: Array  # u_t without the loss scale, [tokens]
    labels: TokenLabels
    class_weights: Array | None
    factor: Array | None  # the loss scale, by which gradients are multiplied at the end; None for 1

    @property
    def sums(self) -> HeadGrads:
        """The dtypes in which gradients are added up; None of those not wanted."""
        return HeadGrads(*(None if dtype is None else self.inputs.dtype for dtype in self.saved))


def gradient_task(
    options: LossOptions,
    shards: Shards,
    saved: HeadGrads,
    inputs: HeadInputs,
    scale: Array,
    labels: TokenLabels,
    class_weights: Array | None,
) -> GradientTask:
    """The task, its arrays over classes and tokens varying over the same axes of a mesh."""
    (inputs, class_weights), _ = match_vma(shards, (inputs, class_weights), (labels.standing, scale))
    inputs = inputs._replace(hidden=zero_ignored_hidden(options, inputs.hidden, labels))
    factor = loss_scale(inputs, shards, scale, class_weights)
    scale = scale if factor is None else scale / factor
    return GradientTask(options, shards, saved, inputs, scale, labels, class_weights, factor)
