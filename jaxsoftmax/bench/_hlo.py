"""The text of a compiled program as computations and instructions, and how many bytes and flops one of those takes."""

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

_BITS = {"pred": 8, "s64": 64, "u64": 64, "f64": 64, "s32": 32, "u32": 32, "f32": 32, "bf16": 16, "f16": 16}
_BITS |= {"s16": 16, "u16": 16, "s8": 8, "u8": 8, "f8e4m3fn": 8, "f8e5m2": 8}
_BITS |= {"c64": 64, "c128": 128, "s4": 4, "u4": 4, "token": 0, "opaque": 0}
_ARRAY = re.compile(r"\b([a-z]\w*)\[([\d,]*)\]")
_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\) -> .* \{$")
_INSTRUCTION = re.compile(r"\s+(ROOT )?%?([\w.\-]+) = ((?:\([^=]*?\))|(?:\S+)) ([a-z][\w\-]*)\((.*)$")
_NAME = re.compile(r"%([\w.\-]+)")
_VIEWS = {"bitcast", "convert", "copy", "reshape"}  # what a slice is taken through


@dataclass(frozen=True)
class Instruction:
    """One line of a computation."""

    is_root: bool
    name: str
    shape: str
    operation: str
    arguments: tuple[str, ...]
    line: str

    def called(self, key: str) -> str:
        """The computation that an attribute names."""
        found = re.search(rf"{key}=%?([\w.\-]+)", self.line)
        return found[1] if found else ""

    def branches(self) -> list[str]:
        """The computations of which a conditional runs one."""
        pair = re.findall(r"(?:true|false)_computation=%?([\w.\-]+)", self.line)
        listed = re.search(r"branch_computations=\{([^}]*)\}", self.line)
        return pair or (listed[1].replace("%", "").split(", ") if listed else [])


Computation = Mapping[str, Instruction]


@dataclass(frozen=True)
class Program:
    """A compiled program."""

    computations: Mapping[str, Computation]
    entry: str


def parse(text: str) -> Program:
    """Returns the program of which a text was made by `compiled.as_text()`."""
    computations: dict[str, dict[str, Instruction]] = {}
    current, entry = None, ""
    for line in re.sub(r"/\*.*?\*/", "", text).splitlines():
        if head := _COMPUTATION.match(line):
            current = computations.setdefault(head[2], {})
            entry = head[2] if head[1] else entry
        elif line.startswith("}"):
            current = None
        elif current is not None and (match := _INSTRUCTION.match(line)):
            arguments = tuple(_NAME.findall(_within_parentheses(match[5])))
            current[match[2]] = Instruction(bool(match[1]), match[2], match[3], match[4], arguments, line)
    return Program(computations, entry)


def trips(program: Program, loop: Instruction) -> int:
    """Returns how often the body of a while loop runs: as the compiler says, or as the bound that its condition has."""
    known = re.search(r'\bknown_trip_count[^\d]*"?n"?[^\d]*(\d+)', loop.line)
    if known:
        return int(known[1])
    condition = program.computations.get(loop.called("condition"), {})
    bounds = {int(n) for i in condition.values() for n in re.findall(r"s32\[\][^=]*constant\((\d+)\)", i.line)}
    counts_up = all("direction=LT" in i.line for i in condition.values() if i.operation == "compare")
    if len(bounds) != 1 or not counts_up:
        raise ValueError(f"how often the loop {loop.name} runs is not in the program")
    return bounds.pop()


@dataclass(frozen=True)
class Work:
    """What an instruction moves and multiplies, once."""

    bytes: int
    flops: int


def work_of(program: Program, computation: Computation, instruction: Instruction) -> Work:
    """Returns what an instruction takes: its operands and its result; of a slice, or an update, that part alone."""
    if instruction.operation == "fusion":
        return _work_of_fusion(program, program.computations[instruction.called("calls")])
    if instruction.operation == "dynamic-slice":
        return Work(2 * bytes_of(instruction.shape), 0)
    if instruction.operation == "dynamic-update-slice":
        return Work(2 * bytes_of(computation[instruction.arguments[1]].shape), 0)
    operands = sum(bytes_of(computation[name].shape) for name in instruction.arguments if name in computation)
    return Work(operands + bytes_of(instruction.shape), flops_of(computation, instruction))


def _work_of_fusion(program: Program, computation: Computation) -> Work:
    users: dict[str, list[Instruction]] = {}
    for instruction in computation.values():
        for name in instruction.arguments:
            users.setdefault(name, []).append(instruction)
    read = sum(_read(i, users) for i in computation.values() if i.operation == "parameter")
    written = sum(_written(computation, result) for result in _results(computation))
    return Work(read + written, sum(_flops_within(program, computation)))


def _flops_within(program: Program, computation: Computation) -> Iterator[int]:
    for instruction in computation.values():
        yield flops_of(computation, instruction)
        if instruction.operation == "fusion":
            yield from _flops_within(program, program.computations[instruction.called("calls")])


def _read(parameter: Instruction, users: Mapping[str, list[Instruction]]) -> int:
    """The bytes of a parameter that a fusion reads: slices, if it takes slices alone; nothing of what it overwrites."""
    direct = users.get(parameter.name, [])
    names = {parameter.name} | {use.name for use in direct if use.operation in _VIEWS}
    uses = [use for name in names for use in users.get(name, []) if use.name not in names]
    if uses and all(use.arguments[0] in names for use in uses):
        operations = {use.operation for use in uses}
        if operations <= {"dynamic-slice", "gather"}:
            return sum(bytes_of(use.shape) for use in uses)
        if operations == {"dynamic-update-slice"}:
            return 0
    return bytes_of(parameter.shape)


def _results(computation: Computation) -> Iterable[Instruction]:
    root = next(i for i in computation.values() if i.is_root)
    return [computation[name] for name in root.arguments] if root.operation == "tuple" else [root]


def _written(computation: Computation, result: Instruction) -> int:
    viewed = computation.get(result.arguments[0]) if result.operation in _VIEWS and result.arguments else None
    if viewed is not None and viewed.operation == "dynamic-update-slice":
        result = viewed
    update = result.operation == "dynamic-update-slice"
    return bytes_of(computation[result.arguments[1]].shape if update else result.shape)


def flops_of(computation: Computation, instruction: Instruction) -> int:
    """The flops of a matrix product; those of other instructions don't matter beside their bytes."""
    if instruction.operation != "dot":
        return 0
    contracted = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", instruction.line)
    left = _sizes(computation[instruction.arguments[0]].shape)
    axes = [int(axis) for axis in (contracted[1] if contracted else "").split(",") if axis]
    return 2 * math.prod(_sizes(instruction.shape)) * math.prod(left[axis] for axis in axes)


def _sizes(shape: str) -> list[int]:
    found = _ARRAY.search(shape)
    return [int(n) for n in found[2].split(",") if n] if found else []


def bytes_of(shape: str) -> int:
    """The size of an array, or of all arrays in a tuple.

    Raises:
      ValueError: a dtype whose size isn't known.
    """
    arrays = _ARRAY.findall(shape)
    if unknown := {dtype for dtype, _ in arrays} - _BITS.keys():
        raise ValueError(f"no size is known of {', '.join(sorted(unknown))}")
    return sum(math.prod(int(n) for n in sizes.split(",") if n) * _BITS[dtype] // 8 for dtype, sizes in arrays)


def _within_parentheses(rest: str) -> str:
    """The text up to the parenthesis that closes one before it."""
    depth = 1
    for at, character in enumerate(rest):
        depth += (character == "(") - (character == ")")
        if not depth:
            return rest[:at]
    return rest
