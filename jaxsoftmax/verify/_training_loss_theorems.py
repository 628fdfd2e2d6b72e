"""The training loss: M23-M27."""

from dataclasses import replace

import numpy as np

from jaxsoftmax.verify._oracle import exact, itself
from jaxsoftmax.verify._theorem import FLOAT_LABELS, IN_FLOAT32, Theorem, derivative, hessian, value
from jaxsoftmax.verify._training_loss_oracles import (
    CLASS_WEIGHTS,
    LOSS,
    SMOOTHING,
    SOFTCAP,
    TOGETHER,
    Z_LOSS,
    capped_gradient,
    capped_hessian,
    flat,
    float_rows,
    label_claim,
    mean_gradient,
    mean_of,
    mean_value,
    reduced,
    rows,
    settings,
    token_gradient,
    token_hessian,
    token_loss,
    tokens,
    weights_gradient,
)

TRAINING_LOSS_THEOREMS = (
    Theorem(
        "M23",
        "slope of a soft cap",
        "a softcap's slope is sech^2(x / c) = 4q / (1 + q)^2 with q = exp(-2|x| / c)",
        "tanh to 5 ulps, exp to 1; half-ulps of z come back in exp(z - m)",
        "1 - tanh^2 is 0 past x = 9 c",
        (
            derivative(LOSS, "gradient past the cap", capped_gradient, flat, 6, call=SOFTCAP.per_token, textbook=None),
            hessian(LOSS, "Hessian", capped_hessian, rows, 8, call=SOFTCAP.per_token, **IN_FLOAT32),
        ),
    ),
    Theorem(
        "M24",
        "loss with smoothing, z-loss and weights",
        "l = (1 - eps) w_y nll_y + (eps / V) sum_j w_j (L - z_j) + zeta w_y L^2",
        "sums of V terms, to the ulp of their sizes",
        "eps / (V - 1); a z-loss without the class weight; weights left out of the smoothing",
        settings(0, token_loss, rows, 6, "value"),
    ),
    Theorem(
        "M25",
        "gradient and Hessian of that loss",
        "dl/dz_j = (A - B) s_j - C_j + B (s_j - [j = y]), A = B + sum C + 2 zeta w_y L",
        "sums of V terms, to the ulp of their sizes",
        "as M24, in the gradient alone",
        (
            *settings(1, token_gradient, rows, 6, "gradient"),
            *settings(2, token_hessian, rows, 8, "Hessian", (SMOOTHING, Z_LOSS, CLASS_WEIGHTS)),
        ),
    ),
    Theorem(
        "M26",
        "loss of float labels",
        "with float labels l = sum_j w_j p'_j (L - z_j) + zeta L^2, p' = (1 - eps) p + eps / V",
        "sums of V terms, to the ulp of their sizes",
        "smoothing taken from the wrong sum; labels taken for constants",
        tuple(
            replace(claim, may_refuse=FLOAT_LABELS, **(IN_FLOAT32 if claim.order == 2 else {}))
            for claim in (
                *settings(0, token_loss, float_rows, 6, "value", (SMOOTHING, TOGETHER)),
                *settings(1, token_gradient, float_rows, 6, "gradient", (SMOOTHING, TOGETHER)),
                label_claim(TOGETHER),
                *settings(2, token_hessian, float_rows, 8, "Hessian", (SMOOTHING, Z_LOSS)),
            )
        ),
    ),
    Theorem(
        "M27",
        "mean over weighted tokens",
        "mean = sum_t u_t l_t / sum_t u_t w_{y_t} over the tokens not ignored; over nothing it is 0, with gradient 0",
        "sums of N terms",
        "a mean over N; 0 / 0 where all is ignored",
        (
            value(LOSS, "mean", mean_value, tokens("xyu"), 6, call=reduced("mean"), rowwise=False),
            derivative(
                LOSS, "gradient of the mean", mean_gradient, tokens("xyu"), 6, call=reduced("mean"), rowwise=False
            ),
            derivative(
                LOSS,
                "gradient of the mean in the token weights",
                weights_gradient,
                tokens("uxy"),
                8,
                call=lambda f, u, x, y: reduced("mean")(f, x, y, u),
                rowwise=False,
            ),
            value(
                LOSS,
                "sum",
                lambda x, y, u: itself(np.asarray(np.dot(exact(u), mean_of(x, y, u)[1]))),
                tokens("xyu"),
                6,
                call=reduced("sum"),
                rowwise=False,
            ),
        ),
    ),
)
