"""Machines that aren't here, for which a program can be compiled, and how long it would take there.

TPU: the sum of what TPU's own compiler estimates for each instruction, times the trips of its loops. GPU: a roofline
of the compiled program, for each instruction the longer of its bytes at the memory's bandwidth and its flops at the
peak rate. That is a lower bound, as it knows no inefficiency of a kernel: good to compare programs, not a measurement.
"""

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import jax

from jaxsoftmax.bench import _hlo
from jaxsoftmax.bench._hlo import Computation, Instruction, Program


@dataclass(frozen=True)
class Tpu:
    """A chip whose compiler says how many cycles an instruction takes."""

    clock: float  # Hz, in which it counts
    peak: float  # bfloat16 flops / s
    kind_of_time = "estimated by TPU's compiler"

    def seconds(self, program: Program, computation: Computation, instruction: Instruction) -> float:
        """How long one instruction takes; 0 of one without an estimate."""
        cycles = re.search(r'"estimated_cycles":"(\d+)"', instruction.line)
        return int(cycles[1]) / self.clock if cycles and int(cycles[1]) < _NO_ESTIMATE else 0.0


@dataclass(frozen=True)
class Gpu:
    """A chip by its data sheet."""

    bandwidth: float  # bytes / s
    peak: float  # bfloat16 flops / s
    memory: int  # bytes
    kind_of_time = "roofline of the compiled program"

    def seconds(self, program: Program, computation: Computation, instruction: Instruction) -> float:
        """How long one instruction takes at the least."""
        work = _hlo.work_of(program, computation, instruction)
        return max(work.bytes / self.bandwidth, work.flops / self.peak)


TPUS = {
    "v4": Tpu(1.05e9, 275e12),
    "v5e": Tpu(1.5e9, 197e12),
    "v5p": Tpu(1.75e9, 459e12),
    "v6e": Tpu(1.75e9, 918e12),
    "tpu7x": Tpu(2.2e9, 1153e12),  # of one of its two cores
}
GPUS = {"h100": Gpu(3.35e12, 989e12, 84_929_347_584), "h200": Gpu(4.8e12, 989e12, 150_000_000_000)}
_NO_ESTIMATE = 1 << 50  # cycles: what it writes where it has none
# Of NVIDIA's Hopper GPUs, in the form in which XLA reads what it can't ask a device.
_HOPPER = """
gpu_device_info { threads_per_block_limit: 1024 threads_per_warp: 32 shared_memory_per_block: 49152
 shared_memory_per_core: 233472 threads_per_core_limit: 2048 core_count: 132 fpus_per_core: 128
 block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
 memory_bandwidth: %d l2_cache_size: 62914560 clock_rate_ghz: 1.98 device_memory_size: %d
 shared_memory_per_block_optin: 232448 cuda_compute_capability { major: 9 }
 registers_per_core_limit: 65536 registers_per_block_limit: 65536 }
platform_name: "CUDA" dnn_version_info { major: 9 minor: 8 } runtime_version { major: 12 minor: 9 }
device_description_str: "NVIDIA %s"
"""
_FREE = {
    *("parameter", "constant", "get-tuple-element", "tuple", "bitcast", "iota", "after-all", "partition-id"),
    *("replica-id", "copy-start", "copy-done", "opt-barrier"),
}


@dataclass(frozen=True)
class Target:
    """A machine that programs are compiled for."""

    name: str
    chip: Tpu | Gpu
    devices: Any  # of JAX, to compile for alone


def target(name: str) -> Target:
    """Returns a machine by its name, `tpu:CHIP:TOPOLOGY` or `cuda:CHIP`; before JAX has looked for devices.

    Raises:
      ValueError: there is no such machine, or what compiles for it isn't installed.
    """
    platform, _, rest = name.partition(":")
    kind, _, topology = rest.partition(":")
    chips: Mapping[str, Tpu | Gpu] = {"tpu": TPUS, "cuda": GPUS}.get(platform, {})
    if kind not in chips or (platform == "tpu") != bool(topology):
        known = f"tpu: {', '.join(TPUS)}; cuda: {', '.join(GPUS)}"
        raise ValueError(f"expected tpu:CHIP:TOPOLOGY or cuda:CHIP ({known}), got {name!r}")
    chip = chips[kind]
    jax.config.update("jax_platforms", "cpu")
    try:
        devices = _cuda(kind, chip) if isinstance(chip, Gpu) else _tpu(rest)
    except Exception as error:
        needed = "libtpu" if platform == "tpu" else "'jax[cuda12]'"
        said = next(iter(str(error).splitlines()), "")
        raise ValueError(f"nothing here compiles for {name} (pip install {needed}?): {said}") from error
    return Target(name, chip, devices)


def _tpu(topology: str) -> Any:
    os.environ.update(TPU_SKIP_MDS_QUERY="1", ALLOW_MULTIPLE_LIBTPU_LOAD="1", TPU_WORKER_HOSTNAMES="localhost")
    os.environ.update(TPU_STDERR_LOG_LEVEL="3", TPU_MIN_LOG_LEVEL="3")
    from jax.experimental import topologies

    return topologies.get_topology_desc(platform="tpu", topology_name=topology).devices


def _cuda(kind: str, chip: Gpu) -> Any:
    os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_gpu_autotune_level=0"
    from jax._src import xla_bridge
    from jax.experimental import topologies

    jax.devices("cpu")
    known = xla_bridge.canonicalize_platform

    def canonicalize(platform: str) -> str:
        try:
            return known(platform)
        except RuntimeError:  # jax#23971: without a device it refuses to name the platform
            return "cuda"

    xla_bridge.canonicalize_platform = canonicalize
    config = _HOPPER % (chip.bandwidth, chip.memory, kind.upper())
    return topologies.get_topology_desc(platform="cuda", target_config=config, topology="1x1x1").devices


@dataclass(frozen=True)
class Cost:
    """One instruction of a compiled program."""

    seconds: float  # of all its trips
    trips: int
    name: str
    shape: str


def costs(chip: Tpu | Gpu, text: str) -> list[Cost]:
    """Returns what the instructions of a compiled program take, dearest first; of a conditional the dearest branch."""
    program = _hlo.parse(text)
    return sorted(_costs(chip, program, program.entry, 1), key=lambda cost: -cost.seconds)


def _costs(chip: Tpu | Gpu, program: Program, name: str, times: int) -> Iterator[Cost]:
    computation = program.computations[name]
    for instruction in computation.values():
        if instruction.operation == "while":
            inner = times * _hlo.trips(program, instruction)
            yield from _costs(chip, program, instruction.called("body"), inner)
        elif instruction.operation == "call":
            yield from _costs(chip, program, instruction.called("to_apply"), times)
        elif instruction.operation == "conditional":
            branches = [list(_costs(chip, program, branch, times)) for branch in instruction.branches()]
            yield from max(branches, key=lambda branch: sum(cost.seconds for cost in branch))
        elif instruction.operation not in _FREE:
            seconds = chip.seconds(program, computation, instruction)
            if seconds:
                yield Cost(seconds * times, times, instruction.name, instruction.shape)
