"""Divergences between a student and a teacher, over logits and in two fused heads: M29, M30, M32."""

from jaxsoftmax.verify import _regimes
from jaxsoftmax.verify._distillation_head_oracles import (
    LINEAR_DISTILLATION,
    TwoHeads,
    gradients,
    head_tokens,
    textbook_sum,
)
from jaxsoftmax.verify._distillation_oracles import (
    DISTILLATION,
    FORWARD,
    JENSEN_SHANNON,
    REVERSE,
    Divergence,
    at_temperatures,
    every_pair,
    gradient,
    gradient_at_temperature,
    impossible,
    kl_hessian,
    low,
    mean_and_gradients,
    mean_gradient,
    moderate,
    pairs,
    textbook,
    textbook_mean,
    value,
    value_at_temperature,
    weighted_tokens,
)
from jaxsoftmax.verify._theorem import Claim, Theorem


def _of_logits(divergence: Divergence, values: tuple, gradients: tuple) -> tuple[Claim, ...]:
    """Value and gradient of a divergence, on these regimes."""
    return (
        Claim(DISTILLATION, f"{divergence.name}", 0, divergence.call, value(divergence), pairs(*values), 8),
        Claim(
            DISTILLATION,
            f"gradients of {divergence.name}",
            1,
            divergence.call,
            gradient(divergence),
            pairs(*gradients),
            6,
            textbook=textbook(divergence),
        ),
        Claim(
            DISTILLATION,
            f"gradients of {divergence.name} in low precision",
            1,
            divergence.call,
            gradient(divergence),
            low,
            1,
            dtypes=_regimes.LOW_PRECISION,
        ),
    )


def _of_head(divergence: Divergence) -> Claim:
    """Gradients, and losses as those in the token weights, in the fused head."""
    heads = TwoHeads(divergence)
    return Claim(
        LINEAR_DISTILLATION,
        f"gradients of {divergence.name}, and losses as those in the token weights",
        1,
        heads.loss,
        gradients(divergence),
        head_tokens,
        6,
        dtypes=("float32", "float64") if divergence == FORWARD else ("float32",),
        rowwise=False,
        textbook=textbook_sum(divergence),
    )


def _at_temperature(divergence: Divergence) -> tuple[Claim, ...]:
    return (
        Claim(
            DISTILLATION,
            f"{divergence.name}",
            0,
            divergence.call,
            value_at_temperature(divergence),
            at_temperatures,
            8,
            dtypes=("float32",),
            rowwise=False,
        ),
        Claim(
            DISTILLATION,
            f"gradients of {divergence.name}",
            1,
            divergence.call,
            gradient_at_temperature(divergence),
            at_temperatures,
            6,
            rowwise=False,
            textbook=textbook(divergence),
        ),
    )


DISTILLATION_THEOREMS = (
    Theorem(
        "M29",
        "Kullback-Leibler divergence",
        "KL(p||q) = sum_j p_j (delta_j + expm1(-delta_j)) with delta = log p - log q; its gradient is q - p in z, and "
        "p_j (delta_j - KL) in u",
        "p, q to 3 ulps each, delta to 2 ulps of itself and of <p, |delta|>, sums to 2; half an ulp in low precision",
        "sum p (log p - log q), of which nothing is left where p and q nearly agree; a log-sum-exp's own rounding in "
        "log p; roles swapped; no gradient for the teacher; 0 inf where both are -inf",
        (
            *_of_logits(
                FORWARD, (every_pair, impossible("teacher"), impossible("student")), (every_pair, impossible("teacher"))
            ),
            *_of_logits(REVERSE, (every_pair, impossible("student")), (every_pair, impossible("student"))),
            Claim(
                DISTILLATION,
                "Hessian of forward_kl",
                2,
                FORWARD.call,
                kl_hessian,
                pairs(moderate),
                8,
                dtypes=("float32",),
            ),
            Claim(
                DISTILLATION,
                "gradients of the mean, and in the token weights",
                1,
                mean_and_gradients,
                mean_gradient,
                weighted_tokens,
                6,
                rowwise=False,
                textbook=textbook_mean,
            ),
            _of_head(FORWARD),
            _of_head(REVERSE),
        ),
    ),
    Theorem(
        "M30",
        "Jensen-Shannon divergence",
        "JS = beta KL(p||m) + (1 - beta) KL(q||m) with m = beta p + (1 - beta) q; its gradient is (1 - beta) q_j "
        "(log (q_j / m_j) - KL(q||m)) in z, and in u the same of beta and p",
        "as M29",
        "beta and 1 - beta swapped; log m of a sum, which cancels against log p; ln 2 for every row",
        (
            *_of_logits(
                JENSEN_SHANNON,
                (every_pair, impossible("teacher"), impossible("student")),
                (every_pair, impossible("teacher"), impossible("student")),
            ),
            _of_head(JENSEN_SHANNON),
        ),
    ),
)

TEMPERATURE_CLAIMS = (*_at_temperature(FORWARD), *_at_temperature(JENSEN_SHANNON))
