"""The inputs a theorem is tried on, by regime.

Logits are multiples of a power of two, so that their differences are machine numbers: what is promised is then free
of the inputs' own conditioning. For other logits the rounding of x_j - m moves exp(x_j - m) by up to |x_j - m| ulps.
"""

from collections.abc import Callable, Sequence

import numpy as np

from jaxsoftmax.verify._theorem import Inputs

VOCAB = 7
RAGGED = 2053  # a prime, just above the block size 2048
LONG = 17 * 4096  # reduced in pieces
GAPS = (1, 5, 10, 17, 20, 30, 40, 60, 80)
GAPS_FLOAT64 = (1, 10, 17, 37, 40, 80, 200, 500, 700)
LOW_PRECISION = ("bfloat16", "float16")

Regimes = Callable[[str], dict[str, np.ndarray]]  # rows of logits by name, for a dtype


def rows(*regimes: Regimes, beside: Sequence[Callable[[np.ndarray], np.ndarray]] = ()) -> Callable[[str], list[Inputs]]:
    """Rows of logits of all these regimes, each once, and beside them what these functions make of the rows."""

    def inputs(dtype: str) -> list[Inputs]:
        named = {name: x for regime in regimes for name, x in regime(dtype).items()}
        return [Inputs(name, (x, *(made_of(x) for made_of in beside))) for name, x in named.items()]

    return inputs


def reordered(inputs: Callable[[str], list[Inputs]], *order: int) -> Callable[[str], list[Inputs]]:
    """The inputs with their arrays in another order: the third comes first by (2, 0, 1)."""
    return lambda dtype: [Inputs(each.regime, tuple(each.arrays[i] for i in order)) for each in inputs(dtype)]


def with_directions(*regimes: Regimes) -> Callable[[str], list[Inputs]]:
    """Rows of logits, and a vector for each; the last row's is all ones."""
    return rows(*regimes, beside=[directions])


def labelled(*regimes: Regimes) -> Callable[[str], list[Inputs]]:
    """Rows of logits, each with its first or its last class as label."""
    return rows(*regimes, beside=[labels_of])


def top_labelled(*regimes: Regimes) -> Callable[[str], list[Inputs]]:
    """Rows of logits, each with the class that is ahead as label."""
    return rows(*regimes, beside=[top_labels])


def ordinary(dtype: str, rows: int = 4, vocab: int = VOCAB, seed: int = 0) -> np.ndarray:
    """Logits of a few nats in which no probability comes near 1."""
    step = 2.0**-4 if dtype in LOW_PRECISION else 2.0**-6
    return np.clip(np.round(np.random.default_rng(seed).normal(0, 1.2, (rows, vocab)) / step) * step, -3.5, 3.5)


def ties(dtype: str) -> np.ndarray:
    """Two, three and all maxima equal."""
    return np.array(
        [[2, 2, -1, 0, 1, -3, 0], [1, 2, 2, 2, 0, -1, -2], [0.5] * 7, [-3, -3, -3, -3, -3, -3, -3]], np.float64
    )


def masked(dtype: str) -> np.ndarray:
    """Some logits -inf; the first and the last class stay."""
    x = ordinary(dtype, seed=1)
    x[0, 2] = x[1, 1:4] = x[2, 5] = x[3, 1:6] = -np.inf
    return x


def confident(dtype: str) -> np.ndarray:
    """One logit ahead of the others by each gap, at a changing place."""
    gaps = np.array(GAPS_FLOAT64 if dtype == "float64" else GAPS, np.float64)
    rows = -gaps[:, None] - np.array([0, 1, 0, 3, 0.5, 2, 1])
    for i, row in enumerate(rows):
        row[i % VOCAB] = 0
    return rows


def shifted_tails(dtype: str) -> dict[str, np.ndarray]:
    """Rows whose shift is far larger than their gaps; the classes after the third are too far off to count."""
    x = np.array([[1e4, 9990, 9980, 0, 0, 0, 0], [1e6, 1e6 - 0.5, 1e6 - 0.9375, 0, 0, 0, 0]])
    return {"[1e4, 9990, 9980, ...]": x}


def separators(dtype: str) -> dict[str, np.ndarray]:
    """Single rows on which other implementations lose everything."""
    return shifted_tails(dtype) | {"[0] + [-17] * 4095": np.array([[0.0] + [-17.0] * 4095])}


def long_confident(dtype: str) -> dict[str, np.ndarray]:
    """A confident row long enough to be reduced in pieces."""
    return {f"[0] + [-17] * {LONG - 1}": np.array([[0.0] + [-17.0] * (LONG - 1)])}


def empty(dtype: str) -> dict[str, np.ndarray]:
    """Rows of -inf alone."""
    return {"-inf alone": np.full((2, VOCAB), -np.inf)}


def many(dtype: str) -> dict[str, np.ndarray]:
    """More classes than one step of a tree of partial sums takes, yet few enough for a Jacobian; in float32 alone."""
    return {"V = 200": ordinary(dtype, rows=1, vocab=200, seed=6)} if dtype == "float32" else {}


def ragged_rows(dtype: str) -> dict[str, np.ndarray]:
    """Small logits over a prime number of classes, by name."""
    return {f"ragged, V = {RAGGED}": ordinary(dtype, rows=2, vocab=RAGGED, seed=2)}


def long_rows(dtype: str) -> dict[str, np.ndarray]:
    """A row long enough to be reduced in pieces, over few distinct values, by name."""
    return {f"long, V = {LONG}": np.round(ordinary(dtype, rows=1, vocab=LONG, seed=3))}


def masks(dtype: str) -> dict[str, np.ndarray]:
    """Rows with -inf, by name."""
    return {"-inf masks": masked(dtype)}


def ordinary_rows(dtype: str) -> dict[str, np.ndarray]:
    """Logits of a few nats, by name."""
    return {"ordinary": ordinary(dtype)}


def moderate(dtype: str) -> dict[str, np.ndarray]:
    """Logits of a few nats, and equal ones."""
    return ordinary_rows(dtype) | {"ties": ties(dtype)}


def shifts(dtype: str) -> dict[str, np.ndarray]:
    """Logits moved by 1e4 either way, which overflows exp; in low precision none, as there they round."""
    by = np.array([[1e4], [-1e4], [1e4], [-1e4]])
    return {} if dtype in LOW_PRECISION else {"shift 1e4": ordinary(dtype) + by}


def unshifted(dtype: str) -> dict[str, np.ndarray]:
    """The regimes that every sound implementation passes, but for the shift, in which LSE - x_y cancels (M19)."""
    return moderate(dtype) | masks(dtype)


def unmasked(dtype: str) -> dict[str, np.ndarray]:
    """The regimes that every sound implementation passes, without -inf."""
    return moderate(dtype) | shifts(dtype)


def well_conditioned(dtype: str) -> dict[str, np.ndarray]:
    """The regimes that every sound implementation passes."""
    return unshifted(dtype) | shifts(dtype)


def tails(dtype: str) -> dict[str, np.ndarray]:
    """Confident rows."""
    return {f"confident gap 1-{GAPS_FLOAT64[-1] if dtype == 'float64' else GAPS[-1]}": confident(dtype)}


def labels_of(x: np.ndarray) -> np.ndarray:
    """The first or the last class, neither of which a mask hides."""
    return np.where(np.arange(len(x)) % 2 == 0, 0, x.shape[-1] - 1).astype(np.int32)


def top_labels(x: np.ndarray) -> np.ndarray:
    """The class that is ahead."""
    return np.argmax(x, -1).astype(np.int32)


def directions(x: np.ndarray, seed: int = 5) -> np.ndarray:
    """A vector for every row: multiples of 1/8 of both signs; all ones in the last row."""
    v = np.round(np.random.default_rng(seed).normal(0, 1, x.shape) * 8) / 8
    v[-1] = 1.0
    return v


def targets_of(x: np.ndarray, kind: str) -> np.ndarray:
    """Real targets: "distribution", "unnormalised" (sums of 2 and more) or "signed"; 0 where the logit is -inf."""
    t = np.random.default_rng(7).integers(1, 9, x.shape) / 8.0
    if kind == "distribution":
        t = np.zeros_like(t)
        t[:, 0], t[:, -1] = 0.625, 0.375
    if kind == "signed":
        t[:, ::2] *= -1
    return np.where(np.isneginf(x), 0, t)
