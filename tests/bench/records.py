"""Records as a benchmark would make them, with whatever numbers a test plants."""

from dataclasses import replace

from jaxsoftmax.bench._case import GRADIENT, Case
from jaxsoftmax.bench._record import Record, Row
from jaxsoftmax.bench._timing import Spread

LINEAR = Case("linear", (16, 4, 32), "bfloat16", quantity=GRADIENT)
PLAIN = Case("plain", (8, 10), "float32")


def row(case=LINEAR, subject="jaxsoftmax", **changes):
    measured = Row(
        case,
        subject,
        rounds=5,
        seconds=Spread(0.001, 0.002, 0.003),
        to_base=Spread(0.45, 0.5, 0.55),
        to_floor=Spread(1.1, 1.2, 1.3),
        compile_seconds=0.25,
        temp_bytes=10 << 20,
        output_bytes=1024,
        peak_bytes=12 << 20,
        gradient_error=1e-7,
    )
    return replace(measured, **changes)


def record(*rows, **changes):
    made = Record(
        command=["jaxsoftmax", "bench", "--quick"],
        date="2026-01-01 00:00:00+00:00",
        machine={"cpu": "A processor", "cores": 2, "memory_bytes": 8 << 30, "platform": "Linux", "device": "cpu, cpu"},
        versions={"python": "3.11.7", "jaxsoftmax": "0.1.0", "jax": "0.10.2"},
        environment={},
        absent={"tokamax": "not installed: pip install tokamax"},
        rows=rows or (row(), row(subject="optax"), row(PLAIN), row(PLAIN, "optax")),
    )
    return replace(made, **changes)
