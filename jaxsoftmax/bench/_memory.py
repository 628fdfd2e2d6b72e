"""The peak of the memory that one call takes, in a process that has done nothing else.

On Linux both numbers are the kernel's of this process: `getrusage` would begin at the peak of the process that started
this one, and the peak from before the call can be forgotten. Elsewhere `getrusage` is all there is.
"""

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import jax

from jaxsoftmax.bench._case import Case
from jaxsoftmax.bench._inputs import inputs
from jaxsoftmax.bench._jax_runner import JaxRunner
from jaxsoftmax.bench._torch_runner import TorchRunner

_STATUS, _FORGET_PEAK = Path("/proc/self/status"), Path("/proc/self/clear_refs")


class PeakMemory:
    """Measures in the process that it was made in; to be asked once."""

    def __init__(self, device: str) -> None:
        """Takes "cpu", or the platform whose memory counts."""
        self._device = device

    def of(self, subject: str, case: Case) -> int | None:
        """Returns by how many bytes one call raises the peak over what was in use before; None if nobody knows."""
        if subject == "torch":
            runner = TorchRunner(self._device)
            runner.prepare(case)
        else:
            runner = JaxRunner(subject, case, inputs(case))
        in_use, peak = _readings(self._device, subject)
        before = in_use()
        runner.call()
        after = peak()
        return None if before is None or after is None else max(after - before, 0)


_Reading = Callable[[], int | None]  # bytes


def _readings(device: str, subject: str) -> tuple[_Reading, _Reading]:
    """What reads the bytes in use, and their peak: from now on where it can be reset, else since the process began."""
    if device != "cpu":
        return _of_torch() if subject == "torch" else (_on_device("bytes_in_use"), _on_device("peak_bytes_in_use"))
    if sys.platform == "linux":
        _FORGET_PEAK.write_text("5")
        return partial(_status, "VmRSS"), partial(_status, "VmHWM")
    return _largest, _largest


def _status(name: str) -> int:
    (line,) = [line for line in _STATUS.read_text().splitlines() if line.startswith(f"{name}:")]
    return 1024 * int(line.split()[1])


def _largest() -> int | None:
    try:
        import resource
    except ImportError:  # Windows
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _of_torch() -> tuple[_Reading, _Reading]:
    import torch  # pyright: ignore[reportMissingImports]  # a peer may be absent

    torch.cuda.reset_peak_memory_stats()
    return torch.cuda.memory_allocated, torch.cuda.max_memory_allocated


def _on_device(name: str) -> _Reading:
    device = jax.devices()[0]
    return lambda: (device.memory_stats() or {}).get(name)
