"""Softmax and log-softmax: M4-M7, M10, M13, M21."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxsoftmax.verify import _regimes
from jaxsoftmax.verify._softmax_forms import (
    chain_rule,
    eigenvalues,
    everything,
    jacobian,
    jacobian_product,
    log_jacobian,
    log_jvp,
    log_probs,
    log_vjp,
    masked_call,
    naive_log_softmax,
    naive_softmax,
    no_difference,
    plain,
    probs,
    probs_of_rounded,
    rounded,
    shifts,
    tail_directions,
    tail_product,
    through_softmax,
    top_directions,
    with_directions,
)
from jaxsoftmax.verify._theorem import Inputs, Theorem, derivative, value

SOFTMAX_THEOREMS = (
    Theorem(
        "M4",
        "softmax",
        "s_i = exp(x_i) / sum_k exp(x_k), and 0 where masked",
        "exp is good to 1 ulp, the sum to 2, the quotient to 1/2",
        "exp(x - LSE) rounds LSE at the size of the shift; exp(x) overflows",
        (
            value("softmax", "value", probs, lambda d: plain(everything(d)), 4),
            value(
                "softmax",
                "value along axis 0",
                probs,
                lambda d: plain(_regimes.well_conditioned(d)),
                4,
                call=lambda f, x: f(x.T, axis=0).T,
            ),
            value(
                "softmax",
                "value, masked",
                probs,
                lambda d: plain({"-inf masks": _regimes.masked(d)}),
                4,
                call=masked_call,
            ),
            value("softmax", "value, any logits", probs_of_rounded, rounded, 4),
        ),
    ),
    Theorem(
        "M5",
        "Jacobian of softmax",
        "the Jacobian of softmax is diag(s) - s s^T: s_i (1 - s_i) on the diagonal, -s_i s_j off it",
        "two probabilities at 3 ulps each would make 6; half of it cancels, and the product is rounded",
        "the term - s s^T left out, or a factor",
        (
            derivative(
                "softmax",
                "Jacobian",
                jacobian,
                lambda d: plain(_regimes.well_conditioned(d) | _regimes.many(d)),
                4,
                textbook=naive_softmax,
            ),
            value("analytic.softmax_jacobian", "value", jacobian, lambda d: plain(_regimes.well_conditioned(d)), 4),
        ),
    ),
    Theorem(
        "M6",
        "products with the Jacobian",
        "J = J^T, J 1 = 0, J is positive semidefinite of rank n - 1; J v = J^T v = s * (v - <s, v>)",
        "as M5, to the ulp of the terms s_j (|v_j| + <s, |v|>)",
        "J v without the mean, or a cotangent dropped or doubled",
        (
            derivative(
                "softmax",
                "VJP",
                jacobian_product,
                lambda d: with_directions(_regimes.well_conditioned(d)),
                4,
                call=lambda f, x, g: jnp.sum(g * f(x), -1),
                textbook=lambda x, g: jnp.sum(g * naive_softmax(x)),
            ),
            value(
                "softmax",
                "JVP",
                jacobian_product,
                lambda d: with_directions(_regimes.well_conditioned(d)),
                4,
                call=lambda f, x, v: jax.jvp(f, (x,), (v,))[1],
            ),
            value(
                "softmax",
                "eigenvalues of the Jacobian",
                eigenvalues,
                lambda d: plain({"ordinary": _regimes.ordinary(d)}),
                16,
                call=lambda f, x: jnp.linalg.eigvalsh(jax.jacrev(f)(x)),
                rowwise=False,
            ),
            value(
                "analytic.softmax_jvp",
                "value",
                jacobian_product,
                lambda d: with_directions(_regimes.well_conditioned(d)),
                4,
            ),
            value(
                "analytic.softmax_vjp",
                "value",
                jacobian_product,
                lambda d: with_directions(_regimes.well_conditioned(d)),
                4,
            ),
        ),
    ),
    Theorem(
        "M7",
        "shift invariance",
        "softmax(x + c 1) = softmax(x)",
        "two roundings of M4",
        "exp(x) overflows, or the maximum isn't subtracted",
        (
            value(
                "softmax", "softmax(x + c) - softmax(x)", no_difference, shifts, 4, call=lambda f, x, c: f(x + c) - f(x)
            ),
        ),
    ),
    Theorem(
        "M10",
        "log-softmax",
        "log_softmax(x) = x - LSE(x) 1, its Jacobian I - 1 s^T; VJP g - s sum(g), JVP v - <s, v> 1",
        "log1p is good to 2 ulps; s to 4",
        "the Jacobian transposed (it isn't symmetric), or a mean taken of the wrong vector",
        (
            value("log_softmax", "value", log_probs, lambda d: plain(_regimes.with_ragged(d)), 4),
            derivative(
                "log_softmax",
                "Jacobian",
                log_jacobian,
                lambda d: plain(_regimes.well_conditioned(d)),
                8,
                textbook=naive_log_softmax,
            ),
            derivative(
                "log_softmax",
                "VJP",
                lambda x, g: log_vjp(x, np.where(np.isneginf(x), 0, g)),
                lambda d: with_directions(_regimes.well_conditioned(d)),
                6,
                call=lambda f, x, g: jnp.sum(jnp.where(jnp.isneginf(x), 0, g * f(x)), -1),
                textbook=lambda x, g: jnp.sum(g * naive_log_softmax(x)),
            ),
            value(
                "log_softmax",
                "JVP",
                log_jvp,
                lambda d: with_directions({"ordinary": _regimes.ordinary(d), "ties": _regimes.ties(d)}),
                6,
                call=lambda f, x, v: jax.jvp(f, (x,), (v,))[1],
            ),
            value(
                "analytic.log_softmax_jacobian", "value", log_jacobian, lambda d: plain(_regimes.well_conditioned(d)), 8
            ),
            value(
                "analytic.log_softmax_jvp",
                "value",
                log_jvp,
                lambda d: with_directions({"ordinary": _regimes.ordinary(d), "ties": _regimes.ties(d)}),
                6,
            ),
            value(
                "analytic.log_softmax_vjp", "value", log_vjp, lambda d: with_directions(_regimes.well_conditioned(d)), 6
            ),
        ),
    ),
    Theorem(
        "M13",
        "chain rule",
        "by the chain rule through softmax, J^T (-t / s) = s sum(t) - t: both routes to M11 agree",
        "the quotient -t / s and the product with s round once more than M6",
        "J v without the mean, or s - t, which is right for targets that sum to 1 alone",
        (
            derivative(
                "softmax",
                "VJP of -t / s",
                chain_rule,
                lambda d: [
                    Inputs("ordinary", (x := _regimes.ordinary(d), _regimes.targets_of(x, k)))
                    for k in ("distribution", "signed")
                ],
                8,
                call=through_softmax,
            ),
        ),
    ),
    Theorem(
        "M21",
        "Jacobians of confident rows",
        "centred at the dominant entry, J v, its transpose and I - 1 s^T keep their tails; J e_k sums to 0",
        "as M5 and M10, of each entry itself, however confident the row",
        "v - <s, v> and s - s^2 cancel where s is near 1 (jax#40344); a sum less v_k, where v is nearly constant",
        (
            derivative("softmax", "Jacobian", jacobian, lambda d: plain(_regimes.tails(d)), 4),
            derivative("softmax", "VJP", tail_product, top_directions, 4, call=lambda f, x, g: jnp.sum(g * f(x), -1)),
            value(
                "softmax",
                "a cotangent's product",
                tail_product,
                tail_directions,
                4,
                call=lambda f, x, g: jax.vjp(f, x)[1](g)[0],
            ),
            value("softmax", "JVP", tail_product, tail_directions, 4, call=lambda f, x, v: jax.jvp(f, (x,), (v,))[1]),
            value("log_softmax", "value", log_probs, lambda d: plain(_regimes.tails(d) | _regimes.separators(d)), 4),
            derivative("log_softmax", "Jacobian", log_jacobian, lambda d: plain(_regimes.tails(d)), 8),
            value("analytic.softmax_jacobian", "value", jacobian, lambda d: plain(_regimes.tails(d)), 8),
            value("analytic.softmax_jvp", "value", tail_product, tail_directions, 8),
            value("analytic.softmax_vjp", "value", tail_product, tail_directions, 8),
        ),
    ),
)
