"""A program's training on digits with the loss it has, and with that of another library."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from types import ModuleType

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from experiments.data.digits import Digits
from experiments.drop_in.import_line import ImportLine
from experiments.judges.label_gaps import label_gaps

BATCH = 128
EPS = float(np.finfo(np.float32).eps)
Batch = tuple[Float[Array, "batch pixels"], Int[Array, " batch"]]


@dataclass(frozen=True)
class Trained:
    """What one run of a program gives."""

    losses: Float[np.ndarray, " steps"]
    correct: int  # of the held-out digits
    no_loss: int  # training digits whose loss is exactly 0 at the end
    no_gradient: int  # … whose loss has a derivative of exactly 0 in the label's logit
    widest_gap: float  # between a training digit's label and the next class, in nats


@dataclass(frozen=True)
class Comparison:
    """A program as it is, with another library's function, and as it is on pixels that are one ulp off."""

    line: ImportLine
    theirs: Trained
    ours: Trained
    nudged_losses: Float[np.ndarray, " steps"]

    @property
    def ulps_apart(self) -> Float[np.ndarray, " steps"]:
        """How far the other library's losses are from those of the program as it is, in ulps of a nat."""
        return _ulps_apart(self.ours.losses, self.theirs.losses)

    @property
    def nudged_ulps_apart(self) -> Float[np.ndarray, " steps"]:
        """How far one ulp in the pixels moves the losses of the program as it is, in ulps of a nat."""
        return _ulps_apart(self.nudged_losses, self.theirs.losses)


def compare(
    line: ImportLine, library: str, digits: Digits, epochs: int, seed: int, advance: Callable[[], None] = lambda: None
) -> Comparison:
    """Trains with the loss that a program has, and with that of ``library``; ``advance`` is called for each batch."""

    def each() -> Iterator[Batch]:
        for batch in batches(digits, epochs, seed):
            advance()
            yield batch

    theirs, ours = line.program_with(line.library), line.program_with(library)
    return Comparison(
        line,
        theirs=_trained(theirs, digits, each(), seed),
        ours=_trained(ours, digits, each(), seed),
        nudged_losses=np.array(theirs.train(map(_one_ulp_off, each()), seed)[0]),
    )


def batches(digits: Digits, epochs: int, seed: int) -> Iterator[Batch]:
    """Yields the training set in another order each epoch, without the digits that fill no batch."""
    x, y = jnp.asarray(digits.train_x, jnp.float32), jnp.asarray(digits.train_y, jnp.int32)
    random = np.random.default_rng(seed)
    for _ in range(epochs):
        order = random.permutation(len(y))
        for rows in order[: len(y) // BATCH * BATCH].reshape(-1, BATCH):
            yield x[rows], y[rows]


def _ulps_apart(
    losses: Float[np.ndarray, " steps"], others: Float[np.ndarray, " steps"]
) -> Float[np.ndarray, " steps"]:
    return np.abs(losses - others) / EPS


def _one_ulp_off(batch: Batch) -> Batch:
    x, y = batch
    return jnp.nextafter(x, jnp.inf), y


def _trained(program: ModuleType, digits: Digits, each: Iterator[Batch], seed: int) -> Trained:
    losses, predict = program.train(each, seed)
    rows, labels = np.arange(len(digits.train_y)), digits.train_y

    @jax.jit
    def at_the_end(train_x: Array, test_x: Array) -> tuple[Array, Array, Array, Array]:
        logits = predict(train_x)
        final, pull_back = jax.vjp(partial(program.example_losses, labels=jnp.asarray(labels)), logits)
        (gradients,) = pull_back(jnp.ones_like(final))
        return jnp.argmax(predict(test_x), axis=1), final, gradients[rows, labels], label_gaps(logits, labels)

    inputs = (jnp.asarray(x, jnp.float32) for x in (digits.train_x, digits.test_x))
    named, final, gradients, gaps = map(np.asarray, at_the_end(*inputs))
    return Trained(
        losses=np.array(losses),
        correct=int(np.sum(named == digits.test_y)),
        no_loss=int(np.sum(final == 0.0)),
        no_gradient=int(np.sum(gradients == 0.0)),
        widest_gap=float(gaps.max()),
    )
