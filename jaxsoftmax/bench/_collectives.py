"""What one device does and says in a program over a mesh, read from the text of its HLO."""

import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from jaxsoftmax.bench import _hlo
from jaxsoftmax.bench._hlo import Computation, Instruction, Program

_COLLECTIVES = {
    *("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "ragged-all-to-all"),
    *("collective-permute", "collective-broadcast"),
}


class UnreadableProgramError(ValueError):
    """The text has something whose cost this reader can't tell."""


@dataclass(frozen=True)
class Collective:
    """One collective of the program, and how often it runs."""

    kind: str
    bytes: int  # of what one device has in hand: an all-reduce's array, an all-gather's result
    axes: tuple[int, ...]  # of the mesh, over which its devices differ
    times: int


@dataclass(frozen=True)
class DeviceWork:
    """The matrix products' flops and the collectives of one device, loops counted as often as they run."""

    flops: int
    collectives: tuple[Collective, ...]

    def bytes_said(self, axis_names: Sequence[str]) -> dict[str, int]:
        """The bytes of all collectives of a kind over the same axes of the mesh: "all-reduce over data" and so on."""
        said: Counter[str] = Counter()
        for each in self.collectives:
            said[f"{each.kind} over {' and '.join(axis_names[axis] for axis in each.axes)}"] += each.bytes * each.times
        return dict(said)


def device_work(text: str, mesh_shape: tuple[int, ...]) -> DeviceWork:
    """Reads an optimised module.

    Args:
      text: of `compiled.as_text()`.
      mesh_shape: of the mesh whose devices are numbered in order.

    Raises:
      UnreadableProgramError: work in a loop of unknown length or in one branch of a choice, an asynchronous collective,
        a matrix product that is no dot, or devices grouped in an unknown notation.
    """
    program = _hlo.parse(text)
    if not program.entry:
        raise UnreadableProgramError("no entry computation")
    flops, collectives = 0, []
    for computation, each, times in _runs(program, program.entry, 1, chosen=False):
        if each.operation == "dot":
            flops += times * _hlo.flops_of(computation, each)
        elif each.operation in ("custom-call", "convolution") and "matmul" in each.line:
            raise UnreadableProgramError(f"a matrix product that is no dot: {each.name}")
        elif _counts(each):
            collectives.append(_collective(each, mesh_shape, times))
    return DeviceWork(flops, tuple(each for each in collectives if each.axes))


def _runs(program: Program, name: str, times: int, chosen: bool) -> Iterator[tuple[Computation, Instruction, int]]:
    """Every instruction with how often it runs: those in a loop as often as that turns."""
    for each in program.computations[name].values():
        if chosen and _counts(each):
            raise UnreadableProgramError(f"work that depends on data: {each.name}")
        yield program.computations[name], each, times
        turns = _turns(program, each)
        for key in ("calls", "to_apply", "condition", "body"):
            if called := each.called(key):
                yield from _runs(program, called, times * (turns or 1), chosen or turns is None)
        for branch in each.branches():
            yield from _runs(program, branch, times, True)


def _turns(program: Program, each: Instruction) -> int | None:
    """How often what an instruction calls runs; None if that depends on data, as may whether it does at all."""
    if each.operation != "while":
        return 1
    try:
        return _hlo.trips(program, each)
    except ValueError:
        return None


def _counts(each: Instruction) -> bool:
    return each.operation == "dot" or each.operation.removesuffix("-start") in _COLLECTIVES


def _collective(each: Instruction, mesh_shape: tuple[int, ...], times: int) -> Collective:
    if each.operation not in _COLLECTIVES:
        raise UnreadableProgramError(f"an asynchronous collective: {each.name}")
    group = _first_group(each.line)
    size = _hlo.bytes_of(each.shape) * (len(group) if each.operation == "reduce-scatter" else 1)
    places = np.array(np.unravel_index(group, mesh_shape))
    axes = tuple(int(axis) for axis in np.flatnonzero(np.ptp(places, axis=1)))
    return Collective(each.operation, size, axes, times)


def _first_group(line: str) -> list[int]:
    """The devices that speak with device 0, from any of XLA's notations."""
    if listed := re.search(r"replica_groups=\{\{([\d,]+)\}", line):
        return _numbers(listed[1])
    if iota := re.search(r"replica_groups=\[(\d+),(\d+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", line):
        ids = np.arange(int(iota[1]) * int(iota[2])).reshape(_numbers(iota[3]))
        ids = ids.transpose(_numbers(iota[4])) if iota[4] else ids
        return ids.reshape(int(iota[1]), int(iota[2]))[0].tolist()
    order = r"(?:, device_ids=\(\[([\d,]+)\]T\(([\d,]+)\)\))?"
    if named := re.search(rf"replica_groups=mesh\[([^\]]*)\]{order} \{{([^}}]*)\}}", line):
        sizes = {name: int(size) for name, size in re.findall(r"'(\w+)'=(\d+)", named[1])}
        spoken = re.findall(r"'(\w+)'", named[4])
        ids = np.arange(math.prod(sizes.values()))
        ids = ids.reshape(_numbers(named[2])).transpose(_numbers(named[3])) if named[2] else ids
        ids = ids.reshape(tuple(sizes.values()))
        return ids[tuple(slice(None) if name in spoken else 0 for name in sizes)].reshape(-1).tolist()
    raise UnreadableProgramError(f"devices grouped in an unknown notation: {line[:200]}")


def _numbers(text: str) -> list[int]:
    return [int(number) for number in text.split(",") if number]
