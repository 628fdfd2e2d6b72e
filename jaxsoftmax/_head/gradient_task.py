"""The inputs of every gradient loop of the fused head."""

from typing import Any, NamedTuple

from jaxsoftmax._head.problem import HeadGrads, HeadInputs, sum_dtypes, zero_ignored_hidden
from jaxsoftmax._objective import Objective
from jaxsoftmax._sharding import Shards, pvary_with


class GradientTask(NamedTuple):
    """The outputs of an objective, and the gradients of Σ <outputs_bar, outputs>, whichever loop forms them."""

    shards: Shards
    saved: HeadGrads  # the dtypes that gradients are saved in; None for those not wanted
    inputs: HeadInputs  # hidden is 0 where the token is ignored
    outputs_bar: Any  # [tokens, ...]
    objective: Objective

    @property
    def sums(self) -> HeadGrads:
        """The dtypes in which gradients are summed; None for those not wanted."""
        return sum_dtypes(self.inputs, self.saved)


def gradient_task(
    shards: Shards, saved: HeadGrads, inputs: HeadInputs, outputs_bar: Any, objective: Objective
) -> GradientTask:
    """The task, its arrays over classes and tokens varying over the same axes of a mesh."""
    of_classes = inputs, objective.class_weights
    inputs, class_weights = pvary_with(shards, of_classes, (objective.tokens, outputs_bar))
    objective = objective.with_class_weights(class_weights)
    inputs = inputs._replace(hidden=zero_ignored_hidden(inputs.hidden, objective.ignored(outputs_bar)))
    return GradientTask(shards, saved, inputs, outputs_bar, objective)
