"""torch on one case, for use in a process of its own: its threads and JAX's never share one."""

import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from typing import Any

import numpy as np

from jaxsoftmax.bench._case import VALUE, Case
from jaxsoftmax.bench._inputs import inputs
from jaxsoftmax.bench._timing import seconds_of
from jaxsoftmax.bench._worker import Worker, WorkerDiedError, WorkerError


class TorchRunner:
    """A loss of torch with the tensors that it is called with, of one case at a time."""

    def __init__(self, device: str) -> None:
        """Takes "cpu" or "cuda"."""
        import torch  # pyright: ignore[reportMissingImports]  # a peer may be absent

        self._torch, self._device = torch, device
        self._outputs: Callable[[], Any] | None = None

    def prepare(self, case: Case) -> float | None:
        """Makes the tensors of a case on the device; on a GPU compiles too, and returns the seconds that took."""
        self.release()
        *floats, labels = (self._tensor(array) for array in inputs(case))
        if case.width is not None:
            floats[1] = floats[1].T.contiguous()  # torch keeps the kernel as [V, D]
        wanted = floats if case.kind == "linear" else floats[:1]
        for tensor in wanted:
            tensor.requires_grad_(case.quantity != VALUE)
        loss = _loss(case) if self._device == "cpu" else self._torch.compile(_loss(case))
        arguments = *floats, labels.long()

        def outputs() -> Any:
            if case.quantity != VALUE:
                return self._torch.autograd.grad(loss(*arguments), wanted)
            with self._torch.no_grad():
                return loss(*arguments)

        self._outputs = outputs
        if self._device == "cpu":
            return None
        start = time.perf_counter()
        self.call()
        return time.perf_counter() - start

    def _tensor(self, array: np.ndarray) -> Any:
        if array.dtype.name == "bfloat16":  # of which torch reads no NumPy array
            return self._torch.from_numpy(array.view(np.int16)).view(self._torch.bfloat16).to(self._device)
        return self._torch.from_numpy(array).to(self._device)

    def call(self) -> Any:
        """Returns the loss or the gradients, once they are there."""
        assert self._outputs is not None
        outputs = self._outputs()
        if self._device == "cuda":
            self._torch.cuda.synchronize()
        return outputs

    def seconds(self) -> float:
        """Returns the time of one call."""
        return seconds_of(self.call)

    def gradients(self) -> tuple[np.ndarray, ...]:
        """Returns the gradients, laid out as JAX's are."""
        first, *rest = (gradient.detach().float().cpu().numpy() for gradient in self.call())
        return first, *(kernel.T for kernel in rest)

    def release(self) -> None:
        """Drops the tensors, and the memory that torch keeps for others."""
        self._outputs = None
        if self._device == "cuda":
            self._torch.cuda.empty_cache()


def _loss(case: Case) -> Callable[..., Any]:
    from torch.nn import functional  # pyright: ignore[reportMissingImports]  # a peer may be absent

    if case.width is None:
        return functional.cross_entropy
    # linear_cross_entropy is the same without its options; with them it takes less memory and more time.
    return lambda hidden, kernel, labels: functional.cross_entropy(functional.linear(hidden, kernel), labels)


class RemoteTorch:
    """A runner whose calls are made, and timed, by torch in another process, which lives from case to case."""

    compile_seconds: float | None = None
    temp_bytes = None  # torch plans no memory ahead
    output_bytes = None

    def __init__(self, device: str, stack: ExitStack) -> None:
        """Leaves the end of the process, once there is one, to the stack."""
        self._device, self._stack = device, stack
        self._worker: Worker | None = None

    def on(self, case: Case) -> "RemoteTorch":
        """Returns the runner, with a case to run."""
        if self._worker is None:
            self._worker = self._stack.enter_context(Worker(TorchRunner, self._device))
        self.compile_seconds = self._ask("prepare", case)
        return self

    def seconds(self) -> float:
        """Returns the time of one call, as measured there."""
        return self._ask("seconds")

    def gradients(self) -> tuple[np.ndarray, ...]:
        """Returns the gradients."""
        return self._ask("gradients")

    def release(self) -> None:
        """Frees what the case took."""
        if self._worker is not None:
            with suppress(WorkerError):
                self._ask("release")

    def _ask(self, method: str, *arguments: Any) -> Any:
        assert self._worker is not None
        try:
            return self._worker.ask(method, *arguments)
        except WorkerDiedError:
            self._worker = None  # the next case starts another
            raise
