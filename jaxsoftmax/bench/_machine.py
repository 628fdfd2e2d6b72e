"""What a benchmark was made on: the machine, the versions and the settings that move its numbers."""

import os
import platform
from importlib import metadata
from pathlib import Path
from typing import Any

import jax

import jaxsoftmax

_CPU_INFO = Path("/proc/cpuinfo")
_SETTINGS = ("GLIBC_TUNABLES", "JAX_ENABLE_X64", "OMP_NUM_THREADS", "XLA_FLAGS")


def machine() -> dict[str, Any]:
    """Returns the processor, its cores, the memory, the platform, and the device that JAX uses."""
    return {
        "cpu": _cpu(),
        "cores": _cores(),
        "memory_bytes": memory_bytes(),
        "platform": platform.platform(),
        "device": f"{jax.devices()[0].platform}, {jax.devices()[0].device_kind}",
    }


def versions(peers: tuple[str, ...]) -> dict[str, str]:
    """Returns the versions of Python, of what computes, and of the peers that are installed."""
    packages = dict.fromkeys(("jax", "jaxlib", "optax", *peers))
    found = {"python": platform.python_version(), "jaxsoftmax": jaxsoftmax.__version__}
    for package in packages:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def environment() -> dict[str, str]:
    """Returns the settings that are made."""
    return {name: os.environ[name] for name in _SETTINGS if name in os.environ}


def _cpu() -> str:
    try:
        lines = _CPU_INFO.read_text().splitlines()
    except OSError:
        lines = []
    models = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(models, platform.processor() or platform.machine())


def _cores() -> int | None:
    """The CPU cores available to this process."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not Linux
        return os.cpu_count()


def memory_bytes() -> int | None:
    """Returns how much memory the machine has; None where nobody says."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):  # Windows; a system that doesn't say
        return None
