"""What is done with one model: trained with each loss from the same parameters on the same batches, and timed."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from experiments.data.token_sequences import Sequences, TokenData, batch_of
from experiments.language_model.step_costs import Costs, step_costs
from experiments.language_model.training import (
    FUSED,
    LOSSES,
    MATERIALISED,
    Curve,
    Trainer,
    fused,
    materialised,
    mean_loss,
    train,
)
from experiments.models.transformer import Model, Sizes, nnx_model
from experiments.models.transformer_equinox import equinox_model
from experiments.runner.checkpoints import Checkpoints, checkpoints_of

_HELD_OUT_BATCHES = 4


@dataclass(frozen=True)
class Plan:
    """How large the models are, and how much is measured."""

    sizes: Sizes
    batch: int  # sequences
    steps: int
    equinox_steps: int
    between_checkpoints: int  # steps
    rounds: int  # of timing
    written: int  # tokens of a sample
    characters: int | None  # of the corpus


@dataclass(frozen=True)
class Kind:
    """A model with tied or untied embeddings, by loss: training losses, held-out loss, costs and the fused result.

    ``nudged_losses`` are optax's from first parameters that are one ulp off.
    """

    tied: bool
    losses: dict[str, Float[np.ndarray, " steps"]]
    nudged_losses: Float[np.ndarray, " steps"]
    held_out: dict[str, float]
    costs: Costs
    trained: Model

    @property
    def apart(self) -> float:
        """The largest relative difference between the losses of a step."""
        return float(np.max(relative_differences(self.losses[FUSED], self.losses[MATERIALISED])))

    @property
    def nudged_apart(self) -> float:
        """The largest relative difference that an ulp in the first parameters makes, to optax's losses."""
        return float(np.max(relative_differences(self.nudged_losses, self.losses[MATERIALISED])))


def relative_differences(
    losses: Float[np.ndarray, " steps"], others: Float[np.ndarray, " steps"]
) -> Float[np.ndarray, " steps"]:
    """Returns the relative difference at each step, in float64; NaN where a loss is NaN."""
    return np.abs(losses.astype(np.float64) / others - 1.0)


def kind_of(tied: bool) -> str:
    """Returns what to call a model whose embeddings are its head's kernel, or aren't."""
    return "tied" if tied else "untied"


class Runs:
    """The runs of one plan on the same data, each from its checkpoint if there is one."""

    def __init__(self, plan: Plan, data: TokenData, results: Path, seed: int, advance: Callable[[int], None]) -> None:
        """Takes what all runs share; `advance` is called with the number of steps done since the last call."""
        self._plan, self._data, self._results, self._seed, self._advance = plan, data, results, seed, advance
        self._opened: list[Checkpoints] = []

    def model(self, tied: bool) -> Model:
        """Returns a new model in NNX, with as many tokens as the corpus gave."""
        return nnx_model(self._sizes(tied), self._seed)

    def batch(self, step: int) -> Sequences:
        """Returns the sequences of a step."""
        return batch_of(self._data.train, self._plan.batch, self._seed, step)

    def nnx(self, tied: bool, head: Sizes) -> Kind:
        """Trains a model with each loss, and measures a step; the head's memory is asked for sizes of its own."""
        model, plan = self.model(tied), self._plan
        trainers = {name: Trainer(model, loss, plan.steps) for name, loss in LOSSES.items()}
        steps = {name: trainer.compiled_step(self.batch(0)) for name, trainer in trainers.items()}
        curves = {
            name: self._train(f"{name}-{kind_of(tied)}", trainer, steps[name], plan.steps)
            for name, trainer in trainers.items()
        }
        nudged = Trainer(_one_ulp_off(model), materialised, plan.steps)
        nudged_losses = self._train(
            f"{MATERIALISED}-{kind_of(tied)}-nudged", nudged, steps[MATERIALISED], plan.steps
        ).losses
        unseen = [batch_of(self._data.held_out, plan.batch, 0, step) for step in range(_HELD_OUT_BATCHES)]
        loss_of = partial(mean_loss, jax.jit(trainers[MATERIALISED].objective), unseen)
        first_state, advance = trainers[FUSED].first_state, partial(self._advance, 1)
        return Kind(
            tied,
            {name: curve.losses for name, curve in curves.items()},
            nudged_losses,
            {name: loss_of(curve.parameters) for name, curve in curves.items()},
            step_costs(steps, first_state, self.batch(0), plan.rounds, replace(head, tied=tied), advance),
            Model(curves[FUSED].parameters, model.forward),
        )

    def equinox(self) -> Float[np.ndarray, " steps"]:
        """Trains the tied Equinox module with the fused loss, from NNX's first parameters, for the first steps."""
        plan = self._plan
        trainer = Trainer(equinox_model(self._sizes(tied=True), self.model(tied=True).parameters), fused, plan.steps)
        step = trainer.compiled_step(self.batch(0))
        return self._train("equinox-tied", trainer, step, min(plan.equinox_steps, plan.steps)).losses

    @property
    def resumed(self) -> bool:
        """Whether a run went on from its checkpoint."""
        return any(checkpoints.resumed for checkpoints in self._opened)

    def remove_checkpoints(self) -> None:
        """Removes the checkpoints of all runs, which are needed no more once the results are written."""
        for checkpoints in self._opened:
            checkpoints.remove()

    def _sizes(self, tied: bool) -> Sizes:
        return replace(self._plan.sizes, tied=tied, vocabulary=self._data.tokenizer.get_vocab_size())

    def _train(self, name: str, trainer: Trainer, step: jax.stages.Compiled, steps: int) -> Curve:
        settings = {"plan": asdict(self._plan), "seed": self._seed, "data": self._data.digest}
        checkpoints = checkpoints_of(self._results, f"language_model.{name}", settings)
        self._opened.append(checkpoints)
        between = self._plan.between_checkpoints
        return train(trainer.first_state(), step, self.batch, steps, checkpoints, between, self._advance)


def _one_ulp_off(model: Model) -> Model:
    return model._replace(parameters=jax.tree.map(lambda array: jnp.nextafter(array, jnp.inf), model.parameters))
