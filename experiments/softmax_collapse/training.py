"""The runs of the softmax collapse: one network trained by several losses, in calls of many steps with checkpoints."""

import time
from collections.abc import Callable
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float

import jaxsoftmax
from experiments.data.modular_addition import Layers, Sums, initial_layers, logits_of, split_table
from experiments.judges.label_gaps import label_gaps
from experiments.runner.checkpoints import Checkpoints

STEPS_A_CALL = 100
# Losses are multiplied by it, which multiplies every gradient and rounds none, and Adam's ε too: the updates stay. Adam
# squares gradients, and in float32 the square of one below 1e-19 is no normal number.
SCALE = 2.0**60
_EPSILON = 1e-30
_SECONDS_BETWEEN_CHECKPOINTS = 30.0

Carry = tuple[Layers, optax.OptState]


@dataclass(frozen=True)
class Method:
    """A loss, the dtype of everything in its run, and what the loss is multiplied by."""

    name: str
    loss: Callable[..., Float[Array, " sums"]]
    dtype: str
    scale: float = SCALE


OPTAX = Method("optax, float32", optax.softmax_cross_entropy_with_integer_labels, "float32")
LIBRARY = Method("jaxsoftmax, float32", jaxsoftmax.softmax_cross_entropy_with_integer_labels, "float32")
DOUBLE = Method("optax, float64", optax.softmax_cross_entropy_with_integer_labels, "float64")
UNSCALED = Method("jaxsoftmax, float32, not scaled", LIBRARY.loss, "float32", scale=1.0)
METHODS = (OPTAX, LIBRARY, DOUBLE)


@dataclass(frozen=True)
class Setting:
    """What all runs share."""

    modulus: int
    width: int
    rate: float
    steps: int
    seeds: tuple[int, ...]

    @property
    def records(self) -> int:
        """How many times a run is recorded."""
        return self.steps // STEPS_A_CALL

    @property
    def runs(self) -> list[tuple[Method, int]]:
        """Every method with every seed, and the loss that isn't scaled with the first."""
        return [(method, seed) for seed in self.seeds for method in METHODS] + [(UNSCALED, self.seeds[0])]


class Metrics(NamedTuple):
    """What is recorded after each call, of the whole training set unless said."""

    loss: Any  # the method's own
    exact_loss: Any  # this library's, of the same network
    gradient_norm: Any
    parameter_norm: Any
    mean_gap: Any  # between the label's logit and the largest other
    label_zero: Any  # share of the examples whose gradient is exactly 0 in the label's logit
    whole_zero: Any  # share of the examples whose gradient is exactly 0 in every logit
    test_accuracy: Any


def train_all(
    setting: Setting, checkpoints: Checkpoints, advance: Callable[[int], None] = lambda count: None
) -> dict[tuple[str, int], Metrics]:
    """Trains one run after the other, from the last checkpoint if there is one.

    Args:
        setting: the task, and how many steps for which seeds.
        checkpoints: where one is saved now and then, and after the last step.
        advance: called with the number of steps done since the call before.

    Returns:
        The metrics of each method's name and seed, stacked over the records.
    """
    runs, records = setting.runs, setting.records
    recorded = np.full((len(runs), records, len(Metrics._fields)), np.nan)
    carry = start(setting, *runs[0])
    with closing(checkpoints):
        step, saved = checkpoints.latest(_saved(carry, recorded)) or (0, _saved(carry, recorded))
        carry, recorded = saved["carry"], np.array(saved["recorded"])
        advance(step)
        first, saved_at = step // STEPS_A_CALL, time.monotonic()
        for call in range(first, len(runs) * records):
            run, record = divmod(call, records)
            if record == 0:
                carry = start(setting, *runs[run])
            carry, metrics = _several_steps(setting, *runs[run])(carry)
            recorded[run, record] = jax.device_get(metrics)  # wait here: NumPy would turn Ctrl-C into a ValueError
            advance(STEPS_A_CALL)
            is_last = call + 1 == len(runs) * records
            if is_last or time.monotonic() - saved_at >= _SECONDS_BETWEEN_CHECKPOINTS:
                checkpoints.save((call + 1) * STEPS_A_CALL, _saved(carry, recorded))
                saved_at = time.monotonic()
    return {(method.name, seed): Metrics(*run.T) for (method, seed), run in zip(runs, recorded, strict=True)}


def start(setting: Setting, method: Method, seed: int) -> Carry:
    """Returns the initial parameters, those of float32 cast to the method's dtype, and the optimiser's state."""
    with _precision(method):
        layers = initial_layers(setting.modulus, setting.width, seed)
        layers = jax.tree.map(lambda array: array.astype(method.dtype), layers)
        return layers, _optimiser(setting, method).init(layers)


def gradient_of(layers: Layers, sums: Sums, method: Method) -> tuple[Float[Array, ""], Layers]:
    """Returns the mean loss and its gradient, both multiplied by the method's scale."""

    def scaled_loss(layers: Layers) -> Float[Array, ""]:
        return method.scale * jnp.mean(method.loss(logits_of(layers, sums), sums.total))

    return jax.value_and_grad(scaled_loss)(layers)


def one_step(carry: Carry, sums: Sums, setting: Setting, method: Method) -> Carry:
    """Takes a step on all of ``sums``."""
    layers, state = carry
    _, gradient = gradient_of(layers, sums, method)
    updates, state = _optimiser(setting, method).update(gradient, state)
    return jax.tree.map(jnp.add, layers, updates), state


def metrics_of(layers: Layers, train: Sums, test: Sums, method: Method) -> Metrics:
    """Returns the metrics of a network."""
    scaled_loss, scaled_gradient = gradient_of(layers, train, replace(method, scale=SCALE))
    logits, examples = logits_of(layers, train), np.arange(len(train.total))
    by_logit = jax.grad(lambda logits: jnp.sum(method.loss(logits, train.total)))(logits)
    return Metrics(
        loss=scaled_loss / SCALE,
        exact_loss=jnp.mean(LIBRARY.loss(logits, train.total)),
        gradient_norm=optax.tree.norm(scaled_gradient) / SCALE,
        parameter_norm=optax.tree.norm(layers),
        mean_gap=jnp.mean(label_gaps(logits, train.total)),
        label_zero=jnp.mean(by_logit[examples, train.total] == 0),
        whole_zero=jnp.mean(jnp.all(by_logit == 0, axis=1)),
        test_accuracy=jnp.mean(jnp.argmax(logits_of(layers, test), axis=1) == test.total),
    )


@lru_cache(maxsize=1)  # compiled once a run
def _several_steps(setting: Setting, method: Method, seed: int) -> Callable[[Carry], tuple[Carry, Metrics]]:
    """Returns the compiled function that takes the steps of one call, consuming its argument."""
    train, test = split_table(setting.modulus, seed)

    def step(carry: Carry, _: None) -> tuple[Carry, None]:
        return one_step(carry, train, setting, method), None

    @partial(jax.jit, donate_argnums=0)
    def several_steps(carry: Carry) -> tuple[Carry, Metrics]:
        carry, _ = jax.lax.scan(step, carry, length=STEPS_A_CALL)
        return carry, metrics_of(carry[0], train, test, method)

    like = jax.eval_shape(partial(start, setting, method, seed))

    def in_own_precision(carry: Carry) -> tuple[Carry, Metrics]:
        with _precision(method):
            return several_steps(jax.tree.map(lambda array, own: jnp.asarray(array, own.dtype), carry, like))

    return in_own_precision


def _optimiser(setting: Setting, method: Method) -> optax.GradientTransformation:
    return optax.adam(setting.rate, b2=0.99, eps=_EPSILON * method.scale)


def _precision(method: Method) -> AbstractContextManager[Any]:
    return jax.enable_x64(method.dtype == "float64")


def _saved(carry: Carry, recorded: np.ndarray) -> dict[str, Any]:
    """Returns what a checkpoint holds: the same for every run, so floats as float64, in which float32 is exact."""

    def widened(array: Array) -> np.ndarray:
        return np.asarray(array, np.float64 if jnp.issubdtype(array.dtype, jnp.floating) else None)

    return {"carry": jax.tree.map(widened, carry), "recorded": recorded}
