"""One thing to measure: which loss, of what shape and dtype, and whether with its gradient."""

from dataclasses import dataclass

KINDS = ("plain", "linear")
DTYPES = ("float32", "bfloat16", "float16")
INTEGER, FLOAT, ONE_HOT, SEQUENCES = "integer-labels", "float-labels", "one-hot", "sequences"
LOGSUMEXP, SOFTMAX, LOG_SOFTMAX = "logsumexp", "softmax", "log_softmax"
UNREDUCED, LEAN = "unreduced", "lean"
STATS, SPARSE, DISTILLATION, PARTS = "token-stats", "sparse-labels", "distillation", "loss-parts"
SHARDED = "sharded"
FUNCTIONS = {
    "plain": (INTEGER, FLOAT, ONE_HOT, SEQUENCES, LOGSUMEXP, SOFTMAX, LOG_SOFTMAX),
    "linear": (INTEGER, UNREDUCED, LEAN, STATS, SPARSE, DISTILLATION, PARTS, SHARDED),
}
ORDINARY, TRAINED, CONFIDENT = "ordinary", "trained", "confident"
VALUE, GRADIENT, IN_GRAPH = "value", "value and gradient", "logits in the graph"
GRAPH_WIDTH = 64  # of the hidden states whose product with a kernel makes the logits in the graph
BATCH = 8  # sequences
LEAN_BYTES = 256 << 20
SPARSE_CLASSES = 64  # of a token
ENTROPY_WEIGHT = 0.1  # of STATS
SCANNED, MATERIALISED, WITHOUT_PARTS = "jax", "materialised", "without parts"  # peers of the head's functions
LARGEST = 2**31 - 1  # size of an axis: labels are int32

Shape = tuple[int, ...]
AXES = {"plain": "N,V", "linear": "N,D,V"}


@dataclass(frozen=True)
class Case:
    """A mean cross-entropy of given logits (plain) or of hidden @ kernel (linear); or another function of logits."""

    kind: str
    shape: Shape  # tokens N, width D (linear only), classes V
    dtype: str
    logits: str = ORDINARY  # normal; TRAINED: normal times 3; CONFIDENT: every second token's label 30 larger
    quantity: str = VALUE  # or GRADIENT, in the logits, or in hidden and kernel; IN_GRAPH: in the hidden states alone
    # SEQUENCES: integer labels, and logits [8, N / 8, V]; the gradient of softmax is a VJP. Of the head, UNREDUCED: the
    # mean of the losses of reduction="none"; LEAN: with a memory_budget of `LEAN_BYTES`; STATS: the mean of -log s_y,
    # less `ENTROPY_WEIGHT` times the entropy; SPARSE: with `SPARSE_CLASSES` weighted classes a token; DISTILLATION:
    # KL(p||q), with the teacher's head a constant; PARTS: the loss with has_aux=True; SHARDED: integer labels, with
    # tokens and classes sharded over all chips of a target, and the kernel changed by its gradient.
    function: str = INTEGER

    def __post_init__(self) -> None:
        known = (
            (self.kind, KINDS),
            (self.dtype, DTYPES),
            (self.logits, (ORDINARY, TRAINED, CONFIDENT)),
            (self.quantity, (VALUE, GRADIENT, IN_GRAPH)),
            (self.function, FUNCTIONS.get(self.kind, ())),
        )
        for value, values in known:
            if value not in values:
                raise ValueError(f"expected one of {', '.join(values)}, got {value!r}")
        if kind_of(self.shape) != self.kind:
            raise ValueError(f"{self.kind} takes {AXES[self.kind]}, got {shape_text(self.shape)}")
        if not all(1 <= size <= LARGEST for size in self.shape) or self.vocab < 2:
            # Of one class the loss is 0, and so is its gradient.
            raise ValueError(f"expected sizes from 1 to {LARGEST}, V from 2, got {shape_text(self.shape)}")
        if self.function == SEQUENCES and self.tokens % BATCH:
            raise ValueError(f"{SEQUENCES} take a multiple of {BATCH} tokens, got {self.tokens}")
        if self.quantity == IN_GRAPH and self.function != INTEGER:
            raise ValueError(f"{IN_GRAPH} goes with {INTEGER} alone, got {self.function}")

    @property
    def base(self) -> str:
        """The base of ratios: optax if it has the function, else jax; of PARTS the loss without them."""
        if self.function == PARTS:
            return WITHOUT_PARTS
        return "optax" if self.function in (INTEGER, FLOAT, SEQUENCES, UNREDUCED, LEAN, SHARDED) else "jax"

    @property
    def is_loss(self) -> bool:
        """Whether it has one value for each token, of which the mean is taken."""
        return self.function not in (SOFTMAX, LOG_SOFTMAX)

    @property
    def tokens(self) -> int:
        """N."""
        return self.shape[0]

    @property
    def vocab(self) -> int:
        """V."""
        return self.shape[-1]

    @property
    def width(self) -> int | None:
        """D, the width of the hidden states where the logits are a product; else None."""
        if self.kind == "linear":
            return self.shape[1]
        return GRAPH_WIDTH if self.quantity == IN_GRAPH else None

    @property
    def label(self) -> str:
        """The case in a few words."""
        function = [self.function] if self.function != INTEGER else []
        logits = [self.logits] if self.logits != ORDINARY else []
        return ", ".join([f"{self.kind} {shape_text(self.shape)} {self.dtype}", *function, *logits, self.quantity])


def kind_of(shape: Shape) -> str | None:
    """Returns the kind of loss that has such shapes."""
    return {2: "plain", 3: "linear"}.get(len(shape))


def shape_text(shape: Shape) -> str:
    """Returns a shape as it is written on the command line."""
    return ",".join(map(str, shape))
