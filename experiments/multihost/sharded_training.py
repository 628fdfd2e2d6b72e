"""A linear head trained on digits: on one device, or over the processes of a mesh of tokens and classes."""

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.experimental.multihost_utils import process_allgather
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int

import jaxsoftmax
from experiments.data.digits import CLASSES, Digits, Parameters

BATCH = 128
# In ulps of the largest loss, or of the largest entry. Another summation order moves each gradient by about one ulp;
# updates accumulate these, momentum tenfold.
TOLERANCE_ULPS = 16.0
_IGNORED = -1
_LEARNING_RATE, _MOMENTUM, _WEIGHT_DECAY = 0.05, 0.9, 1e-3


class Batch(NamedTuple):
    """Some digits."""

    x: Float[np.ndarray, "digits pixels"]
    y: Int[np.ndarray, " digits"]


class Run(NamedTuple):
    """What training gives: the loss before each step, and the parameters after the last."""

    losses: Float[np.ndarray, " steps"]
    W: Float[np.ndarray, "pixels classes"]
    b: Float[np.ndarray, " classes"]


class Difference(NamedTuple):
    """How far a run is from another, in ulps of float32: of the largest loss, or of the largest entry."""

    losses: Float[np.ndarray, " steps"]
    W: float
    b: float

    @property
    def worst(self) -> float:
        """The largest of them all; NaN if any is."""
        return float(np.max([*self.losses, self.W, self.b]))

    @property
    def holds(self) -> bool:
        """Whether the runs are equal up to rounding."""
        return self.worst <= TOLERANCE_ULPS


Head = Callable[[Parameters, ArrayLike, ArrayLike], Float[Array, ""]]
Report = Callable[[int, float], None]


def batches(digits: Digits, steps: int, seed: int) -> Iterator[Batch]:
    """Yields the training set in another order each epoch; an epoch's last batch is what remains."""
    x, y = digits.train_x.astype(np.float32), digits.train_y.astype(np.int32)
    random = np.random.default_rng(seed)
    starts: list[int] = []
    order = np.arange(len(y))
    for _ in range(steps):
        if not starts:
            order, starts = random.permutation(len(y)), list(range(0, len(y), BATCH))
        rows = order[(start := starts.pop(0)) : start + BATCH]
        yield Batch(x[rows], y[rows])


def train_alone(digits: Digits, each: Iterable[Batch]) -> Run:
    """Trains on one device with `linear_cross_entropy`, on batches as they are."""

    def head(parameters: Parameters, x: ArrayLike, y: ArrayLike) -> Float[Array, ""]:
        return jaxsoftmax.linear_cross_entropy(x, parameters.W, y, bias=parameters.b)

    losses, parameters = _train(head, Parameters(*_zeros(digits)), each)
    return Run(losses, *map(np.asarray, parameters))


def train_on_mesh(mesh: Mesh, digits: Digits, each: Iterable[Batch], report: Report) -> Run:
    """Trains with `sharded_linear_cross_entropy`: every process of the mesh calls it with the same batches."""

    def head(parameters: Parameters, x: ArrayLike, y: ArrayLike) -> Float[Array, ""]:
        return jaxsoftmax.sharded_linear_cross_entropy(
            x,
            parameters.W,
            y,
            bias=parameters.b,
            ignore_index=_IGNORED,
            mesh=mesh,
            token_axes="data",
            vocab_axis="vocab",
        )

    losses, parameters = _train(head, sharded_zeros(mesh, digits), map(partial(sharded, mesh), each), report)
    return Run(losses, *process_allgather(parameters, tiled=True))


def mesh_of(shape: tuple[int, int]) -> Mesh:
    """Returns all devices of all processes as the axes "data" and "vocab"."""
    return jax.make_mesh(shape, ("data", "vocab"), axis_types=(AxisType.Auto, AxisType.Auto))


def sharded(mesh: Mesh, batch: Batch) -> tuple[Array, Array]:
    """Returns the batch as global arrays, of which each process makes its own rows alone.

    A batch that is short, or that the mesh doesn't divide, is padded with rows whose label is ignored.
    """
    missing = -(-BATCH // mesh.shape["data"]) * mesh.shape["data"] - len(batch.y)
    x = np.pad(batch.x, [(0, missing), (0, 0)])
    y = np.pad(batch.y, (0, missing), constant_values=_IGNORED)
    sharding = NamedSharding(mesh, PartitionSpec("data"))
    return (
        jax.make_array_from_callback(x.shape, sharding, x.__getitem__),
        jax.make_array_from_callback(y.shape, sharding, y.__getitem__),
    )


def sharded_zeros(mesh: Mesh, digits: Digits) -> Parameters:
    """Returns the first parameters, over the classes if the mesh divides them; else each device has them all."""
    classes = None if CLASSES % mesh.shape["vocab"] else "vocab"
    of_W, of_b = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in ((None, classes), (classes,)))
    W, b = jax.jit(partial(_zeros, digits), out_shardings=(of_W, of_b))()
    return Parameters(W, b)


def ulps_apart(run: Run, other: Run) -> Difference:
    """Returns the distance of the first run from the other."""
    losses, W, b = (
        np.abs(mine - its) / (np.abs(its).max() * np.finfo(np.float32).eps)
        for mine, its in zip(run, other, strict=True)
    )
    return Difference(losses, float(W.max()), float(b.max()))


def _zeros(digits: Digits) -> tuple[Array, Array]:
    pixels = digits.train_x.shape[1]
    return (jnp.zeros((pixels, CLASSES), jnp.float32), jnp.zeros(CLASSES, jnp.float32))


def _train(
    head: Head,
    parameters: Parameters,
    each: Iterable[tuple[ArrayLike, ArrayLike]],
    report: Report = lambda step, loss: None,
) -> tuple[Float[np.ndarray, " steps"], Parameters]:
    """Trains with momentum, linear in the gradients: Adam would blow the rounding of a gradient near 0 up to a step."""
    optimiser = optax.chain(optax.add_decayed_weights(_WEIGHT_DECAY), optax.sgd(_LEARNING_RATE, _MOMENTUM))

    @jax.jit
    def step(
        parameters: Parameters, state: optax.OptState, batch: tuple[ArrayLike, ArrayLike]
    ) -> tuple[Parameters, optax.OptState, Float[Array, ""]]:
        loss, gradients = jax.value_and_grad(head)(parameters, *batch)
        updates, state = optimiser.update(gradients, state, parameters)
        return jax.tree.map(jnp.add, parameters, updates), state, loss

    losses = []
    with jax.default_matmul_precision("highest"):  # a TPU's default, bfloat16, would differ by more than rounding
        state = optimiser.init(parameters)
        for number, batch in enumerate(each):
            parameters, state, loss = step(parameters, state, batch)
            losses.append(float(loss))
            report(number, losses[-1])
    return np.array(losses, np.float32), parameters
