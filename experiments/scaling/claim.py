"""What the head over a mesh costs each device: the formulas of docs/scaling.md against the programs that XLA makes.

Programs are compiled for 1, 2 and 4 CPU devices, and with libtpu for pods of TPUs, and not run. Their HLO says how
many flops the matrix products take (on a CPU) and what the collectives move, each loop counted as often as it turns;
XLA says how much temporary memory they need.
"""

import json
import os
import sys
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType
from typing import Any

from rich.progress import Progress
from rich.table import Table

from experiments.runner.experiment import Experiment, Options, Outcome
from experiments.runner.processes import ProcessGroup
from experiments.scaling.cost_model import (
    CPU,
    TPU,
    Program,
    collectives,
    fastest,
    flops,
    over_pod,
    pod_bound,
    seconds,
    temporary_bound,
)
from experiments.scaling.figure import scaling_figure

_DEVICES = 4
_MESHES = ((1, 1), (2, 1), (1, 2), (4, 1), (1, 4), (2, 2))
_FSDP_MESHES = ((2, 1), (4, 1), (2, 2))
_DTYPES = ("float32", "bfloat16")
_SHAPES = ((1024, 256, 32768), (2048, 512, 8192))
_RAGGED = (1024, 256, 50257)
_PODS = {"tpu:v5e:16x16": (32, 8), "tpu:v5p:4x4x8": (16, 8)}
_POD_VOCABS = (1 << 17, 1 << 18, 1 << 20)
_ONE = (1024, 256, 32768, 2, 2)
# What a check says of each part of a program's costs.
_SAID = {
    "flops": "flops are the model's",
    "collectives": "bytes in each collective are the model's",
    "temporary": "temporary memory is within the model's bound",
}


@dataclass(frozen=True)
class Found:
    """What one program costs a device, compiled and by the model."""

    program: Program
    measured: dict[str, Any]  # flops, collectives, temporary
    model: dict[str, Any]  # the last as a bound

    def agrees(self, part: str) -> bool:
        """Whether flops or bytes in collectives are the model's, or the temporary memory within its bound."""
        if part == "temporary":
            return 0 < self.measured[part] <= self.model[part]
        return self.measured[part] == self.model[part]


def of_model(program: Program) -> dict[str, Any]:
    """Returns what the program costs a CPU device by the model."""
    bound = temporary_bound(program, CPU)
    return {"flops": flops(program, CPU), "collectives": collectives(program, CPU), "temporary": bound}


def programs(quick: bool) -> list[Program]:
    """Returns the programs to compile; the first is also compiled with a mistake."""
    first = Program(*_ONE)
    if quick:
        return [
            first,
            Program(1024, 256, 32768, 1, 4),
            Program(*_ONE, "bfloat16", "FSDP"),
            Program(*_RAGGED, 1, 4, kernel="whole"),
            Program(*_ONE, hidden="both", label_smoothing=0.1),
            Program(1000, *_ONE[1:], chunk=128, bias=True),
        ]
    over_classes = [Program(*shape, *mesh, dtype) for shape in _SHAPES for mesh in _MESHES for dtype in _DTYPES]
    fsdp = [Program(*shape, *mesh, dtype, "FSDP") for shape in _SHAPES for mesh in _FSDP_MESHES for dtype in _DTYPES]
    ragged = [Program(*_RAGGED, *mesh, dtype, "whole") for mesh in _MESHES if mesh[1] > 1 for dtype in _DTYPES]
    others = [
        Program(*_ONE, hidden="both"),
        Program(*_ONE, chunk=128),
        Program(1000, *_ONE[1:], chunk=128),
        Program(*_ONE, label_smoothing=0.1),
        Program(*_ONE, bias=True),
        Program(*_ONE, gradients=False),
    ]
    return [first, *(each for each in (*over_classes, *fsdp, *ragged, *others) if each != first)]


def of_pod_model(program: Program) -> dict[str, Any]:
    """Returns what the program costs a TPU by the model."""
    return {"collectives": collectives(program, TPU), "temporary": pod_bound(program)}


def pod_programs(quick: bool) -> dict[str, list[Program]]:
    """Returns the programs to compile for each pod: a million tokens a step; none without the compiler for TPU."""
    if quick or find_spec("libtpu") is None:
        return {}
    return {
        pod: [over_pod(1 << 20, vocab, *mesh, kernel) for vocab in _POD_VOCABS for kernel in ("classes", "FSDP")]
        for pod, mesh in _PODS.items()
    }


def measure(options: Options, progress: Progress) -> Outcome:
    """Compiles the programs in a process of four devices; this one may have a backend already."""
    asked, pods = programs(options.quick), pod_programs(options.quick)
    task = progress.add_task("programs compiled", total=len(asked) + 1 + sum(map(len, pods.values())))

    def advance() -> None:
        progress.advance(task)

    *costs, mistaken = compiled_costs(asked, advance)
    over_pods = {pod: compiled_costs(of_pod, advance, pod) for pod, of_pod in pods.items()}
    found = [Found(program, cost, of_model(program)) for program, cost in zip(asked, costs, strict=True)]
    found_over_pods = {
        pod: [Found(each, cost, of_pod_model(each)) for each, cost in zip(pods[pod], of_pod, strict=True)]
        for pod, of_pod in over_pods.items()
    }
    return judge(found, Found(asked[0], mistaken, of_model(asked[0])), found_over_pods)


def compiled_costs(asked: Sequence[Program], advance: Callable[[], None], pod: str = "") -> list[dict[str, Any]]:
    """Returns what each compiled program costs; on CPU devices after them the first without its `vocab_axis`.

    Raises:
        ProcessDiedError: if the process that compiles them ends with an error.
    """
    programs_as_text = json.dumps([asdict(each) for each in asked])
    command = [sys.executable, "-m", "experiments.scaling.worker", programs_as_text, *([pod] if pod else [])]
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    environment |= {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": str(_DEVICES)}
    costs = []
    with ProcessGroup([command], environment, Path(__file__).parents[2]) as group:
        for line in group.lines():
            costs.append(json.loads(line))
            advance()
    return costs


def judge(
    found: Sequence[Found], mistaken: Found, over_pods: Mapping[str, Sequence[Found]] = MappingProxyType({})
) -> Outcome:
    """Turns the costs into a verdict."""
    of_pods = [each for of_pod in over_pods.values() for each in of_pod]
    return Outcome(
        checks=_checks(found, _SAID)
        | {"a forgotten vocab_axis is noticed in flops, bytes and memory": not any(map(mistaken.agrees, _SAID))}
        | (_checks(of_pods, ("collectives", "temporary"), "over a pod, ") if of_pods else {}),
        conclusion=[*_said_of_devices(found, mistaken), _said_of_pods(of_pods, over_pods)],
        measurements={
            "programs": [_as_measured(each) for each in found],
            "vocab_axis forgotten": mistaken.measured,
            "pods": {pod: [_as_measured(each) for each in of_pod] for pod, of_pod in over_pods.items()},
        },
        tables=[_table(found)],
        figures={"scaling": scaling_figure()},
    )


def _checks(found: Sequence[Found], parts: Iterable[str], where: str = "") -> dict[str, bool]:
    """Returns whether all programs agree with the model in each part."""
    return {f"{where}each program's {_SAID[part]}": all(each.agrees(part) for each in found) for part in parts}


def _said_of_devices(found: Sequence[Found], mistaken: Found) -> list[str]:
    tightest = max(each.measured["temporary"] / each.model["temporary"] for each in found)
    large = fastest(512)
    times = seconds(large)
    return [
        f"{len(found)} programs for 1 to {_DEVICES} devices: flops and bytes in collectives are the model's to the "
        f"last one in {sum(each.agrees('flops') and each.agrees('collectives') for each in found)} of them; temporary "
        f"memory is at most {tightest:.2f} of its bound.",
        f"With vocab_axis forgotten a device would take {mistaken.measured['flops'] / mistaken.model['flops']:.2g} "
        f"times the flops and {mistaken.measured['temporary'] / mistaken.model['temporary']:.2g} times the memory "
        "allowed.",
        f"By the model, and speeds assumed, a head of a million classes is fastest on 512 devices as "
        f"{large.token_shards} x {large.class_shards}: {times['step'] * 1e3:.1f} ms a step, of which the products "
        f"take {times['products'] * 1e3:.1f} ms.",
    ]


def _said_of_pods(of_pods: Sequence[Found], pods: Collection[str]) -> str:
    if not of_pods:
        return "Nothing was compiled for a pod of TPUs: libtpu, their compiler, isn't installed."
    tightest = max(each.measured["temporary"] / each.model["temporary"] for each in of_pods)
    largest = max(each.measured["temporary"] for each in of_pods)
    return (
        f"{len(of_pods)} programs compiled for {' and '.join(pods)}, of up to {max(e.program.vocab for e in of_pods)} "
        f"classes and not run: bytes in collectives are the model's to the last one in "
        f"{sum(each.agrees('collectives') for each in of_pods)} of them; temporary memory is at most {tightest:.2f} of "
        f"its bound, and {largest / 2**30:.2f} GiB a device."
    )


def _as_measured(found: Found) -> dict[str, Any]:
    return {"program": asdict(found.program), "measured": found.measured, "model": found.model}


def _table(found: Sequence[Found]) -> Table:
    title = "A device's flops, bytes in collectives and temporary bytes, compiled; and whether they are the model's"
    table = Table(
        "N x D x V", "p_t x p_v", "dtype", "kernel", "flops", "in collectives", "temporary", "model", title=title
    )
    for each in found:
        program, measured = each.program, each.measured
        differing = [part for part in _SAID if not each.agrees(part)]
        table.add_row(
            f"{program.tokens}x{program.embed}x{program.vocab}",
            f"{program.token_shards}x{program.class_shards}",
            program.dtype,
            program.kernel,
            f"{measured['flops']:.4g}",
            str(sum(measured["collectives"].values())),
            str(measured["temporary"]),
            f"not {', '.join(differing)}" if differing else "agrees",
        )
    return table


EXPERIMENT = Experiment(
    "scaling", "The cost model's bytes and flops per device are those of the compiled program.", measure
)
