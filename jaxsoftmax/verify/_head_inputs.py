"""The fused head's data sets: small dyadic numbers, so that hidden @ kernel + bias is represented exactly."""

from dataclasses import replace

import numpy as np

from jaxsoftmax.verify import _regimes
from jaxsoftmax.verify._exact_head import Setting
from jaxsoftmax.verify._theorem import Inputs
from jaxsoftmax.verify._token_loss import IGNORED, TOGETHER

# Seven tokens in chunks of three: the last chunk is ragged, and where all are ignored two chunks are nothing else.
PLAIN = Setting(7, 3, _regimes.VOCAB, chunk=3)
EVERYTHING = replace(PLAIN, options=TOGETHER, weighted=True)
LABELS = np.array([0, IGNORED, 2, 3, 6, 5, 1], np.int32)
TOKEN_WEIGHTS = np.array([1.0, 0.5, 0.0, 2.0, 1.0, 3.0, 0.25])

RAGGED = Setting(5, 2, 131, chunk=2)  # a prime above 128

# 512 tokens' logits exceed 16 MiB, so XLA CPU forms their gradient in blocks of 2048 classes (others: all at once).
# Labels lie on the borders of the blocks, and where the last block overlaps the one before.
BLOCKS = Setting(520, 2, 8209, chunk=512, reduction="sum", weighted=True)
BORDERS = np.array([0, 2047, 2048, 6160, 6161, 8191, 8192, 8208], np.int32)

TAILS = Setting(2, 2, _regimes.VOCAB, chunk=1, reduction="sum", weighted=True)
NEAR_CERTAIN = Setting(2, 2, 5, chunk=1, reduction="sum")
ALIKE = Setting(200, 1, 3, chunk=1, reduction="sum")


def packed(*parts: np.ndarray) -> np.ndarray:
    """Concatenates arrays into theta."""
    return np.concatenate([np.ravel(part) for part in parts])


def drawn(setting: Setting, seed: int) -> list[np.ndarray]:
    """Hidden states, a kernel and a bias that give logits of a few nats."""
    rng = np.random.default_rng(seed)
    hidden = np.clip(np.round(rng.normal(0, 1, (setting.tokens, setting.embed)) * 4) / 4, -2, 2)
    kernel = np.round(rng.normal(0, 0.8, (setting.embed, setting.vocab)) * 8) / 8
    return [hidden, kernel, np.round(rng.normal(0, 1, setting.vocab) * 8) / 8]


def plain(dtype: str) -> list[Inputs]:
    """Labels of most classes."""
    labels = np.array([[0, 6, 2, 2, 4, 5, 1]], np.int32)
    return [Inputs("7 tokens in chunks of 3", (packed(*drawn(PLAIN, 21))[None], labels))]


def ragged(dtype: str) -> list[Inputs]:
    """Small logits over a prime number of classes; labels that are classes, and some that aren't."""
    theta = packed(*drawn(RAGGED, 22))[None]
    labels = {f"ragged, V = {RAGGED.vocab}": [0, 130, 2, 64, 128], "labels -1, V and -V": [0, -1, 131, 64, -131]}
    return [Inputs(regime, (theta, np.array([y], np.int32))) for regime, y in labels.items()]


def weighted(dtype: str) -> list[Inputs]:
    """Token weights and an ignored token."""
    return [Inputs("weighted, one ignored", (packed(*drawn(EVERYTHING, 23), TOKEN_WEIGHTS)[None], LABELS[None]))]


def with_no_class(dtype: str) -> list[Inputs]:
    """Token weights, an ignored token, and some labels that are no class."""
    (data,) = weighted(dtype)
    labels = np.array([[0, -1, 2, 7, IGNORED, -7, 5]], np.int32)
    return [Inputs("weighted, one ignored, and labels -1, V and -V", (data.arrays[0], labels))]


def moved(dtype: str) -> list[Inputs]:
    """The `weighted` data set with a direction in theta."""
    (data,) = weighted(dtype)
    theta, labels = data.arrays
    return [Inputs(data.regime, (theta, _regimes.directions(np.tile(theta, (2, 1)))[:1], labels))]


def some_or_all_ignored(dtype: str) -> list[Inputs]:
    """Data sets of which nothing is left, as all labels are ignored or all weights 0, and one of which much is."""
    theta = np.stack([packed(*drawn(EVERYTHING, 24), u) for u in (TOKEN_WEIGHTS, np.ones(7), np.zeros(7))])
    labels = np.stack([LABELS, np.full(7, IGNORED, np.int32), np.maximum(LABELS, 0)])
    return [Inputs("weighted, some or all ignored", (theta, labels))]


def blocks(dtype: str) -> list[Inputs]:
    """Few tokens that count, at the chunks' ends, and few classes, on the blocks' borders and here and there."""
    hidden, kernel, bias = drawn(Setting(8, 2, 64), 25)
    rng = np.random.default_rng(26)
    classes = np.union1d(BORDERS, rng.choice(BLOCKS.vocab, 64 - len(BORDERS), replace=False))
    wide_kernel, wide_bias = np.zeros((2, BLOCKS.vocab)), np.full(BLOCKS.vocab, -128.0)
    wide_kernel[:, classes], wide_bias[classes] = kernel[:, : len(classes)], bias[: len(classes)]
    wide_hidden, labels, weights = np.zeros((520, 2)), np.zeros(520, np.int32), np.zeros(520)
    for first in (0, 504, 512):
        wide_hidden[first : first + 8], labels[first : first + 8] = hidden, BORDERS
        weights[first : first + 8] = np.arange(1, 9) / 4
    theta = packed(wide_hidden, wide_kernel, wide_bias, weights)
    return [Inputs(f"blocks, V = {BLOCKS.vocab}", (theta[None], labels[None]))]


def confident(dtype: str) -> list[Inputs]:
    """Two tokens, each sure of its own label by one gap: one-hot hidden states pick rows of logits."""
    gaps = np.array([20.0, 30.0, 40.0, 60.0])
    bias = np.array([0.5, -1, 0, 2, -0.25, 1, 0])
    rows = -gaps[:, None, None] - np.array([[0, 1, 0, 3, 0.5, 2, 1], [1, 0, 2, 0, 0.5, 1, 3]])
    labels = np.stack([np.arange(4), np.arange(4) + 3], 1)
    np.put_along_axis(rows, labels[..., None], 0, -1)
    theta = np.stack([packed(np.eye(2), row - bias, bias, np.array([1, 2])) for row in rows])
    return [Inputs(f"confident gap {gaps[0]:.0f}-{gaps[-1]:.0f}", (theta, labels.astype(np.int32)))]


def bare(dtype: str) -> list[Inputs]:
    """The confident tokens' hidden states and kernels, without a bias and weights."""
    (data,) = confident(dtype)
    theta, labels = data.arrays
    rows = theta[:, 4:18].reshape(-1, 2, _regimes.VOCAB) + theta[:, None, 18:25]
    return [Inputs(data.regime, (np.stack([packed(np.eye(2), row) for row in rows]), labels))]


def near_certain(dtype: str) -> list[Inputs]:
    """Labels of probability 0.999; powers of 2 for hidden states, by which nothing rounds."""
    rows = np.array([[0, -8.25, -8.5, -8.25, -8.75], [-8.5, -8.25, -8.25, 0, -8.0]])
    hidden = np.diag([2.0, 0.5])
    theta = packed(hidden, np.diag([0.5, 2.0]) @ rows, np.zeros(5))
    return [Inputs("p = 0.999", (theta[None], np.array([[0, 3]], np.int32)))]


def equal_tokens(dtype: str) -> list[Inputs]:
    """Equal tokens, of which a sum in low precision soon takes no notice."""
    theta = packed(np.ones(ALIKE.tokens), np.array([0, 0.5, -1]), np.zeros(3))
    return [Inputs(f"{ALIKE.tokens} equal tokens", (theta[None], np.zeros((1, ALIKE.tokens), np.int32)))]
