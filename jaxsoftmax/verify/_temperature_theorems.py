"""Temperature, in the statistics of tokens and in distillation: M32."""

import jax.numpy as jnp
import mpmath
import numpy as np

from jaxsoftmax.verify import _regimes
from jaxsoftmax.verify._distillation_theorems import DISTILLATION, gradient, moderate, near, value_of
from jaxsoftmax.verify._exact_divergence import FORWARD, JENSEN_SHANNON, Divergence, textbook
from jaxsoftmax.verify._exact_stats import three_gradients, three_values
from jaxsoftmax.verify._oracle import ExactRow, exact
from jaxsoftmax.verify._textbook import naive_entropy, naive_lse
from jaxsoftmax.verify._theorem import FLOAT32, Claim, Inputs, Theorem, derivative, value
from jaxsoftmax.verify._token_stats_theorems import STATS, all_three

TEMPERATURES = np.array([0.5, 2.0, 4.0, 1.0])  # by which no logit rounds


def statistics(f, x, y, t):
    """The statistics of z / T."""
    return all_three(f, x, y, temperature=t)


def _tempered(x, t) -> ExactRow:
    return ExactRow(exact(x) / mpmath.mpf(float(t)))


def exact_statistics(x, y, t):
    """The statistics of z / T (M32)."""
    return three_values(_tempered(x, t), int(y))


def statistics_gradient(x, y, t):
    """1 / T times the gradients at z / T (M32)."""
    return three_gradients(_tempered(x, t), int(y)) / mpmath.mpf(float(t))


def textbook_statistics(x, y, t):
    """The formulas as printed, of z / T (M32)."""
    z = x / t
    return jnp.stack([z[y] - naive_lse(z), naive_entropy(z, y), naive_lse(z)])


def labelled_rows(dtype: str) -> list[Inputs]:
    x, y = _regimes.ordinary(dtype), np.array([0, 3, 4, 6], np.int32)
    tails = _regimes.confident(dtype)[:4]
    return [
        Inputs("T of 1/2 to 4", (x, y, TEMPERATURES)),
        Inputs("T of 1/2 to 4, confident", (tails, _regimes.top_labels(tails), TEMPERATURES)),
    ]


def pairs(dtype: str) -> list[Inputs]:
    near_rows = near(dtype)["differing by 1e-4"]
    regimes = {"T of 1/2 to 4": moderate(dtype)["ordinary"], "T of 1/2 to 4, differing by 1e-4": near_rows}
    return [Inputs(name, (x, TEMPERATURES)) for name, x in regimes.items()]


def _of_divergence(divergence: Divergence) -> tuple[Claim, ...]:
    return (
        value(
            DISTILLATION,
            divergence.name,
            value_of(divergence),
            pairs,
            8,
            call=divergence.call,
            dtypes=FLOAT32,
            rowwise=False,
        ),
        derivative(
            DISTILLATION,
            f"gradients of {divergence.name}",
            gradient(divergence),
            pairs,
            6,
            call=divergence.call,
            rowwise=False,
            textbook=textbook(divergence),
        ),
    )


TEMPERATURE = Theorem(
    "M32",
    "temperature",
    "at a temperature T statistics and divergences are those of z / T, and their gradients 1 / T times those at z / T; "
    "a divergence isn't multiplied by T^2",
    "as M28 and M29: logits divided by a power of 2 don't round",
    "the gradient without its 1 / T; T^2 times the divergence, as in some recipes; T in place of 1 / T; a temperature "
    "that one of the two rows lacks",
    (
        value(STATS, "statistics", exact_statistics, labelled_rows, 6, call=statistics, rowwise=False),
        derivative(STATS, "gradients of the statistics", statistics_gradient, labelled_rows, 6, call=statistics,
                   rowwise=False, textbook=textbook_statistics),
        *_of_divergence(FORWARD),
        *_of_divergence(JENSEN_SHANNON),
    ),
)  # fmt: skip
