"""What a training step costs with each loss: time in interleaved rounds, and the memory that XLA assigns."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import jax
from jaxtyping import Array, Float, Int

from experiments.data.token_sequences import Sequences
from experiments.language_model.training import FUSED, LOSSES, MATERIALISED, Loss, State, Step
from experiments.models.transformer import Hidden, Sizes
from jaxsoftmax.bench import Spread, interleaved, ratios, seconds_of


@dataclass(frozen=True)
class Costs:
    """Costs of one model by loss: seconds of each round's step, temporary bytes of the step, and of the head alone."""

    seconds: dict[str, list[float]]
    step_bytes: dict[str, int]
    head_bytes: dict[str, int]

    @property
    def time_ratio(self) -> Spread:
        """The fused step's time over the materialised one's, within each round."""
        return ratios(self.seconds[FUSED], self.seconds[MATERIALISED])

    @property
    def head_ratio(self) -> float:
        """The fused head's temporary memory over the materialised one's."""
        return self.head_bytes[FUSED] / self.head_bytes[MATERIALISED]


def step_costs(
    steps: Mapping[str, jax.stages.Compiled],
    first_state: Callable[[], State],
    batch: Sequences,
    rounds: int,
    head: Sizes,
    advance: Callable[[], None],
) -> Costs:
    """Measures the compiled steps, by loss, on the same batch, and compiles their heads.

    Args:
        steps: by loss.
        first_state: gives each its own state.
        batch: of every step.
        rounds: how often each takes a step.
        head: the sizes for which the head's memory is asked.
        advance: called after every step.
    """
    clocks = {name: _clock(step, first_state(), batch, advance) for name, step in steps.items()}
    interleaved(clocks, 0.0, 1)
    return Costs(
        interleaved(clocks, 0.0, rounds),
        {name: _temporary_bytes(step) for name, step in steps.items()},
        {name: head_bytes(loss, head, len(batch)) for name, loss in LOSSES.items()},
    )


def head_bytes(loss: Loss, sizes: Sizes, sequences: int) -> int:
    """Returns the temporary memory of the loss, with its gradients in the hidden states and the kernel."""

    def of_kernel(hidden: Hidden, kernel: Float[Array, "..."], labels: Int[Array, "batch length"]) -> Array:
        return loss(hidden, kernel.T if sizes.tied else kernel, labels)

    kernel = (sizes.vocabulary, sizes.embed) if sizes.tied else (sizes.embed, sizes.vocabulary)
    shapes: tuple[tuple[int, ...], ...] = ((sequences, sizes.length, sizes.embed), kernel, (sequences, sizes.length))
    arguments = [jax.ShapeDtypeStruct(shape, dtype) for shape, dtype in zip(shapes, "ffi", strict=True)]
    return _temporary_bytes(jax.jit(jax.value_and_grad(of_kernel, (0, 1))).lower(*arguments).compile())


def _temporary_bytes(compiled: jax.stages.Compiled) -> int:
    analysis = compiled.memory_analysis()
    assert analysis is not None
    return analysis.temp_size_in_bytes


def _clock(step: Step, state: State, batch: Sequences, advance: Callable[[], None]) -> Callable[[], float]:
    """Returns what times the next step each time, from the state that the last one left."""

    def take() -> None:
        nonlocal state
        state, _ = jax.block_until_ready(step(state, batch))

    def seconds() -> float:
        spent = seconds_of(take)
        advance()
        return spent

    return seconds
