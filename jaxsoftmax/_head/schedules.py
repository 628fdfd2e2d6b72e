"""Which schedule the fused head follows: a table by the platform that the program is lowered for.

A schedule has steps, which take one chunk of tokens through all classes, and a budget, which says how large the chunk
is by default. To add one, give its steps a module beside `whole_rows`, and it a row here. A kernel for values alone, as
`pallas_tpu` is, is offered beside the table, by `programs.outputs`.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

from jax import Array, lax

from jaxsoftmax._head import class_blocks_cpu, whole_rows
from jaxsoftmax._head.chunk_sizes import Budget, ChunkSizes
from jaxsoftmax._head.problem import HeadGrads


class Steps(NamedTuple):
    """How a chunk of tokens is taken through all classes, and how arrays are cut for it."""

    # The logits of a chunk, `logits(hidden, inputs)`.
    logits: Callable[..., Array]
    # A chunk's gradients, as `whole_rows.add_products` forms them; differentiable, for second derivatives.
    add_products: Callable[..., HeadGrads]
    # The hidden states of all chunks, transposed in memory; None where the products take them as they are.
    transposed: Callable[[Array], Array | None]
    # `columns(kernel, first, count)`: so many columns of the kernel from number `first` on.
    columns: Callable[[Array, Array, int], Array]
    # Whether to peel the first chunk off the loop: XLA then writes its dW instead of adding it to zeros.
    first_apart: bool


class Schedule(NamedTuple):
    """What is done with a chunk, and how large it is by default."""

    steps: Steps
    budget: Budget


def _steps_of(module: Any, first_apart: bool) -> Steps:
    return Steps(module.logits, module.add_products, module.transposed, module.columns, first_apart)


_CPU_STEPS = _steps_of(class_blocks_cpu, first_apart=False)
_WHOLE_ROWS = _steps_of(whole_rows, first_apart=True)
CPU = Schedule(
    _CPU_STEPS, Budget(whole=16 << 20, tokens=512, bytes=256 << 20, classes=2048, block=128 << 20, widens=True)
)
# With fewer than 1024 classes a block's product takes less time than reading and writing hidden's gradient.
DEFAULT = Schedule(
    _WHOLE_ROWS,
    Budget(
        whole=16 << 20, tokens=4096, bytes=1 << 30, classes=None, block=128 << 20, widens=False, min_block_classes=1024
    ),
)
# On a v5e and a v6e XLA keeps a block of classes in the chip's own 128 MiB; of 1024 classes of 32768 tokens it keeps
# the gradient there, and not the logits.
TPU = Schedule(_WHOLE_ROWS, DEFAULT.budget._replace(whole=4 << 30, bytes=2 << 30, block=112 << 20))
BY_PLATFORM = {"cpu": CPU, "tpu": TPU}
ON_EVERY_PLATFORM = CPU.budget  # for a chunk whose size may not depend on the platform


def by_platform(
    work: Callable[..., Any],
    sizes_of: Callable[[Budget], ChunkSizes],
    *arguments: Any,
    on_tpu: Callable[..., Any] | None = None,
) -> Any:
    """`work(steps, sizes, *arguments)` by the schedule of the platform that the program is lowered for.

    `on_tpu(*arguments)` instead on a TPU, if it is given.
    """
    default = DEFAULT.steps, sizes_of(DEFAULT.budget)
    chosen = {platform: (schedule.steps, sizes_of(schedule.budget)) for platform, schedule in BY_PLATFORM.items()}
    others: dict[str, Callable[..., Any]] = {
        platform: partial(work, *choice) for platform, choice in chosen.items() if choice != default
    }
    if on_tpu is not None:
        others["tpu"] = on_tpu
    return lax.platform_dependent(*arguments, default=partial(work, *default), **others)
