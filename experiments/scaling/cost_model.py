"""The cost of the sharded head per device, by formula: flops, bytes in collectives, and memory.

N tokens of D numbers and V classes lie over p_t shards of tokens and p_v of classes. A device has n = N/p_t tokens and
v = V/p_v classes, rounded up; it takes c tokens and b classes at a time. docs/scaling.md says where each term is from.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

FLOAT32 = 4
UNBLOCKED_MAX_BYTES = 16 << 20  # of a chunk's logits whose gradient is formed in one block of classes


@dataclass(frozen=True)
class Backend:
    """What XLA and the library do differently from one kind of device to the other."""

    block: int | None  # classes in a block of the logits' gradient; None: all
    widens: bool  # XLA CPU gathers bfloat16 as float32
    # XLA TPU casts an all-reduce's operand to bfloat16 if its result is cast to bfloat16 next.
    rounds_sums: bool = False


CPU, ACCELERATOR = Backend(2048, widens=True), Backend(None, widens=False)
TPU = Backend(None, widens=False, rounds_sums=True)


@dataclass(frozen=True)
class Program:
    """A value of the head, or value and gradients in hidden, kernel and bias, of arguments sharded over a mesh."""

    tokens: int
    embed: int
    vocab: int
    token_shards: int
    class_shards: int
    dtype: str = "float32"
    # Over classes; over classes and, on the token axis, over embed ("FSDP"); or not at all ("whole"), as where the mesh
    # doesn't divide the classes.
    kernel: str = "classes"
    # Tokens are sharded over the token axis, and so equal on all devices of the class axis; or over both axes ("both").
    hidden: str = "tokens"
    chunk: int = 512
    label_smoothing: float = 0.0
    bias: bool = False
    gradients: bool = True

    @property
    def devices(self) -> int:
        """The number of devices of the mesh."""
        return self.token_shards * self.class_shards

    @property
    def itemsize(self) -> int:
        """Bytes of a number of hidden or kernel."""
        return {"float32": 4, "bfloat16": 2}[self.dtype]

    @property
    def own_tokens(self) -> int:
        """Tokens on one device, n."""
        return -(-self.tokens // self.token_shards)

    @property
    def own_classes(self) -> int:
        """Classes on one device, v, with padding columns where the mesh doesn't divide V."""
        return -(-self.vocab // self.class_shards)

    @property
    def chunks(self) -> int:
        """How many a device takes one after the other: n/c."""
        return -(-self.own_tokens // self.chunk)

    @property
    def chunk_tokens(self) -> int:
        """Tokens whose logits are held at a time: c."""
        return min(self.chunk, self.own_tokens)

    def block(self, backend: Backend) -> int:
        """Classes whose gradient is held at a time: b."""
        small = self.chunk_tokens * self.own_classes * FLOAT32 <= UNBLOCKED_MAX_BYTES
        return self.own_classes if small or backend.block is None else min(backend.block, self.own_classes)


def flops(program: Program, backend: Backend) -> int:
    """Flops of the matrix products on one device: 2 n D v for the logits, the same for each of dX and dW."""
    columns = program.own_classes
    if program.gradients:
        block = program.block(backend)
        columns += 2 * -(-program.own_classes // block) * block
    return 2 * program.chunks * program.chunk_tokens * program.embed * columns


def collectives(program: Program, backend: Backend) -> dict[str, int]:
    """Bytes of one device's arrays in collectives, by kind and mesh axis; none over an axis of one device."""
    classes, tokens = _bytes_over_classes(program, backend), _bytes_over_tokens(program, backend)
    over = [("vocab", classes)] * (program.class_shards > 1) + [("data", tokens)] * (program.token_shards > 1)
    return {f"{kind} over {axis}": size for axis, of in over for kind, size in of.items() if size}


def _bytes_over_classes(program: Program, backend: Backend) -> dict[str, int]:
    """A maximum and the joined sums of each token; the sum of dX; X, or a dW that can't be sharded, gathered."""
    sums = 4 if program.label_smoothing else 3
    per_token = FLOAT32 * (1 + sums) * program.chunks * program.chunk_tokens
    hidden = _sum_bytes(program, backend) * program.own_tokens * program.embed if program.gradients else 0
    whole = program.class_shards * kernel_entries(program) * _wire_bytes(program, backend)
    uneven = program.kernel == "whole" and program.vocab % program.class_shards > 0
    rejoined = whole if uneven and program.gradients else 0
    return {"all-reduce": per_token + hidden, "all-gather": rejoined + _tokens_gathered(program, backend)}


def _tokens_gathered(program: Program, backend: Backend) -> int:
    """X and labels."""
    entries = program.own_tokens * program.embed * _wire_bytes(program, backend)
    return entries + FLOAT32 * program.own_tokens if program.hidden == "both" else 0


def _bytes_over_tokens(program: Program, backend: Backend) -> dict[str, int]:
    """The loss and the sum of weights; the sum of dW and db; the kernel where it is sharded over embed."""
    scalars = 2 * FLOAT32
    biases = program.own_classes if program.bias else 0
    # Under FSDP each device takes its part of the sum before it is rounded.
    of_sum = FLOAT32 if program.kernel == "FSDP" else _sum_bytes(program, backend)
    gradients = of_sum * (kernel_entries(program) + biases) if program.gradients else 0
    gathered = kernel_entries(program) * _wire_bytes(program, backend) if program.kernel == "FSDP" else 0
    return {"all-reduce": scalars + gradients, "all-gather": gathered}


def kernel_entries(program: Program) -> int:
    """Entries of one device's part of the kernel: D v."""
    return program.embed * program.own_classes


def _sum_bytes(program: Program, backend: Backend) -> int:
    """Bytes of an entry of dX or dW where it is summed over devices."""
    return program.itemsize if backend.rounds_sums else FLOAT32


def _wire_bytes(program: Program, backend: Backend) -> int:
    return FLOAT32 if backend.widens else program.itemsize


def sent(program: Program, in_collectives: Mapping[str, int]) -> float:
    """Bytes that one device sends in rings: 2 B (q - 1)/q of an all-reduce of B over q devices, half of a gather."""
    return sum(_ring(program, name) * size for name, size in in_collectives.items())


def _ring(program: Program, name: str) -> float:
    kind, axis = name.split(" over ")
    devices = {"data": program.token_shards, "vocab": program.class_shards}[axis]
    return {"all-reduce": 2, "all-gather": 1}[kind] * (devices - 1) / devices


def temporary_bound(program: Program, backend: Backend) -> int:
    """Bytes besides arguments and results, at most; XLA finds one place for several of these."""
    again = program.bias or program.label_smoothing > 0
    logits = (1 + again) * FLOAT32 * program.chunk_tokens * program.own_classes
    if not program.gradients:
        return 2 * logits + _copies(program, backend)
    # G and its rounded or transposed copy, and the part of dW that it adds.
    block = FLOAT32 * program.block(backend) * (2 * program.chunk_tokens + program.embed)
    hidden = 3 * FLOAT32 * program.chunks * program.chunk_tokens * program.embed  # in chunks, transposed, and dX
    # dW in float32, and as it is summed over the token axis; it may be the result itself.
    is_result = program.dtype == "float32" and program.kernel == "classes"
    accumulated = 0 if is_result else 2 * FLOAT32 * kernel_entries(program)
    return logits + block + hidden + accumulated + _copies(program, backend)


def pod_bound(program: Program) -> int:
    """Bytes besides arguments and results that a TPU takes at most.

    Logits and G of a chunk; dW, and W if gathered; hidden states; and up to 16 numbers a token.
    """
    logits = (FLOAT32 + program.itemsize) * program.chunk_tokens * program.own_classes
    sums = (
        (FLOAT32 + program.itemsize) * kernel_entries(program) if program.chunks > 1 or program.kernel == "FSDP" else 0
    )
    gathered = program.itemsize * kernel_entries(program) if program.kernel == "FSDP" else 0
    per_token = 2 * program.itemsize * program.embed + 16 * FLOAT32
    return logits + sums + gathered + per_token * program.own_tokens


def _copies(program: Program, backend: Backend) -> int:
    """W gathered or padded, or, in low precision, copied for a loop; X gathered; dW made whole again."""
    wire = _wire_bytes(program, backend)
    of_kernel = {"classes": 2 * (program.itemsize == 2), "FSDP": wire, "whole": program.itemsize}[program.kernel]
    gathered = _bytes_over_classes(program, backend)["all-gather"] if program.class_shards > 1 else 0
    return of_kernel * kernel_entries(program) + gathered


@dataclass(frozen=True)
class Machine:
    """Assumed speeds, of one device each; none of them was measured."""

    flops: float = 400e12  # a second, of matrix products
    node: int = 8  # devices that the fast links join
    inside: float = 450e9  # bytes a second, within a node
    between: float = 50e9  # bytes a second, from node to node
    latency: float = 20e-6  # seconds that a collective takes however small it is


ASSUMED = Machine()


def seconds(program: Program, machine: Machine = ASSUMED) -> dict[str, float]:
    """Seconds of one value and gradient, nothing overlapped: of the products, of each sum, and of all together."""
    parts = {"products": flops(program, ACCELERATOR) / machine.flops}
    near_classes = min(program.class_shards, machine.node)
    near_tokens = min(program.token_shards, max(1, machine.node // program.class_shards))
    hidden = FLOAT32 * program.own_tokens * program.embed
    classes, tokens = _bytes_over_classes(program, ACCELERATOR), _bytes_over_tokens(program, ACCELERATOR)

    def of(size: int, devices: int, near: int) -> float:
        return _all_reduce_seconds(size, devices, near, machine)

    launches = machine.latency * (2 * program.chunks - 1) * (program.class_shards > 1)
    parts["per token"] = launches + of(classes["all-reduce"] - hidden, program.class_shards, near_classes)
    parts["X"] = of(classes["all-gather"], program.class_shards, near_classes) / 2
    parts["dX"] = of(hidden, program.class_shards, near_classes)
    parts["dW"] = of(tokens["all-reduce"], program.token_shards, near_tokens)
    parts["W"] = of(tokens["all-gather"], program.token_shards, near_tokens) / 2
    return parts | {"step": sum(parts.values())}


def _all_reduce_seconds(size: int, devices: int, near: int, machine: Machine) -> float:
    """Within each node a reduce-scatter, then an all-reduce of the parts between nodes, then an all-gather."""
    if devices == 1 or not size:
        return 0.0
    nodes = devices / near
    inside = 2 * size * (near - 1) / near / machine.inside
    between = 2 * size / near * (nodes - 1) / nodes / machine.between
    return machine.latency + inside + between


def of_large_model(devices: int, class_shards: int) -> Program:
    """Returns the head of a million classes, of 65536 tokens a step, over a trunk that shares them among all devices.

    The chunk is the library's default on a GPU: logits of at most 1 GiB and 4096 tokens.
    """
    tokens, embed, vocab = 65536, 8192, 1 << 20
    affordable = (1 << 30) // (FLOAT32 * math.ceil(vocab / class_shards)) // 128 * 128
    chunk = max(min(affordable, 4096), 128)
    return Program(tokens, embed, vocab, devices // class_shards, class_shards, "bfloat16", hidden="both", chunk=chunk)


def over_pod(tokens: int, vocab: int, token_shards: int, class_shards: int, kernel: str) -> Program:
    """Returns a head on TPUs, in the chunks that the library takes there: all tokens in 4 GiB, or some in 2 GiB."""
    of_token = FLOAT32 * -(-vocab // class_shards)
    own = -(-tokens // token_shards)
    chunk = own if own * of_token <= 4 << 30 else min((2 << 30) // of_token // 128 * 128, 4096)
    return Program(tokens, 4096, vocab, token_shards, class_shards, "bfloat16", kernel, chunk=chunk)


def fastest(devices: int, machine: Machine = ASSUMED) -> Program:
    """Returns the head of the large model over the mesh on which a step takes the least time."""
    shards = [1 << power for power in range(devices.bit_length())]
    return min((of_large_model(devices, p_v) for p_v in shards), key=lambda each: seconds(each, machine)["step"])
