"""The peak of the memory that one call takes, in a process that has done nothing else.

On Linux both numbers are the kernel's of this process: `getrusage` would begin at the peak of the process that started
this one, and the peak from before the call can be forgotten. Elsewhere `getrusage` is all there is.
"""

import sys
from pathlib import Path
from typing import Any

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
        runner = TorchRunner(case, self._device) if subject == "torch" else JaxRunner(subject, case, inputs(case))
        if self._device == "cpu":
            return _raised_by(runner)
        return _raised_on_device_by(runner, subject)


def _raised_by(runner: Any) -> int | None:
    if sys.platform == "linux":
        _FORGET_PEAK.write_text("5")
        before = _kilobytes("VmRSS")
        outputs = runner.call()
        raised = _kilobytes("VmHWM") - before
        del outputs
        return 1024 * max(raised, 0)
    try:
        import resource
    except ImportError:  # Windows
        return None
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    outputs = runner.call()
    raised = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    del outputs
    return raised * (1 if sys.platform == "darwin" else 1024)


def _kilobytes(name: str) -> int:
    (line,) = [line for line in _STATUS.read_text().splitlines() if line.startswith(f"{name}:")]
    return int(line.split()[1])


def _raised_on_device_by(runner: Any, subject: str) -> int | None:
    if subject == "torch":
        import torch  # pyright: ignore[reportMissingImports]  # a peer may be absent

        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        outputs = runner.call()
        raised = torch.cuda.max_memory_allocated() - before
        del outputs
        return raised
    device = jax.devices()[0]
    before = (device.memory_stats() or {}).get("bytes_in_use")
    outputs = runner.call()
    peak = (device.memory_stats() or {}).get("peak_bytes_in_use")
    del outputs
    return None if before is None or peak is None else peak - before
