"""One compiled training step of a language model, with either loss, and the curve it gives; a killed run goes on."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int

import jaxsoftmax
from experiments.data.token_sequences import PADDING, Sequences
from experiments.models.transformer import Hidden, Kernel, Model, Tokens
from experiments.runner.checkpoints import Checkpoints

# Peak learning rate, weight decay, and the fraction of steps in warm-up. Twice that rate amplifies rounding: an ulp in
# the first parameters then moves the tied model's curve with optax by 1e-3 within 100 steps.
_RATE, _WEIGHT_DECAY, _WARM_UP = 1e-3, 0.01, 0.1
_TOKENS_A_CHUNK = 256

Loss = Callable[[Hidden, Kernel, Int[Array, "batch length"]], Float[Array, ""]]
Batches = Callable[[int], Sequences]


def materialised(hidden: Hidden, kernel: Kernel, labels: Int[Array, "batch length"]) -> Float[Array, ""]:
    """Returns optax's loss of all logits, as a mean over the tokens that aren't padding."""
    losses = optax.softmax_cross_entropy_with_integer_labels(hidden @ kernel, labels)
    counted = labels != PADDING
    return jnp.sum(losses, where=counted) / jnp.sum(counted)


def fused(
    hidden: Hidden, kernel: Kernel, labels: Int[Array, "batch length"], reduction: str = "mean"
) -> Float[Array, ""]:
    """Returns the mean or the sum of the losses by the fused head, without all logits in memory."""
    return jaxsoftmax.linear_cross_entropy(
        hidden, kernel, labels, ignore_index=PADDING, reduction=reduction, chunk_size=_TOKENS_A_CHUNK
    )


FUSED, MATERIALISED = "jaxsoftmax", "optax"
LOSSES: dict[str, Loss] = {MATERIALISED: materialised, FUSED: fused}


class State(NamedTuple):
    """What a step reads and replaces."""

    parameters: Any
    optimiser: optax.OptState


class Curve(NamedTuple):
    """The loss before each step, and the parameters after the last."""

    losses: Float[np.ndarray, " steps"]
    parameters: Any


Step = Callable[[State, Sequences], tuple[State, Float[Array, ""]]]


@dataclass(frozen=True)
class Trainer:
    """A model with a loss, for runs of a given number of steps."""

    model: Model
    loss: Loss
    steps: int

    def objective(self, parameters: Any, batch: Tokens) -> Float[Array, ""]:
        """Returns the loss of a batch of sequences, each token's label being the one after it."""
        with jax.default_matmul_precision("highest"):  # a TPU's default, bfloat16, would differ by more than rounding
            hidden, kernel = self.model.forward(parameters, batch[:, :-1])
            return self.loss(hidden, kernel, batch[:, 1:])

    def first_state(self) -> State:
        """Returns the model's parameters, copied since a step takes its state's memory, and the optimiser's zeros."""
        parameters = jax.tree.map(jnp.copy, self.model.parameters)
        return State(parameters, self._optimiser().init(parameters))

    def step(self, state: State, batch: Tokens) -> tuple[State, Float[Array, ""]]:
        """Returns the state after one update, and the loss before it."""
        loss, gradients = jax.value_and_grad(self.objective)(state.parameters, batch)
        updates, optimiser = self._optimiser().update(gradients, state.optimiser, state.parameters)
        return State(optax.apply_updates(state.parameters, updates), optimiser), loss

    def compiled_step(self, batch: Sequences) -> jax.stages.Compiled:
        """Compiles the step, which takes over its state's memory."""
        return jax.jit(self.step, donate_argnums=0).lower(jax.eval_shape(self.first_state), batch).compile()

    def _optimiser(self) -> optax.GradientTransformation:
        warm_up = max(1, int(_WARM_UP * self.steps))
        rate = optax.warmup_cosine_decay_schedule(0.1 * _RATE, _RATE, warm_up, max(self.steps, warm_up + 1))
        return optax.adamw(rate, weight_decay=_WEIGHT_DECAY)


def train(
    state: State,
    step: Step,
    batches: Batches,
    steps: int,
    checkpoints: Checkpoints,
    between: int,
    advance: Callable[[int], None] = lambda count: None,
) -> Curve:
    """Runs the training steps, resuming from the checkpoint if there is one.

    Args:
        state: the first.
        step: the compiled step.
        batches: gives each step's batch.
        steps: how many to take.
        checkpoints: where the run is kept; after its last step too, so that a complete run isn't taken again.
        between: how many steps go between two checkpoints.
        advance: called with the number of steps done since the last call.
    """
    done, losses = 0, np.full(steps, np.nan, np.float32)
    if found := checkpoints.latest((state, losses)):
        done, (state, losses) = found
    advance(done)
    for number in range(done, steps):
        state, loss = step(state, batches(number))
        losses[number] = jax.block_until_ready(loss)  # wait here: NumPy would turn Ctrl-C into a ValueError
        advance(1)
        if number + 1 == steps or (number + 1) % between == 0:
            checkpoints.save(number + 1, (state, losses))
    checkpoints.close()
    return Curve(losses, state.parameters)


def mean_loss(objective: Callable[..., Float[Array, ""]], batches: list[Sequences], parameters: Any) -> float:
    """Returns the mean loss of some batches, over the tokens that aren't padding."""
    losses = [float(objective(parameters, batch)) for batch in batches]
    return float(np.average(losses, weights=[np.sum(batch[:, 1:] != PADDING) for batch in batches]))
