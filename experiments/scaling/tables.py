"""The tables of docs/scaling.md and the figure: what was measured, and what the cost model says of more devices.

    python -m experiments.scaling.tables

puts the tables of experiments/results/scaling.json, and of the model, into docs/scaling.md.
"""

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from experiments.scaling.cost_model import (
    ACCELERATOR,
    FLOAT32,
    Machine,
    Program,
    collectives,
    fastest,
    kernel_entries,
    of_large_model,
    seconds,
    sent,
)

DOCUMENT = Path(__file__).parents[2] / "docs/scaling.md"
RESULTS = Path(__file__).parents[1] / "results/scaling.json"
PROJECTED = (8, 32, 64, 128, 512)
_GB, _MS = 1e9, 1e-3


def tables(document: dict[str, Any]) -> dict[str, str]:
    """Returns the tables by the names that they have in the document."""
    return {
        "measured": measured_table(document["measurements"]["programs"]),
        "pods": pods_table(document["measurements"]["pods"]),
        "projected": projected_table(),
        "memory": memory_table(),
    }


def measured_table(found: Sequence[dict[str, Any]]) -> str:
    """Returns what each compiled program costs a device; in one row those that differ in dtype and memory alone."""
    head = ["N × D × V", "kernel over", "p_t × p_v", "Gflop", "summed over vocab", "summed over data", "gathered over"]
    head += ["sent", "dtype: temporary of at most"]
    rows: dict[tuple[str, ...], list[str]] = {}
    for each in found:
        program, memory = Program(**each["program"]), [each[of]["temporary"] for of in ("measured", "model")]
        of_dtype = f"{program.dtype}: {_size(memory[0])} of {_size(memory[1])}"
        rows.setdefault(_measured_row(program, each["measured"]), []).append(of_dtype)
    return _markdown(head, ([*row, "; ".join(memory)] for row, memory in rows.items()))


def pods_table(found: dict[str, Sequence[dict[str, Any]]]) -> str:
    """Returns what each program compiled for a pod costs a device."""
    head = ["pod", "N × D × V", "kernel over", "p_t × p_v", "c", "summed over vocab", "summed over data"]
    head += ["gathered over", "temporary of at most"]
    return _markdown(head, (_pod_row(pod, each) for pod, of_pod in found.items() for each in of_pod))


def _pod_row(pod: str, each: dict[str, Any]) -> list[str]:
    program, memory = Program(**each["program"]), [each[of]["temporary"] for of in ("measured", "model")]
    shape, kernel, mesh, _, *told_bytes, _ = _measured_row(replace(program, chunk=program.own_tokens), each["measured"])
    return [pod, shape, kernel, mesh, str(program.chunk_tokens), *told_bytes, " of ".join(map(_size, memory))]


def _measured_row(program: Program, measured: dict[str, Any]) -> tuple[str, ...]:
    in_collectives = measured["collectives"]
    gathered = {axis: in_collectives.get(f"all-gather over {axis}", 0) for axis in ("vocab", "data")}
    return (
        ", ".join([f"{program.tokens} × {program.embed} × {program.vocab}", *_notes(program)]),
        {"classes": "classes", "FSDP": "classes, embed", "whole": "nothing"}[program.kernel],
        f"{program.token_shards} × {program.class_shards}",
        f"{measured.get('flops', 0) / 1e9:.2f}",
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
    return _markdown(head, (_projected_row(each) for devices in PROJECTED for each in choices(devices)))


def choices(devices: int) -> list[Program]:
    """Returns data-parallel, vocabulary-parallel in a node and everywhere, and the fastest, without repetitions."""
    machine = Machine()
    shards = sorted({1, machine.node, devices, fastest(devices, machine).class_shards})
    return [of_large_model(devices, p_v) for p_v in shards]


def _projected_row(program: Program) -> list[str]:
    machine = Machine()
    times = seconds(program, machine)
    best = fastest(program.devices, machine) == program
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

    return _markdown(head, (row(p_v) for p_v in (1, 8, 64, 512)))


def _markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def with_tables(text: str, by_name: dict[str, str]) -> str:
    """Returns the document with each table between its two comments.

    Raises:
        ValueError: if the document has no place for one.
    """
    for name, table in by_name.items():
        place = rf"(<!-- table: {name} -->\n)(?:\|.*\n)*(<!-- end -->)"
        text, places = re.subn(place, lambda found, table=table: found[1] + table + found[2], text)
        if places != 1:
            raise ValueError(f"expected one place for the table {name!r}, got {places}")
    return text


def figure() -> Figure:
    """Returns bytes sent and time a step against devices, of the large model's head, by the model alone."""
    machine = Machine()
    devices = [1 << power for power in range(10)]
    meshes = {
        "data-parallel, p_v = 1": [of_large_model(p, 1) for p in devices],
        "p_v = 8": [of_large_model(p, 8) for p in devices if p >= 8],
        "vocabulary-parallel, p_v = p": [of_large_model(p, p) for p in devices],
        "fastest p_v": [fastest(p, machine) for p in devices],
    }
    drawn = Figure(figsize=(11.0, 4.2), layout="constrained")
    left, right = drawn.subplots(1, 2)
    products = [seconds(of_large_model(p, 1), machine)["products"] for p in devices]
    right.plot(devices, products, color="black", linestyle=":", label="matrix products alone")
    for name, programs in meshes.items():
        style = {"linestyle": "--", "marker": "o"} if name.startswith("fastest") else {}
        several = [each for each in programs if each.devices > 1]
        at = [each.devices for each in several]
        left.plot(at, [sent(each, collectives(each, ACCELERATOR)) / _GB for each in several], label=name, **style)
        right.plot([p.devices for p in programs], [seconds(p, machine)["step"] for p in programs], label=name, **style)
    left.set_ylim(1.0, 100.0)
    left.set(ylabel="bytes that a device sends a step [GB]", title="N = 65536, D = 8192, V = 1048576, bfloat16")
    right.set(ylabel="a step, by assumed speeds [s]", title="400 Tflop/s, 450 GB/s within 8, 50 GB/s between")
    for axes in (left, right):
        axes.set(xlabel="devices p", xscale="log", yscale="log")
        axes.set_xticks(devices, [str(p) for p in devices])
        axes.xaxis.set_minor_locator(NullLocator())
        axes.grid(alpha=0.3)
    right.legend()
    return drawn


def main() -> None:
    """Brings the document's tables up to date."""
    document = json.loads(RESULTS.read_text(encoding="utf-8"))
    DOCUMENT.write_text(with_tables(DOCUMENT.read_text(encoding="utf-8"), tables(document)), encoding="utf-8")


if __name__ == "__main__":
    main()
