"""Each keyword of the statistics of tokens by itself, then all together: M28, M32."""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import mpmath
import numpy as np

from jaxsoftmax.verify import _regimes, _transformations
from jaxsoftmax.verify._exact_head import gradients_of, logits_of
from jaxsoftmax.verify._exact_stats import SHARES, three_gradients, three_values
from jaxsoftmax.verify._head_inputs import drawn
from jaxsoftmax.verify._head_keywords import OF_HEAD, TOKENS
from jaxsoftmax.verify._keyword_cases import OF_PRODUCTS, OF_SCHEDULE
from jaxsoftmax.verify._keywords import of_each
from jaxsoftmax.verify._oracle import ExactRow, Expected, end_to_end, exact
from jaxsoftmax.verify._theorem import Claim, Inputs
from jaxsoftmax.verify._token_loss import CAP, SOFTCAP, Options
from jaxsoftmax.verify._token_stats_theorems import LINEAR_STATS, STATS

WITHOUT_EFFECT_ON_STATISTICS = OF_SCHEDULE | OF_PRODUCTS
VALUES = {"temperature": 2.0, "logit_softcap": CAP, "ignore_index": 0, **WITHOUT_EFFECT_ON_STATISTICS}
OF_TOKENS = ("temperature", "logit_softcap", "ignore_index")
LABELS = np.array([4, 0, 6, 3, 0, 1], np.int32)

Given = frozenset[str]  # the keywords of a call


def statistics(f: Any, given: Given, *arguments: Any, **arrays: Any) -> list[jax.Array]:
    """Log-probabilities, entropies and log-sum-exps."""
    stats = f(*arguments, **arrays, **{name: VALUES[name] for name in sorted(given) if name in VALUES})
    return [stats.log_prob, stats.entropy, stats.log_sum_exp]


def with_gradients(f: Any, *arguments: Any) -> jax.Array:
    """The statistics, and the gradients of a sum of shares of them, end to end."""

    def total(*arguments):
        values = f(*arguments)
        return sum(share * jnp.sum(part) for share, part in zip(SHARES, values, strict=True)), values

    return _transformations.with_gradients(total, *arguments)


def of_logits(given: Given, f: Any, x: Any, y: Any) -> jax.Array:
    """The call over given logits."""
    return with_gradients(lambda x: statistics(f, given, x, y), x)


def of_hidden(given: Given, f: Any, hidden: Any, kernel: Any, bias: Any, y: Any) -> jax.Array:
    """The call over hidden states and a kernel."""
    kernel = kernel.T if "transposed_kernel" in given else kernel
    if "bias" not in given:
        return with_gradients(lambda x, w: statistics(f, given, x, w, y), hidden, kernel)
    return with_gradients(lambda x, w, b: statistics(f, given, x, w, y, bias=b), hidden, kernel, bias)


def exact_values(given: Given, z: np.ndarray, y: np.ndarray) -> Expected:
    """The statistics of c tanh(z / c) / T (M28, M32)."""
    return Expected.stack([_token(given, row, int(label))[0] for row, label in zip(z, y, strict=True)]).T


def exact_gradient(given: Given, z: np.ndarray, y: np.ndarray) -> Expected:
    """The gradient of the sum of shares in the logits."""
    gradients = (_token(given, row, int(label))[1] for row, label in zip(z, y, strict=True))
    return Expected.stack([exact(SHARES) @ of_token for of_token in gradients])


def _token(given: Given, z: np.ndarray, y: int) -> tuple[Expected, Expected]:
    """Three statistics, and the gradient of each."""
    options = SOFTCAP if "logit_softcap" in given else Options("no keyword")
    t = mpmath.mpf(VALUES["temperature"] if "temperature" in given else 1)
    row = ExactRow(options.row(z).x / t)
    slope, rounding = options.slope(z) / t, options.rounding(row)
    counted = exact([0, 0, 1] if "ignore_index" in given and y == VALUES["ignore_index"] else [1, 1, 1])
    values, gradients = three_values(row, y), three_gradients(row, y)
    of_capped = Expected(gradients.value, gradients.magnitude * rounding)
    return counted * Expected(values.value, values.magnitude + (rounding - 1)), counted[:, None] * of_capped * slope


def of_logits_exactly(given: Given, x: np.ndarray, y: np.ndarray) -> Expected:
    """The statistics of logits, and their gradients."""
    return end_to_end({"statistics": exact_values(given, x, y), "gradient in logits": exact_gradient(given, x, y)})


def of_hidden_exactly(given: Given, hidden: np.ndarray, kernel: np.ndarray, bias: np.ndarray, y: np.ndarray) -> Any:
    """The statistics of hidden @ kernel + bias, and their gradients (M16)."""
    z = logits_of(given, hidden, kernel, bias)
    gradients = gradients_of(given, hidden, kernel, exact_gradient(given, z, y))
    return end_to_end({"statistics": exact_values(given, z, y)} | gradients)


def mistakes(given: Given, x: np.ndarray, y: np.ndarray) -> Iterator[tuple[str, Expected]]:
    """What the statistics are if a keyword changes nothing."""
    for keyword in sorted(given.difference(WITHOUT_EFFECT_ON_STATISTICS)):
        yield f"{keyword} changes nothing: the statistics without it came", exact_values(given - {keyword}, x, y)


def mistakes_of_hidden(given: Given, hidden: Any, kernel: Any, bias: Any, y: Any) -> Iterator[tuple[str, Expected]]:
    """What the statistics of hidden @ kernel + bias are if a keyword changes nothing."""
    if "bias" in given:
        yield "bias changes nothing: the statistics without it came", exact_values(given, hidden @ kernel, y)
    yield from mistakes(given - {"bias"}, logits_of(given, hidden, kernel, bias), y)


def logits(dtype: str) -> list[Inputs]:
    """Six tokens."""
    return [Inputs("six tokens", (_regimes.ordinary(dtype, rows=6, seed=36)[None], LABELS[None]))]


def heads(dtype: str) -> list[Inputs]:
    """Six tokens' hidden states, a kernel and a bias."""
    return [Inputs("six tokens", (*(array[None] for array in drawn(TOKENS, 37)), LABELS[None]))]


def each(keywords: tuple[str, ...]) -> dict[str, Given]:
    """No keyword, each by itself, and all together, by name."""
    alone = {keyword: frozenset({keyword}) for keyword in keywords}
    return {"no keyword": frozenset(), **alone, "all keywords": frozenset(keywords)}


TOKEN_STATS_KEYWORDS: tuple[Claim, ...] = (
    *of_each(STATS, "statistics", each(OF_TOKENS), of_logits, of_logits_exactly, logits, mistakes),
    *of_each(
        LINEAR_STATS, "statistics", each(OF_TOKENS + OF_HEAD), of_hidden, of_hidden_exactly, heads, mistakes_of_hidden
    ),
)
