"""What several processes do together: how they divide tokens and classes among them, for how many steps."""

import argparse
import math
import re

from experiments.runner.experiment import positive

_STEPS, _STEPS_QUICK = 200, 40


def add_job_options(parser: argparse.ArgumentParser) -> None:
    """Adds what the launcher and its workers both understand."""
    parser.add_argument(
        "--mesh",
        type=_mesh_shape,
        metavar="DATAxVOCAB",
        help="how many parts the digits and the classes are cut into, such as 2x2 (default: as square as possible)",
    )
    parser.add_argument("--steps", type=positive, help=f"updates (default: {_STEPS}; with --quick {_STEPS_QUICK})")


def steps_of(options: argparse.Namespace) -> int:
    """Returns the number of updates."""
    return options.steps or (_STEPS_QUICK if options.quick else _STEPS)


def shape_over(devices: int, shape: tuple[int, int] | None) -> tuple[int, int]:
    """Returns the mesh's shape over that many devices, by default the squarest, with the digits in more parts.

    Raises:
        ValueError: if the shape needs another number of devices.
    """
    if shape is None:
        vocab = max(parts for parts in range(1, math.isqrt(devices) + 1) if devices % parts == 0)
        return devices // vocab, vocab
    if math.prod(shape) != devices:
        raise ValueError(f"argument --mesh: {as_text(shape)} needs {math.prod(shape)} devices, got {devices}")
    return shape


def as_text(shape: tuple[int, int]) -> str:
    """Returns the shape as `--mesh` takes it."""
    return "x".join(map(str, shape))


def _mesh_shape(text: str) -> tuple[int, int]:
    parts = re.fullmatch(r"(\d{1,4})x(\d{1,4})", text)
    shape = (int(parts[1]), int(parts[2])) if parts else (0, 0)
    if 0 in shape:
        raise argparse.ArgumentTypeError(f"expected DATAxVOCAB, two whole numbers such as 2x2, got {text!r}")
    return shape
