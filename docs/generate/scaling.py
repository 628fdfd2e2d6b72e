"""The tables of docs/scaling.md: what was measured, and what the cost model says of more devices."""

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from docs.generate.repository import RESULTS
from docs.generate.text import table
from experiments.scaling.cost_model import (
    ACCELERATOR,
    ASSUMED,
    FLOAT32,
    Program,
    collectives,
    fastest,
    kernel_entries,
    of_large_model,
    seconds,
    sent,
)

_PROJECTED = (8, 32, 64, 128, 512)  # devices
_GB, _MS = 1e9, 1e-3


def tables() -> dict[str, str]:
    """Returns the tables by the names by which the page asks for them."""
    found = json.loads((RESULTS / "scaling.json").read_text("utf-8"))["measurements"]
    return {
        "measured": measured_table(found["programs"]),
        "pods": pods_table(found["pods"]),
        "projected": projected_table(),
        "memory": memory_table(),
    }


def measured_table(found: list[dict[str, Any]]) -> str:
    """Returns what each compiled program costs a device; in one row those that differ in dtype and memory alone."""
    head = ["N × D × V", "kernel over", "p_t × p_v", "Gflop", "summed over vocab", "summed over data", "gathered over"]
    head += ["sent", "dtype: temporary of at most"]
    rows: dict[tuple[str, ...], list[str]] = {}
    for each in found:
        program, memory = Program(**each["program"]), [each[of]["temporary"] for of in ("measured", "model")]
        of_dtype = f"{program.dtype}: {_size(memory[0])} of {_size(memory[1])}"
        rows.setdefault(_measured_row(program, each["measured"]), []).append(of_dtype)
    return table(head, ([*row, "; ".join(memory)] for row, memory in rows.items()))


def pods_table(found: dict[str, list[dict[str, Any]]]) -> str:
    """Returns what each program compiled for a pod costs a device."""
    head = ["pod", "N × D × V", "kernel over", "p_t × p_v", "c", "summed over vocab", "summed over data"]
    head += ["gathered over", "temporary of at most"]
    return table(head, (_pod_row(pod, each) for pod, of_pod in found.items() for each in of_pod))


def _pod_row(pod: str, each: dict[str, Any]) -> list[str]:
    program, memory = Program(**each["program"]), [each[of]["temporary"] for of in ("measured", "model")]
    shape, kernel, mesh, _, *of_collectives, _ = _measured_row(
        replace(program, chunk=program.own_tokens), each["measured"]
    )
    return [pod, shape, kernel, mesh, str(program.chunk_tokens), *of_collectives, " of ".join(map(_size, memory))]


def _measured_row(program: Program, measured: dict[str, Any]) -> tuple[str, ...]:
    in_collectives = measured["collectives"]
    gathered = {axis: in_collectives.get(f"all-gather over {axis}", 0) for axis in ("vocab", "data")}
    return (
        ", ".join([f"{program.tokens} × {program.embed} × {program.vocab}", *_notes(program)]),
        {"classes": "classes", "FSDP": "classes, embed", "whole": "nothing"}[program.kernel],
        f"{program.token_shards} × {program.class_shards}",
        f"{measured['flops'] / 1e9:.2f}",
        *(_size(in_collectives.get(f"all-reduce over {axis}", 0)) for axis in ("vocab", "data")),
        ", ".join(f"{axis}: {_size(size)}" for axis, size in gathered.items() if size) or "0",
        _size(sent(program, in_collectives)),
    )


def _notes(program: Program) -> Iterator[str]:
    if program.chunks > 1:
        yield f"c = {program.chunk}"
    if program.hidden == "both":
        yield "X over both axes"
    if program.label_smoothing:
        yield "smoothing"
    if program.bias:
        yield "bias"
    if not program.gradients:
        yield "value alone"


def _size(size: float) -> str:
    if size < 1000:
        return f"{size:.0f}" + " B" * (size > 0)
    for unit, power in (("KiB", 10), ("MiB", 20)):
        if size < 1000 * 2**power:
            return f"{size / 2**power:.3g} {unit}"
    return f"{size / 2**30:.3g} GiB"


def projected_table() -> str:
    """Returns times a step of the large model's head, by the model alone."""
    head = ["p", "p_t × p_v", "n × v", "products", "X", "per token", "dX", "dW", "step", "products' share", "sent"]
    return table(head, (_projected_row(each) for devices in _PROJECTED for each in choices(devices)))


def choices(devices: int) -> list[Program]:
    """Returns data-parallel, vocabulary-parallel in a node and everywhere, and the fastest, without repetitions."""
    shards = sorted({1, ASSUMED.node, devices, fastest(devices).class_shards})
    return [of_large_model(devices, p_v) for p_v in shards]


def _projected_row(program: Program) -> list[str]:
    times = seconds(program)
    best = fastest(program.devices) == program
    columns = (_ms(times[name]) for name in ("products", "X", "per token", "dX", "dW", "step"))
    return [
        str(program.devices),
        f"{program.token_shards} × {program.class_shards}" + " (fastest)" * best,
        f"{program.own_tokens} × {program.own_classes}",
        *columns,
        f"{times['products'] / times['step']:.0%}",
        f"{sent(program, collectives(program, ACCELERATOR)) / _GB:.3g} GB",
    ]


def _ms(time: float) -> str:
    return f"{time / _MS:.0f} ms" if time >= 1 else f"{time / _MS:.3g} ms"


def memory_table() -> str:
    """Returns what is as large as the kernel, the hidden states or a chunk's logits, of the large model's head."""
    head = ["p_v of 512", "W (bfloat16)", "dW (float32)", "X, transposed, and dX (float32)", "c", "a chunk's logits"]

    def row(p_v: int) -> list[str]:
        program = of_large_model(512, p_v)
        entries, hidden = kernel_entries(program), program.own_tokens * program.embed
        sizes = (entries * program.itemsize, entries * FLOAT32, hidden * (2 * program.itemsize + FLOAT32))
        logits = FLOAT32 * program.chunk_tokens * program.own_classes
        in_gb = [f"{size / _GB:.3g} GB" for size in (*sizes, logits)]
        return [str(p_v), *in_gb[:-1], str(program.chunk_tokens), in_gb[-1]]

    return table(head, (row(p_v) for p_v in (1, 8, 64, 512)))
