"""Which cases are measured where none are named."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from jaxsoftmax.bench import _case
from jaxsoftmax.bench._case import Case, Shape, kind_of, shape_text

PEERS = ("optax", "jax", "tokamax", "torch")
_ONE_DTYPE, _TWO_DTYPES = ("float32",), ("float32", "bfloat16")
_EVERY_PASS = {"plain": (_case.VALUE, _case.GRADIENT, _case.IN_GRAPH), "linear": (_case.VALUE, _case.GRADIENT)}
_WITH_GRADIENT = {"plain": (_case.GRADIENT,), "linear": (_case.GRADIENT,)}
_OF_GRADIENTS_ALONE = (_case.UNREDUCED, _case.LEAN, _case.SPARSE, _case.DISTILLATION, _case.PARTS, _case.SHARDED)


@dataclass(frozen=True)
class Preset:
    """Shapes of either kind, and what is measured of each."""

    shapes: tuple[Shape, ...]
    quick: tuple[Shape, ...]  # instead of those, with --quick
    dtypes: dict[str, tuple[str, ...]]  # by kind
    quantities: dict[str, tuple[str, ...]]  # by kind
    confident: bool = False  # whether plain losses are measured on confident rows too
    functions: dict[str, tuple[str, ...]] = field(default_factory=dict)  # by kind; integer labels where it has none
    more: tuple[Case, ...] = ()  # further cases; not with --shape, --function or --quick
    peers: tuple[str, ...] = PEERS


# Ten minutes of it at most, compilation and all.
_ACCELERATOR = Preset(
    shapes=((8192, 128256), (8192, 4096, 128256), (8192, 2304, 256000)),
    quick=((512, 8016), (512, 144, 16000), (256, 64, 8016)),
    dtypes={"plain": ("bfloat16",), "linear": ("bfloat16",)},
    quantities=_WITH_GRADIENT,
    functions={
        "plain": (_case.INTEGER, _case.FLOAT, _case.LOGSUMEXP, _case.SOFTMAX, _case.LOG_SOFTMAX),
        "linear": (_case.INTEGER, _case.UNREDUCED, _case.LEAN),
    },
)
PRESETS = {
    "cpu": Preset(
        shapes=(
            *((4096, 1000), (2048, 8192), (1024, 32768), (512, 50257), (256, 131072), (128, 262144)),
            *((2048, 512, 32768), (4096, 256, 8192), (512, 768, 131072), (1024, 1024, 50304)),
            *((4096, 256, 50257), (2048, 512, 131072)),
        ),
        quick=((64, 1000), (256, 64, 4096)),
        dtypes={"plain": _ONE_DTYPE, "linear": _TWO_DTYPES},
        quantities=_EVERY_PASS,
        confident=True,
        more=(
            *(Case("plain", shape, "float32", _case.TRAINED) for shape in ((4096, 1000), (65536, 10))),
            Case("plain", (2048, 8192), "float32", function=_case.SEQUENCES),
            *(
                Case("plain", shape, "float32", logits, function=function)
                for logits, functions in (
                    (_case.ORDINARY, (_case.FLOAT, _case.ONE_HOT, _case.SOFTMAX, _case.LOG_SOFTMAX)),
                    (_case.CONFIDENT, (_case.SOFTMAX, _case.LOG_SOFTMAX)),
                )
                for function in functions
                for shape in ((1024, 8192), (65536, 64))
            ),
        ),
    ),
    "gpu": _ACCELERATOR,
    "tpu": replace(_ACCELERATOR, peers=("optax", "jax", "tokamax")),
    "target": Preset(
        shapes=(*((8192, 32768), (8192, 128256)), *((8192, 4096, 128256), (8192, 2304, 256000), (32768, 4096, 128256))),
        quick=((512, 1024), (512, 128, 2048)),
        dtypes={"plain": _TWO_DTYPES, "linear": ("bfloat16",)},
        quantities={"plain": (_case.VALUE, _case.GRADIENT), "linear": (_case.VALUE, _case.GRADIENT)},
        functions={
            "plain": (_case.INTEGER, _case.FLOAT, _case.ONE_HOT, _case.LOGSUMEXP, _case.SOFTMAX, _case.LOG_SOFTMAX),
            "linear": (_case.INTEGER, _case.UNREDUCED, _case.LEAN),
        },
        more=tuple(
            Case("linear", (8192, 4096, 128256), "bfloat16", function=function)
            for function in (_case.STATS, _case.SPARSE, _case.DISTILLATION, _case.PARTS, _case.SHARDED)
        ),
        peers=("optax", "jax"),
    ),
    "sweep": Preset(
        shapes=(
            *((1024, 256, vocab) for vocab in (2048, 4096, 8192, 16384, 32768, 65536)),
            *((tokens, 256, 16384) for tokens in (256, 512, 2048, 4096)),
        ),
        quick=(*((128, 64, vocab) for vocab in (1024, 2048, 4096)), (64, 64, 2048), (256, 64, 2048)),
        dtypes={"linear": _ONE_DTYPE},
        quantities=_WITH_GRADIENT,
    ),
}


def cases_of(
    preset: Preset,
    kind: str | None,
    shapes: Sequence[Shape],
    dtypes: Sequence[str],
    functions: Sequence[str],
    quick: bool,
) -> tuple[Case, ...]:
    """Returns the cases asked for; what was not asked for is the preset's.

    Raises:
      ValueError: a shape or a function of the other kind; a preset without cases of the kind.
    """
    for function in functions:
        if kind is not None and function not in _case.FUNCTIONS[kind]:
            raise ValueError(f"--function {function}: {kind} takes {', '.join(_case.FUNCTIONS[kind])}")
    for shape in shapes:
        if kind not in (None, kind_of(shape)):
            raise ValueError(f"--shape {shape_text(shape)}: {kind} takes {_case.AXES[kind]}")
    chosen = [
        shape
        for shape in shapes or (preset.quick if quick else preset.shapes)
        if kind is None or kind_of(shape) == kind
    ]
    if not chosen:
        raise ValueError(f"the preset has no {kind} cases: give a --shape")
    cases = [
        case
        for shape in chosen
        for function in _functions(preset, kind_of(shape) or "", functions)
        for case in _cases(preset, shape, dtypes, function)
    ]
    if not cases:
        raise ValueError(f"--function {functions[0]}: it goes with no shape chosen")
    if not (shapes or functions or quick):
        cases += [
            replace(case, dtype=dtype, quantity=quantity)
            for case in preset.more
            if kind in (None, case.kind)
            for dtype in dtypes or (case.dtype,)
            for quantity in (_case.VALUE, _case.GRADIENT)
            if _has(case.function, quantity)
        ]
    return tuple(dict.fromkeys(cases))


def _functions(preset: Preset, kind: str, asked_for: Sequence[str]) -> Sequence[str]:
    if asked_for:
        return [function for function in asked_for if function in _case.FUNCTIONS[kind]]
    return preset.functions.get(kind, (_case.INTEGER,))


def _cases(preset: Preset, shape: Shape, dtypes: Sequence[str], function: str) -> list[Case]:
    kind = kind_of(shape) or ""
    quantities = [quantity for quantity in preset.quantities[kind] if _has(function, quantity)]
    regimes = (_case.ORDINARY, _case.CONFIDENT) if kind == "plain" and preset.confident else (_case.ORDINARY,)
    return [
        Case(kind, shape, dtype, logits, quantity, function)
        for dtype in dtypes or preset.dtypes.get(kind, _ONE_DTYPE)
        for quantity in quantities
        for logits in (regimes if quantity != _case.IN_GRAPH else (_case.ORDINARY,))
    ]


def _has(function: str, quantity: str) -> bool:
    """Returns whether a function is measured in that quantity."""
    if quantity == _case.IN_GRAPH:
        return function == _case.INTEGER
    return quantity == _case.GRADIENT or function not in _OF_GRADIENTS_ALONE
