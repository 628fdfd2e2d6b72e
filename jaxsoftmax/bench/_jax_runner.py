"""One JAX subject on one case: compiled ahead, and called when asked."""

import time
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from jaxsoftmax.bench._case import Case
from jaxsoftmax.bench._subjects import program
from jaxsoftmax.bench._timing import seconds_of


class JaxRunner:
    """A compiled program and the arrays that it is called with."""

    def __init__(self, subject: str, case: Case, arrays: Sequence[np.ndarray | jax.Array]) -> None:
        """Puts the arrays on the device, if they aren't there, and compiles."""
        # Ready: a copy under way would be charged to the first call.
        self._arrays = jax.block_until_ready([jax.device_put(array) for array in arrays])
        function = program(subject, case)
        jax.clear_caches()  # what an earlier case has traced and compiled would count as no time
        start = time.perf_counter()
        self._compiled = jax.jit(function).lower(*self._arrays).compile()
        self.compile_seconds: float | None = time.perf_counter() - start
        memory = self._compiled.memory_analysis()
        self.temp_bytes: int | None = getattr(memory, "temp_size_in_bytes", None)
        self.output_bytes: int | None = getattr(memory, "output_size_in_bytes", None)

    def call(self) -> Any:
        """Returns the outputs, once they are there."""
        return jax.block_until_ready(self._compiled(*self._arrays))

    def seconds(self) -> float:
        """Returns the time of one call."""
        return seconds_of(self.call)

    def gradients(self) -> tuple[np.ndarray, ...]:
        """Returns the gradients, of a program that gives a value and gradients."""
        return tuple(np.asarray(gradient) for gradient in jax.tree.leaves(self.call()[1]))
