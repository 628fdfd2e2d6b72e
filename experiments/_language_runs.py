"""What is done with one model: trained with each loss from the same parameters on the same batches, and timed."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import partial
from operator import methodcaller
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Float

from experiments._checkpoints import Checkpoints, default_directory
from experiments._language_training import LOSSES, Curve, Trainer, fused, mean_loss, train
from experiments._step_costs import Costs, step_costs
from experiments._token_sequences import Sequences, TokenData, batch_of
from experiments._transformer import Model, Sizes, nnx_model
from experiments._transformer_equinox import equinox_model

FUSED, MATERIALISED = "jaxsoftmax", "optax"  # the names of the losses
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
    """A model with tied or untied embeddings, by loss: training losses, held-out loss, costs and the fused result."""

    tied: bool
    losses: dict[str, Float[np.ndarray, " steps"]]
    held_out: dict[str, float]
    costs: Costs
    trained: Model

    @property
    def apart(self) -> float:
        """The largest relative difference between the losses of a step."""
        return relative_difference(self.losses[FUSED], self.losses[MATERIALISED])


def relative_difference(losses: Float[np.ndarray, " steps"], others: Float[np.ndarray, " steps"]) -> float:
    """Returns the largest; NaN if any loss is."""
    return float(np.max(np.abs(losses.astype(np.float64) / others - 1.0)))


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
        sizes = replace(self._plan.sizes, tied=tied, vocabulary=self._data.tokenizer.get_vocab_size())
        return nnx_model(sizes, self._seed)

    def batch(self, step: int) -> Sequences:
        """Returns the sequences of a step."""
        return batch_of(self._data.train, self._plan.batch, self._seed, step)

    def nnx(self, tied: bool, head: Sizes) -> Kind:
        """Trains a model with each loss, and measures a step; the head's memory is asked for sizes of its own."""
        model, plan = self.model(tied), self._plan
        trainers = {name: Trainer(model, loss, plan.steps) for name, loss in LOSSES.items()}
        with ThreadPoolExecutor() as both:
            compiled = both.map(methodcaller("compiled_step", self.batch(0)), trainers.values())
            steps = dict(zip(trainers, compiled, strict=True))
        curves = {
            name: self._train(f"{name}-{kind_of(tied)}", trainer, steps[name], plan.steps)
            for name, trainer in trainers.items()
        }
        unseen = [batch_of(self._data.held_out, plan.batch, 0, step) for step in range(_HELD_OUT_BATCHES)]
        loss_of = partial(mean_loss, jax.jit(trainers[MATERIALISED].objective), unseen)
        first_state, advance = trainers[FUSED].first_state, partial(self._advance, 1)
        return Kind(
            tied,
            {name: curve.losses for name, curve in curves.items()},
            {name: loss_of(curve.parameters) for name, curve in curves.items()},
            step_costs(steps, first_state, self.batch(0), plan.rounds, replace(head, tied=tied), advance),
            Model(curves[FUSED].parameters, model.forward),
        )

    def equinox(self, tied: bool) -> Float[np.ndarray, " steps"]:
        """Trains the Equinox module with the fused loss, from NNX's first parameters, for the first steps."""
        plan = self._plan
        sizes = replace(plan.sizes, tied=tied, vocabulary=self._data.tokenizer.get_vocab_size())
        trainer = Trainer(equinox_model(sizes, self.model(tied).parameters), fused, plan.steps)
        step = trainer.compiled_step(self.batch(0))
        return self._train(f"equinox-{kind_of(tied)}", trainer, step, min(plan.equinox_steps, plan.steps)).losses

    def remove_checkpoints(self) -> None:
        """Removes the checkpoints of all runs, when everything is measured."""
        for checkpoints in self._opened:
            checkpoints.remove()

    def _train(self, name: str, trainer: Trainer, step: jax.stages.Compiled, steps: int) -> Curve:
        checkpoints = Checkpoints(default_directory(self._results, f"language_model.{name}"), self._settings())
        self._opened.append(checkpoints)
        between = self._plan.between_checkpoints
        return train(trainer.first_state(), step, self.batch, steps, checkpoints, between, self._advance)

    def _settings(self) -> dict[str, Any]:
        return {
            "plan": asdict(self._plan),
            "seed": self._seed,
            "data": self._data.digest,
            "jax": jax.__version__,
            "device": jax.devices()[0].device_kind,
        }
