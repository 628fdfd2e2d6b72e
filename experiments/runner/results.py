"""Result files: JSON and PNG, written whole or not at all, with what is needed to produce them again."""

import io
import json
import math
import os
import platform
import shlex
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
import numpy as np
from matplotlib.figure import Figure

DEFAULT_DIRECTORY = Path(__file__).parents[1] / "results"
QUICK_DIRECTORY = DEFAULT_DIRECTORY / "quick"  # so that quick runs don't overwrite full results
_PACKAGES = (
    "jaxsoftmax",
    "jax",
    "jaxlib",
    "numpy",
    "optax",
    "flax",
    "equinox",
    "orbax-checkpoint",
    "tokenizers",
    "matplotlib",
    "mpmath",
    "scikit-learn",
)


class UnwritableResultsError(Exception):
    """The results directory cannot be written to; the message is one line for the user."""


def prepare_directory(directory: Path) -> None:
    """Creates ``directory`` and proves that it takes files, before any time is spent on measuring.

    Raises:
        UnwritableResultsError: if it cannot be created or written to.
    """
    probe = directory / f".probe.{os.getpid()}.part"
    try:
        directory.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise UnwritableResultsError(f"cannot write results to {directory}: {error.strerror or error}") from error


def write_json(path: Path, document: Mapping[str, Any]) -> None:
    """Writes ``document`` as strict JSON; infinities and NaN become the strings "inf", "-inf" and "nan"."""
    text = json.dumps(_as_json(document), indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    write_whole(path, text.encode())


def write_png(path: Path, figure: Figure) -> None:
    """Draws ``figure`` with Agg and writes it; the bytes depend on the figure alone."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=100, metadata={"Software": None})
    write_whole(path, buffer.getvalue())


def significant(values: Iterable[Any], digits: int) -> list[float]:
    """Returns numbers as a result keeps them, in so many decimal digits; 9 tell every float32 from every other."""
    return [float(f"{value:.{digits}g}") for value in values]


def provenance(name: str, arguments: Sequence[str], seed: int) -> dict[str, Any]:
    """Returns the command, seed, package versions and machine that a result came from."""
    return {
        "command": shlex.join(["python", "-m", "experiments", name, *arguments]),
        "seed": seed,
        "versions": versions(),
        "machine": {
            "system": platform.system(),
            "architecture": platform.machine(),
            "cpus": os.cpu_count(),
            "devices": [device.device_kind for device in jax.devices()],
        },
    }


def versions() -> dict[str, str]:
    """Returns the versions of Python and of the packages that results depend on."""
    return {"python": platform.python_version(), **{package: _version(package) for package in _PACKAGES}}


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return str(getattr(sys.modules.get(package), "__version__", "not installed"))


def write_whole(path: Path, data: bytes) -> None:
    """Writes a temporary file in the same directory and renames it: a reader never sees half a file."""
    part = path.parent / f".{path.name}.{os.getpid()}.part"
    try:
        with part.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError as error:
        raise UnwritableResultsError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        with suppress(OSError):  # the directory itself is gone or read-only: nothing of ours is left to remove
            part.unlink(missing_ok=True)


def _as_json(value: Any) -> Any:
    """Returns ``value`` with only JSON types: arrays become lists, non-finite floats their names."""
    if isinstance(value, Mapping):
        return {str(key): _as_json(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_as_json(entry) for entry in value]
    if isinstance(value, (np.ndarray, np.generic, jax.Array)):
        return _as_json(np.asarray(value).tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value
