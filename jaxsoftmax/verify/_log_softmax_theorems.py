"""Log-softmax, and the Jacobians of softmax and log-softmax in confident rows: M10, M21."""

import jax
import jax.numpy as jnp
import mpmath
import numpy as np

from jaxsoftmax.verify import _regimes
from jaxsoftmax.verify._oracle import ExactRow, exact, itself
from jaxsoftmax.verify._regimes import rows, with_directions
from jaxsoftmax.verify._softmax_theorems import (
    along_axis_0,
    chain_rule,
    jacobian,
    jacobian_product,
    masked_call,
    pulled_back,
    pushed_forward,
)
from jaxsoftmax.verify._textbook import naive_log_softmax
from jaxsoftmax.verify._theorem import FLOAT32, Inputs, Theorem, derivative, value


def log_probs(x):
    """Log-softmax (M10)."""
    return itself(-ExactRow(exact(x)).nll)


def log_jacobian(x):
    """I - 1 s^T (M10)."""
    row = ExactRow(exact(x))
    matrix = -np.outer(np.full(len(x), mpmath.mpf(1), object), row.probs)
    for i in range(len(x)):
        matrix[i, i] = row.complement(i)
    return itself(matrix)


def log_vjp(x, g):
    """g - s sum(g) (M10)."""
    return -chain_rule(x, g)


def log_jvp(x, v):
    """v - <s, v> 1 (M10)."""
    v = itself(exact(v))
    return v - ExactRow(exact(x)).probs @ v


def unmasked_log_vjp(x, g):
    """The VJP of the log-probabilities that aren't -inf."""
    return log_vjp(x, np.where(np.isneginf(x), 0, g))


def tail_product(x, v):
    """J v of a confident row, where no entry cancels, each to its own ulp (M21)."""
    return itself(jacobian_product(x, v).value)


def unmasked_pulled_back(f, x, g):
    """<g, f(x)> over the logits that aren't -inf."""
    return jnp.sum(jnp.where(jnp.isneginf(x), 0, g * f(x)), -1)


def cotangent_product(f, x, g):
    """The vector-Jacobian product of f at x, as `jax.vjp` returns it."""
    return jax.vjp(f, x)[1](g)[0]


def top_directions(dtype: str) -> list[Inputs]:
    """Confident rows, and the unit vector of the class that is ahead."""
    forty = np.array([[40.0, 0, *[-900.0] * (_regimes.VOCAB - 2)]])
    regimes = _regimes.tails(dtype) | {"[40, 0, ...]": forty}
    return [Inputs(name, (x, np.eye(x.shape[-1])[_regimes.top_labels(x)])) for name, x in regimes.items()]


def tail_directions(dtype: str) -> list[Inputs]:
    """`top_directions`, and one that is 1 everywhere but at a class far below the dominant one."""
    falling = np.array([[0.0, -20, -30, -40, *[-900.0] * (_regimes.VOCAB - 4)]])
    nearly_constant = Inputs("a nearly constant direction", (falling, 1 + np.eye(_regimes.VOCAB)[[3]]))
    return [*top_directions(dtype), nearly_constant]


_well_conditioned, _tails = rows(_regimes.well_conditioned), rows(_regimes.tails)
_along, _along_moderate = with_directions(_regimes.well_conditioned), with_directions(_regimes.moderate)

LOG_SOFTMAX_THEOREMS = (
    Theorem(
        "M10",
        "log-softmax",
        "log_softmax(x) = x - LSE(x) 1, its Jacobian I - 1 s^T; VJP g - s sum(g), JVP v - <s, v> 1",
        "log1p is good to 2 ulps; s to 4",
        "the Jacobian transposed (it isn't symmetric), or a mean taken of the wrong vector",
        (
            value("log_softmax", "value", log_probs, rows(_regimes.well_conditioned, _regimes.ragged_rows), 4),
            derivative("log_softmax", "Jacobian", log_jacobian, _well_conditioned, 8, textbook=naive_log_softmax),
            derivative("log_softmax", "VJP", unmasked_log_vjp, _along, 6, call=unmasked_pulled_back,
                       textbook=lambda x, g: pulled_back(naive_log_softmax, x, g)),
            value("log_softmax", "JVP", log_jvp, _along_moderate, 6, call=pushed_forward),
            value("analytic.log_softmax_jacobian", "value", log_jacobian, _well_conditioned, 8),
            value("analytic.log_softmax_jvp", "value", log_jvp, _along_moderate, 6),
            value("analytic.log_softmax_vjp", "value", log_vjp, _along, 6),
            value("log_softmax", "value, long", log_probs, rows(_regimes.long_rows), 4, dtypes=FLOAT32),
            value("log_softmax", "value, masked", log_probs, rows(_regimes.masks), 4, call=masked_call, dtypes=FLOAT32),
            value("log_softmax", "value along axis 0", log_probs, _well_conditioned, 4, call=along_axis_0,
                  dtypes=FLOAT32),
        ),
    ),
    Theorem(
        "M21",
        "Jacobians of confident rows",
        "centred at the dominant entry, J v, its transpose and I - 1 s^T keep their tails; J e_k sums to 0",
        "as M5 and M10, of each entry itself, however confident the row",
        "v - <s, v> and s - s^2 cancel where s is near 1 (jax#40344); a sum less v_k, where v is nearly constant",
        (
            derivative("softmax", "Jacobian", jacobian, _tails, 4),
            derivative("softmax", "VJP", tail_product, top_directions, 4, call=pulled_back),
            value("softmax", "a cotangent's product", tail_product, tail_directions, 4, call=cotangent_product),
            value("softmax", "JVP", tail_product, tail_directions, 4, call=pushed_forward),
            value("log_softmax", "value", log_probs, rows(_regimes.tails, _regimes.separators), 4),
            derivative("log_softmax", "Jacobian", log_jacobian, _tails, 8),
            value("analytic.softmax_jacobian", "value", jacobian, _tails, 8),
            value("analytic.softmax_jvp", "value", tail_product, tail_directions, 8),
            value("analytic.softmax_vjp", "value", tail_product, tail_directions, 8),
        ),
    ),
)  # fmt: skip
