"""One thing to measure: which loss, of what shape and dtype, and whether with its gradient."""

from dataclasses import dataclass

KINDS = ("plain", "linear")
DTYPES = ("float32", "bfloat16", "float16")
ORDINARY, CONFIDENT = "ordinary", "confident"
VALUE, GRADIENT, IN_GRAPH = "value", "value and gradient", "logits in the graph"
GRAPH_WIDTH = 64  # of the hidden states whose product with a kernel makes the logits in the graph

Shape = tuple[int, ...]
AXES = {"plain": "N,V", "linear": "N,D,V"}


@dataclass(frozen=True)
class Case:
    """A mean cross-entropy with integer labels, of given logits (plain) or of hidden @ kernel (linear)."""

    kind: str
    shape: Shape  # tokens N, width D (linear only), classes V
    dtype: str
    logits: str = ORDINARY  # or CONFIDENT: every second token's logit at its label is 30 larger
    quantity: str = VALUE  # or GRADIENT, in the logits, or in hidden and kernel; IN_GRAPH: in the hidden states alone

    def __post_init__(self) -> None:
        known = (
            (self.kind, KINDS),
            (self.dtype, DTYPES),
            (self.logits, (ORDINARY, CONFIDENT)),
            (self.quantity, (VALUE, GRADIENT, IN_GRAPH)),
        )
        for value, values in known:
            if value not in values:
                raise ValueError(f"expected one of {', '.join(values)}, got {value!r}")
        if kind_of(self.shape) != self.kind:
            raise ValueError(f"{self.kind} takes {AXES[self.kind]}, got {shape_text(self.shape)}")

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
        confident = [CONFIDENT] if self.logits == CONFIDENT else []
        return ", ".join([f"{self.kind} {shape_text(self.shape)} {self.dtype}", *confident, self.quantity])


def kind_of(shape: Shape) -> str | None:
    """Returns the kind of loss that has such shapes."""
    return {2: "plain", 3: "linear"}.get(len(shape))


def shape_text(shape: Shape) -> str:
    """Returns a shape as it is written on the command line."""
    return ",".join(map(str, shape))
