"""What one device does and says in a compiled program, read from the text of its HLO."""

import math
import re
from dataclasses import dataclass

import numpy as np

_BYTES = {"pred": 1, "s32": 4, "u32": 4, "bf16": 2, "f16": 2, "f32": 4, "f64": 8}
_COLLECTIVES = {
    "all-reduce",
    "all-gather",
    "reduce-scatter",
    "all-to-all",
    "ragged-all-to-all",
    "collective-permute",
    "collective-broadcast",
}
_CALLED = re.compile(r"(?:calls|to_apply|condition|body)=%([\w.-]+)")
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}|(?:true|false)_computation=(%[\w.-]+)")
_INSTRUCTION = re.compile(r"^\s*(?:ROOT )?%(\S+) = (\(.*?\)|\S+) ([\w-]+)\((.*)$")
_ARRAY = re.compile(r"(\w+)\[([\d,]*)\]")


class UnreadableHloError(ValueError):
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


@dataclass(frozen=True)
class _Instruction:
    name: str
    result: str
    opcode: str
    rest: str  # operands and attributes


def device_work(text: str, mesh_shape: tuple[int, ...]) -> DeviceWork:
    """Reads an optimised module.

    Args:
        text: of `compiled.as_text()`.
        mesh_shape: of the mesh whose devices are numbered in order.

    Raises:
        UnreadableHloError: work in a loop of unknown length or in one branch of a choice, an asynchronous collective, a
            matrix product that is no dot, or devices grouped in an unknown notation.
    """
    entry, computations = _computations(text)
    flops, collectives = 0, []
    for computation, times in _times_run(entry, computations).items():
        results = {each.name: each.result for each in computations[computation]}
        for each in computations[computation]:
            if each.opcode == "dot":
                flops += times * _flops(each, results)
            elif each.opcode in ("custom-call", "convolution") and "matmul" in each.rest:
                raise UnreadableHloError(f"a matrix product that is no dot: {each.name}")
            elif _counts(each):
                collectives.append(_collective(each, mesh_shape, times))
    return DeviceWork(flops, tuple(each for each in collectives if each.axes))


def _computations(text: str) -> tuple[str, dict[str, list[_Instruction]]]:
    entry, name, found = "", "", {}
    for line in re.sub(r"/\*.*?\*/", "", text).splitlines():
        head = re.match(r"^(ENTRY )?%(\S+) .*\{$", line)
        if head:
            name = head[2]
            found[name] = []
            entry = name if head[1] else entry
        elif name and (match := _INSTRUCTION.match(line)):
            found[name].append(_Instruction(*match.groups()))
    if not entry:
        raise UnreadableHloError("no entry computation")
    return entry, found


def _times_run(entry: str, computations: dict[str, list[_Instruction]]) -> dict[str, int]:
    """Returns how often each computation runs: a loop's body as often as it turns."""
    times = dict.fromkeys(computations, 0)

    def enter(name: str, runs: int, chosen: bool) -> None:
        times[name] += runs
        for each in computations[name]:
            if chosen and _counts(each):
                raise UnreadableHloError(f"work that depends on data: {each.name}")
            turns = _turns(each, computations) if each.opcode == "while" and not chosen else 1
            for called in _CALLED.findall(each.rest):
                enter(called, runs * (1 if turns is None else turns), chosen or turns is None)
            for branch in re.findall(r"%([\w.-]+)", " ".join(map("".join, _BRANCHES.findall(each.rest)))):
                enter(branch, runs, True)

    enter(entry, 1, False)
    return times


def _counts(each: _Instruction) -> bool:
    return each.opcode == "dot" or each.opcode.removesuffix("-start") in _COLLECTIVES


def _turns(loop: _Instruction, computations: dict[str, list[_Instruction]]) -> int | None:
    """Returns how often a loop turns, as is known, or by the bound of its counter, which starts at 0 in JAX's loops.

    None if that depends on data, as may whether it turns at all.
    """
    known = re.search(r'"known_trip_count":\{"n":"(\d+)"\}', loop.rest)
    if known is not None:
        return int(known[1])
    condition = computations[re.findall(r"condition=%([\w.-]+)", loop.rest)[0]]
    compared = any(each.opcode == "compare" and "direction=LT" in each.rest for each in condition)
    bounds = [int(each.rest.split(")")[0]) for each in condition if each.opcode == "constant"]
    return bounds[0] if compared and len(bounds) == 1 else None


def _flops(dot: _Instruction, results: dict[str, str]) -> int:
    left = re.match(r"%([\w.-]+)", dot.rest)
    contracted = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", dot.rest)
    if left is None or contracted is None:
        raise UnreadableHloError(f"a dot without operands: {dot.name}")
    ((_, left_shape),), ((_, shape),) = _arrays(results[left[1]]), _arrays(dot.result)
    return 2 * math.prod(shape) * math.prod(left_shape[axis] for axis in _numbers(contracted[1]))


def _collective(each: _Instruction, mesh_shape: tuple[int, ...], times: int) -> Collective:
    if each.opcode not in _COLLECTIVES:
        raise UnreadableHloError(f"an asynchronous collective: {each.name}")
    group = _first_group(each.rest)
    size = sum(math.prod(shape) * _BYTES[dtype] for dtype, shape in _arrays(each.result))
    if each.opcode == "reduce-scatter":
        size *= len(group)
    places = np.array(np.unravel_index(group, mesh_shape))
    axes = tuple(int(axis) for axis in np.flatnonzero(np.ptp(places, axis=1)))
    return Collective(each.opcode, size, axes, times)


def _first_group(attributes: str) -> list[int]:
    """Returns the devices that speak with device 0, from any of XLA's notations."""
    if listed := re.search(r"replica_groups=\{\{([\d,]+)\}", attributes):
        return _numbers(listed[1])
    if iota := re.search(r"replica_groups=\[(\d+),(\d+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", attributes):
        ids = np.arange(int(iota[1]) * int(iota[2])).reshape(_numbers(iota[3]))
        ids = ids.transpose(_numbers(iota[4])) if iota[4] else ids
        return ids.reshape(int(iota[1]), int(iota[2]))[0].tolist()
    order = r"(?:, device_ids=\(\[([\d,]+)\]T\(([\d,]+)\)\))?"
    if named := re.search(rf"replica_groups=mesh\[([^\]]*)\]{order} \{{([^}}]*)\}}", attributes):
        sizes = {name: int(size) for name, size in re.findall(r"'(\w+)'=(\d+)", named[1])}
        spoken = re.findall(r"'(\w+)'", named[4])
        ids = np.arange(math.prod(sizes.values()))
        ids = ids.reshape(_numbers(named[2])).transpose(_numbers(named[3])) if named[2] else ids
        ids = ids.reshape(tuple(sizes.values()))
        return ids[tuple(slice(None) if name in spoken else 0 for name in sizes)].reshape(-1).tolist()
    raise UnreadableHloError(f"devices grouped in an unknown notation: {attributes[:200]}")


def _arrays(types: str) -> list[tuple[str, list[int]]]:
    return [(dtype, _numbers(dimensions)) for dtype, dimensions in _ARRAY.findall(types)]


def _numbers(text: str) -> list[int]:
    return [int(number) for number in text.split(",") if number]
