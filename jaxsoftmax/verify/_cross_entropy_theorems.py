"""Cross-entropy of one token: M11, M12, M15, M19, M20."""

from jaxsoftmax.verify import _regimes
from jaxsoftmax.verify._cross_entropy_forms import (
    FLOAT,
    INTEGER,
    by_targets,
    gradient_in_targets,
    label_gradient,
    label_hessian,
    label_hessian_product,
    masked,
    naive_integer,
    naive_targets,
    nan_gradient,
    nll,
    nothing_but_nan,
    one_hot_gradient,
    one_hot_nll,
    out_of_range,
    tails,
    target_gradient,
    target_hessian,
    target_loss,
    textbook_label_gradient,
    unmasked,
    unshifted,
    with_labels,
    with_one_hot,
    with_targets,
)
from jaxsoftmax.verify._oracle import ExactRow, exact, itself
from jaxsoftmax.verify._theorem import Inputs, Theorem, derivative, hessian, value

CROSS_ENTROPY_THEOREMS = (
    Theorem(
        "M11",
        "cross-entropy",
        "C(x, t) = -sum_i t_i log s_i; its gradient is s sum(t) - t for any real t, and s - e_y for a label y",
        "the sum to 2 ulps, log1p to 2, and the terms' own roundings",
        "s - t, which is right for targets that sum to 1 alone; p instead of p - 1 (no one-hot); a mean taken twice",
        (
            value(INTEGER, "value", nll, lambda d: with_labels(unshifted(_regimes.with_sizes(d))), 4),
            derivative(
                INTEGER,
                "gradient",
                textbook_label_gradient,
                lambda d: with_labels(_regimes.with_sizes(d)),
                4,
                textbook=naive_integer,
            ),
            value(FLOAT, "value", target_loss, lambda d: with_targets(unmasked(d)), 6),
            derivative(
                FLOAT, "gradient", target_gradient, lambda d: with_targets(unmasked(d)), 6, textbook=naive_targets
            ),
            value("analytic.cross_entropy_gradient", "value", target_gradient, lambda d: with_targets(unmasked(d)), 6),
            value(
                "cross_entropy",
                "value of a row",
                nll,
                lambda d: with_labels(unshifted(_regimes.with_ragged(d))),
                4,
                call=lambda f, x, y: f(x, y, reduction="none"),
            ),
        ),
    ),
    Theorem(
        "M11-mask",
        "masked classes",
        "a class of target 0 adds nothing, even at a logit of -inf; a row of -inf alone costs inf, with gradient 0",
        "as M11",
        "NaN from 0 * inf in the one-hot form, or from -inf - (-inf) in a row of -inf alone",
        (
            value(FLOAT, "value", target_loss, lambda d: with_targets(masked(d)), 6),
            derivative(FLOAT, "gradient", target_gradient, lambda d: with_targets(masked(d)), 6),
        ),
    ),
    Theorem(
        "M11-range",
        "labels that are no class",
        "a label outside [0, V) gives NaN loss and gradient, and spares its neighbours; -1 isn't the last class",
        "as M11",
        "-1 wraps to the last class, or an index is clipped in the gradient alone",
        (
            value(INTEGER, "value", nothing_but_nan, out_of_range, 4),
            derivative(INTEGER, "gradient", nan_gradient, out_of_range, 4),
            value(
                "cross_entropy",
                "value",
                nothing_but_nan,
                out_of_range,
                4,
                call=lambda f, x, y: f(x, y, reduction="none"),
            ),
            derivative(
                "cross_entropy",
                "gradient",
                nan_gradient,
                out_of_range,
                4,
                call=lambda f, x, y: f(x, y, reduction="none"),
            ),
        ),
    ),
    Theorem(
        "M12",
        "gradient in the labels",
        "the gradient of C in the targets is -log s",
        "as M10",
        "labels taken for constants, with gradient 0",
        (
            derivative(
                FLOAT,
                "gradient in the targets",
                gradient_in_targets,
                lambda d: [Inputs(i.regime, i.arrays[::-1]) for i in with_targets(unmasked(d))],
                4,
                call=by_targets,
                textbook=lambda t, x: naive_targets(x, t),
            ),
            value(
                "analytic.cross_entropy_label_gradient",
                "value",
                lambda x: itself(ExactRow(exact(x)).nll),
                lambda d: [Inputs(n, (x,)) for n, x in unmasked(d).items()],
                4,
            ),
        ),
    ),
    Theorem(
        "M15",
        "Hessian of cross-entropy",
        "the Hessian of C is sum(t) (diag(s) - s s^T)",
        "as M5",
        "a rule that is right at first order only",
        (
            hessian(
                INTEGER,
                "Hessian",
                label_hessian,
                lambda d: with_labels(_regimes.well_conditioned(d)),
                4,
                textbook=naive_integer,
            ),
            hessian(FLOAT, "Hessian", target_hessian, lambda d: with_targets(unmasked(d)), 6, textbook=naive_targets),
            value(
                "analytic.cross_entropy_hessian",
                "value",
                label_hessian,
                lambda d: with_labels(_regimes.well_conditioned(d)),
                4,
            ),
            value(
                "analytic.cross_entropy_hvp",
                "value",
                label_hessian_product,
                lambda d: [
                    Inputs(i.regime, (*i.arrays, _regimes.directions(i.arrays[0])))
                    for i in with_labels(_regimes.well_conditioned(d))
                ],
                4,
            ),
        ),
    ),
    Theorem(
        "M19",
        "loss of confident labels",
        "nll_y = (m - x_y) + log1p(r): relative accuracy survives a confident label",
        "the sum to 2 ulps, log1p to 2",
        "LSE - x_y cancels: [0, -20] gives 0, and training stops (softmax collapse)",
        (
            value(
                INTEGER,
                "value",
                nll,
                lambda d: with_labels(tails(d) | {"shift 1e4": _regimes.shifted(d)}, _regimes.top_labels),
                4,
            ),
            value(FLOAT, "value", one_hot_nll, lambda d: with_one_hot(tails(d), _regimes.top_labels), 4),
            value(
                "cross_entropy",
                "value",
                nll,
                lambda d: with_labels(tails(d), _regimes.top_labels),
                4,
                call=lambda f, x, y: f(x, y, reduction="none"),
            ),
        ),
    ),
    Theorem(
        "M20",
        "gradient at confident labels",
        "s_y - 1 = expm1(-nll_y): the label's gradient entry never cancels",
        "r to 2 ulps, and two quotients",
        "p - 1 in floating point is 0 past a gap of 17, or the tail is absorbed in 1 + r (softmax collapse)",
        (
            derivative(
                INTEGER,
                "gradient",
                label_gradient,
                lambda d: with_labels(tails(d), _regimes.top_labels) + with_labels({"ordinary": _regimes.ordinary(d)}),
                4,
            ),
            derivative(FLOAT, "gradient", one_hot_gradient, lambda d: with_one_hot(tails(d), _regimes.top_labels), 4),
            value(
                "analytic.cross_entropy_gradient",
                "value",
                label_gradient,
                lambda d: with_labels(_regimes.tails(d) | _regimes.shifted_tails(d), _regimes.top_labels),
                8,
            ),
            hessian(
                INTEGER, "Hessian", label_hessian, lambda d: with_labels(_regimes.tails(d), _regimes.top_labels), 4
            ),
            hessian(
                FLOAT,
                "Hessian",
                lambda x, t: label_hessian(x, 0),
                lambda d: with_one_hot(_regimes.tails(d), _regimes.top_labels),
                4,
            ),
        ),
    ),
)
