"""Compiles heads over meshes of this process's devices, and prints what each would cost a device; runs none of them.

    python -m experiments.scaling.worker '[{"tokens": 1024, ...}, ...]'
    python -m experiments.scaling.worker '[{"tokens": 1048576, ...}, ...]' tpu:v5e:16x16

With a target for a machine that isn't here. One line of JSON a program: its flops, the bytes of its collectives, its
temporary memory.
"""

import json
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

import jaxsoftmax
from experiments.runner.processes import end_with_parent
from experiments.scaling.cost_model import Program
from jaxsoftmax.bench import device_work, target

AXES = ("data", "vocab")
_KERNEL = {"classes": P(None, "vocab"), "FSDP": P("data", "vocab"), "whole": P()}


def cost(program: Program, *, vocab_axis: str | None = "vocab", devices: Any = None) -> dict[str, Any]:
    """Returns what the compiled program costs a device.

    Args:
        program: what to compile.
        vocab_axis: None for a head that isn't given how its kernel is sharded.
        devices: to compile for; None for those of this process.
    """
    shape = program.token_shards, program.class_shards
    chosen = np.ravel(jax.devices() if devices is None else devices)[: program.devices].reshape(shape)
    mesh = Mesh(chosen, AXES, axis_types=(AxisType.Auto,) * 2)
    compiled = jax.jit(_function(program, mesh, vocab_axis)).lower(*_arguments(program, mesh)).compile()
    text, memory = compiled.as_text(), compiled.memory_analysis()
    if text is None or memory is None:
        raise RuntimeError("this backend doesn't show what it compiled")
    work = device_work(text, shape)
    temporary = memory.temp_size_in_bytes
    return {"flops": work.flops, "collectives": work.bytes_said(AXES), "temporary": temporary}


def _function(program: Program, mesh: Mesh, vocab_axis: str | None) -> Callable[..., Any]:
    head = partial(
        jaxsoftmax.sharded_linear_cross_entropy,
        mesh=mesh,
        token_axes="data",
        vocab_axis=vocab_axis,
        label_smoothing=program.label_smoothing,
        chunk_size=program.chunk,
    )

    def loss(hidden, kernel, bias, labels):
        return head(hidden, kernel, labels, bias=bias)

    wanted = (0, 1, 2) if program.bias else (0, 1)
    return jax.value_and_grad(loss, wanted) if program.gradients else loss


def _arguments(program: Program, mesh: Mesh) -> list[jax.ShapeDtypeStruct | None]:
    def array(shape: tuple[int, ...], dtype: str, spec: P) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, jnp.dtype(dtype), sharding=NamedSharding(mesh, spec))

    tokens = {"tokens": P("data"), "both": P(AXES)}[program.hidden]
    return [
        array((program.tokens, program.embed), program.dtype, tokens),
        array((program.embed, program.vocab), program.dtype, _KERNEL[program.kernel]),
        array((program.vocab,), program.dtype, P("vocab")) if program.bias else None,
        array((program.tokens,), "int32", tokens),
    ]


def main() -> None:
    """Compiles the programs of the command line, on CPU devices the first once more with its `vocab_axis` forgotten."""
    end_with_parent()
    programs = [Program(**fields) for fields in json.loads(sys.argv[1])]
    devices = target(sys.argv[2]).devices if len(sys.argv) > 2 else None
    for program in programs:
        print(json.dumps(cost(program, devices=devices)), flush=True)
    if devices is None:
        print(json.dumps(cost(programs[0], vocab_axis=None)), flush=True)


if __name__ == "__main__":
    main()
