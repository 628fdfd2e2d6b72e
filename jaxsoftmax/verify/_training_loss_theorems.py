"""The training loss: M23-M27."""

from dataclasses import replace
from typing import Any

import numpy as np

from jaxsoftmax.verify import _regimes
from jaxsoftmax.verify._cross_entropy_theorems import LOSS
from jaxsoftmax.verify._keyword_cases import SENTINEL, Case
from jaxsoftmax.verify._keywords import ExactLoss, exact_loss
from jaxsoftmax.verify._oracle import Expected
from jaxsoftmax.verify._theorem import FLOAT32, FLOAT_LABELS, Claim, Inputs, Theorem, derivative, hessian, value
from jaxsoftmax.verify._token_loss import (
    CLASS_WEIGHTS,
    IGNORED,
    SETTINGS,
    SMOOTHING,
    SOFTCAP,
    TOGETHER,
    TOKEN_WEIGHTS,
    Z_LOSS,
    capped_hessian,
    gradient_in_labels,
    textbook_loss,
    token_gradient,
    token_hessian,
    token_loss,
)


def capped_gradient(x, y):
    """(s_j - [j = y]) sech^2(x_j / c), each entry to its own ulp however flat the cap (M23)."""
    row = SOFTCAP.row(x)
    value = row.label_gradient(int(y)) * SOFTCAP.slope(x)
    return Expected(value, np.abs(value) * SOFTCAP.rounding(row))


def softcap_hessian(x, y):
    """The Hessian of the NLL of capped logits (M15, M23)."""
    return capped_hessian(SOFTCAP, x, y)


def exactly(reduction: str, x: np.ndarray, y: np.ndarray, u: np.ndarray) -> ExactLoss:
    """What `reduced` gives, and its derivatives, in mpmath (M27)."""
    given = frozenset({"class_weights", "token_weights", SENTINEL(IGNORED)})
    return exact_loss(Case(reduction=reduction, given=given), x, y, u)


def reduced(reduction: str):
    """The loss over tokens with weights, some ignored."""

    def call(f, x, y, u):
        return CLASS_WEIGHTS.call(f, x, y, token_weights=u, ignore_index=IGNORED, reduction=reduction)

    return call


def tokens(dtype: str) -> list[Inputs]:
    x = _regimes.ordinary(dtype, rows=24).reshape(4, 6, _regimes.VOCAB)
    y = np.array([[0, IGNORED, 2, 3, 5, 6], [IGNORED] * 6, [1, 1, 4, IGNORED, 0, 2], [0, 1, 2, 3, 4, 6]], np.int32)
    u = np.stack([TOKEN_WEIGHTS, TOKEN_WEIGHTS, np.ones(6), np.zeros(6)])
    return [Inputs("weighted, some or all ignored", (x, y, u))]


def float_rows(dtype: str) -> list[Inputs]:
    x = _regimes.ordinary(dtype)
    return [Inputs(f"{kind} targets", (x, _regimes.targets_of(x, kind))) for kind in ("distribution", "unnormalised")]


def flat(dtype: str) -> list[Inputs]:
    x = np.array([[40.0, -8.0, 0.5, 1, 2, -60, 3], [0.25, 20.0, -20.0, 16, -1, 0, 8]])
    return [Inputs("far past the cap", (x, np.array([0, 2], np.int32)))]


def of_settings(order: int, quantity: str, oracle: Any, inputs: Any, bound: float, settings=SETTINGS) -> list[Claim]:
    """A claim about the loss with each of these options, differentiated so often."""
    return [
        Claim(
            LOSS,
            f"{quantity}, {options.name}",
            order,
            options.per_token,
            oracle(options),
            inputs,
            bound,
            textbook=textbook_loss(options) if order else None,
        )
        for options in settings
    ]


_rows = _regimes.rows(_regimes.moderate, beside=[lambda x: np.array([0, 3, 4, 6], np.int32)])
_of_float_labels = (
    *of_settings(0, "value", token_loss, float_rows, 6, (SMOOTHING, TOGETHER)),
    *of_settings(1, "gradient", token_gradient, float_rows, 6, (SMOOTHING, TOGETHER)),
    derivative(
        LOSS,
        f"gradient in the labels, {TOGETHER.name}",
        gradient_in_labels(TOGETHER),
        _regimes.reordered(float_rows, 1, 0),
        6,
        call=lambda f, p, x: TOGETHER.per_token(f, x, p),
        textbook=lambda p, x: textbook_loss(TOGETHER)(x, p),
    ),
    *of_settings(2, "Hessian", token_hessian, float_rows, 8, (SMOOTHING, Z_LOSS)),
)

TRAINING_LOSS_THEOREMS = (
    Theorem(
        "M23",
        "slope of a soft cap",
        "a softcap's slope is sech^2(x / c) = 4q / (1 + q)^2 with q = exp(-2|x| / c)",
        "tanh to 5 ulps, exp to 1; half-ulps of z come back in exp(z - m)",
        "1 - tanh^2 is 0 past x = 9 c",
        (
            derivative(LOSS, "gradient past the cap", capped_gradient, flat, 6, call=SOFTCAP.per_token),
            hessian(LOSS, "Hessian", softcap_hessian, _rows, 8, call=SOFTCAP.per_token, dtypes=FLOAT32),
        ),
    ),
    Theorem(
        "M24",
        "loss with smoothing, z-loss and weights",
        "l = (1 - eps) w_y nll_y + (eps / V) sum_j w_j (L - z_j) + zeta w_y L^2",
        "sums of V terms, to the ulp of their sizes",
        "eps / (V - 1); a z-loss without the class weight; weights left out of the smoothing",
        tuple(of_settings(0, "value", token_loss, _rows, 6)),
    ),
    Theorem(
        "M25",
        "gradient and Hessian of that loss",
        "dl/dz_j = (A - B) s_j - C_j + B (s_j - [j = y]), A = B + sum C + 2 zeta w_y L",
        "sums of V terms, to the ulp of their sizes",
        "as M24, in the gradient alone",
        (
            *of_settings(1, "gradient", token_gradient, _rows, 6),
            *of_settings(2, "Hessian", token_hessian, _rows, 8, (SMOOTHING, Z_LOSS, CLASS_WEIGHTS)),
        ),
    ),
    Theorem(
        "M26",
        "loss of float labels",
        "with float labels l = sum_j w_j p'_j (L - z_j) + zeta L^2, p' = (1 - eps) p + eps / V",
        "sums of V terms, to the ulp of their sizes",
        "smoothing taken from the wrong sum; labels taken for constants",
        tuple(
            replace(claim, may_refuse=FLOAT_LABELS, dtypes=FLOAT32 if claim.order == 2 else claim.dtypes)
            for claim in _of_float_labels
        ),
    ),
    Theorem(
        "M27",
        "mean over weighted tokens",
        "mean = sum_t u_t l_t / sum_t u_t w_{y_t} over the tokens not ignored; over nothing it is 0, with gradient 0",
        "sums of N terms",
        "a mean over N; 0 / 0 where all is ignored",
        (
            value(LOSS, "mean", lambda *row: exactly("mean", *row).value, tokens, 6, call=reduced("mean"),
                  rowwise=False),
            derivative(LOSS, "gradient of the mean", lambda *row: exactly("mean", *row).by_logits, tokens, 6,
                       call=reduced("mean"), rowwise=False),
            derivative(LOSS, "gradient of the mean in the token weights",
                       lambda u, x, y: exactly("mean", x, y, u).by_token_weights, _regimes.reordered(tokens, 2, 0, 1),
                       8, call=lambda f, u, x, y: reduced("mean")(f, x, y, u), rowwise=False),
            value(LOSS, "sum", lambda *row: exactly("sum", *row).value, tokens, 6, call=reduced("sum"), rowwise=False),
        ),
    ),
)  # fmt: skip
