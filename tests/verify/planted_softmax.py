"""Wrong softmaxes and log-softmaxes."""

import jax.numpy as jnp

import jaxsoftmax
from tests.verify.planted import Planted, by_call, by_tangent, twice_the_first


def _softmax(given):
    return jaxsoftmax.softmax(given.x, given.axis, given.where)


def _mean(s, v):
    return jnp.sum(s * v, -1, keepdims=True)


def _at_all_maxima(right, v, given):
    """Centred at every maximum together, which ties make several."""
    s = _softmax(given)
    h = v - jnp.sum(jnp.where(s == jnp.max(s, -1, keepdims=True), v, 0), -1, keepdims=True)
    leads = jnp.max(s, -1, keepdims=True) == s
    h = jnp.where(leads, 0, h)
    return s * (h - _mean(s, h))


def _low_precision_sum(right, x, axis=-1, where=None):
    e = jnp.exp(x - jnp.max(x, axis, keepdims=True))
    return e / jnp.sum(e, axis, keepdims=True, dtype=x.dtype)


def _through_rounded_lse(right, x, axis=-1, where=None):
    return jnp.exp(x - jaxsoftmax.logsumexp(x, axis=axis, keepdims=True, where=where))


def _naive(right, x, axis=-1, where=None):
    e = jnp.exp(x)
    return e / jnp.sum(e, axis, keepdims=True)


def _centred_after_the_sum(right, v, given):
    """h = v - v_k, and <s, h> as the sum of all others less v_k times that of their probabilities."""
    s = _softmax(given)
    top = jnp.argmax(s, -1, keepdims=True)
    others = jnp.where(jnp.arange(s.shape[-1]) == top, 0, s)
    at_top = jnp.take_along_axis(v, top, -1)
    return s * ((v - at_top) - (_mean(others, v) - at_top * jnp.sum(others, -1, keepdims=True)))


SOFTMAX = (
    Planted("J without -s s^T", "softmax", by_tangent(lambda _, v, a: _softmax(a) * v), ("M5",), ("M4",)),
    Planted(
        "J without its off-diagonal",
        "softmax",
        by_tangent(lambda _, v, a: _softmax(a) * (1 - _softmax(a)) * v),
        ("M6",),
    ),
    Planted("s^2 in place of s in J", "softmax", by_tangent(lambda right, _, a: _softmax(a) * right), ("M6", "M13")),
    Planted("tangent zero", "softmax", by_tangent(lambda right, *_: 0 * right), ("M6",), ("M7",)),
    Planted("tangent doubled", "softmax", by_tangent(lambda right, *_: 2 * right), ("M5",), ("M4",)),
    Planted("J of the wrong sign", "softmax", by_tangent(lambda right, *_: -right), ("M6",)),
    Planted("a plain mean of v in place of <s, v>", "softmax", by_tangent(
        lambda _, v, a: _softmax(a) * (v - jnp.mean(v, -1, keepdims=True))
    ), ("M6",)),
    Planted(
        "v - <s, v> not centred, which cancels on a confident row",
        "softmax",
        by_tangent(lambda _, v, a: _softmax(a) * (v - _mean(_softmax(a), v))),
        ("M21",),
        ("M6",),
    ),
    Planted("a mean of v less that of v_k, which cancels where v is nearly constant", "softmax",
            by_tangent(_centred_after_the_sum), ("M21",)),
    Planted("centred at all of several equal maxima", "softmax", by_tangent(_at_all_maxima), ("M5",),
            failing_only={"regime": {"ties", "V = 200"}}),
    Planted("an axis other than the last taken for the last", "softmax", by_call(
        lambda right, x, axis=-1, where=None: right(x, -1, where)
    ), ("M4",), failing_only={"quantity": {"value along axis 0"}}),
    Planted("mask ignored", "softmax", by_call(lambda right, x, axis=-1, where=None: right(x, axis)), ("M4",),
            failing_only={"quantity": {"value, masked"}}),
    Planted("exp(x) overflows", "softmax", by_call(_naive), ("M4", "M7")),
    Planted("exp(x - lse) at shift 1e6", "softmax", by_call(_through_rounded_lse), ("M4",)),
    Planted("exponentials and sums in 8 bits", "softmax", by_call(_low_precision_sum), ("M4-low",),
            dtypes=("bfloat16",)),
    Planted("J wrong above 100 classes", "softmax", by_tangent(
        lambda right, v, a: twice_the_first(right) if v.shape[-1] > 100 else right
    ), ("M5",), failing_only={"regime": {"V = 200"}}),
    Planted("J wrong above 1000 classes", "softmax", by_tangent(
        lambda right, v, a: twice_the_first(right) if v.shape[-1] > 1000 else right
    ), ("M6",)),
    Planted("value wrong from 65536 classes", "softmax", by_call(
        lambda right, x, axis=-1, where=None: right(x, axis, where) * (2 if x.shape[-1] >= 65536 else 1)
    ), ("M4",)),
    Planted("gradient through a mask", "softmax", by_tangent(
        lambda right, v, a: right if a.where is None else right + jnp.where(a.where, 0, v)
    ), ("M5",)),
    Planted("nan for a row of -inf alone", "softmax", by_call(
        lambda right, x, axis=-1, where=None: jnp.where(
            jnp.all(jnp.isneginf(x), axis, keepdims=True), jnp.nan, right(x, axis, where)
        )
    ), ("M8-empty",)),
)  # fmt: skip

LOG_SOFTMAX = (
    Planted("Jacobian transposed", "log_softmax", by_tangent(
        lambda _, v, a: v - _softmax(a) * jnp.sum(v, -1, keepdims=True)
    ), ("M10",)),
    Planted("tangent dropped in the mean", "log_softmax", by_tangent(lambda _, v, a: v), ("M10",)),
    Planted("cotangent's mean in place of its sum", "log_softmax", by_tangent(
        lambda right, v, a: v - _mean(_softmax(a), v) / v.shape[-1]
    ), ("M10",)),
    Planted("log(softmax(x)), which underflows", "log_softmax", by_call(
        lambda right, x, axis=-1, where=None: jnp.log(jaxsoftmax.softmax(x, axis, where))
    ), ("M21",)),
    Planted("1 - s cancels on a confident row", "log_softmax", by_tangent(
        lambda _, v, a: v - _mean(_softmax(a), v)
    ), ("M21",), ("M10",)),
    Planted("log-probabilities rounded to 8 bits twice", "log_softmax", by_call(
        lambda right, x, axis=-1, where=None: x - jaxsoftmax.logsumexp(x, axis, keepdims=True)
    ), ("M4-low",), dtypes=("bfloat16",)),
    Planted("an axis other than the last taken for the last", "log_softmax", by_call(
        lambda right, x, axis=-1, where=None: right(x, -1, where)
    ), ("M10",)),
    Planted("mask ignored", "log_softmax", by_call(lambda right, x, axis=-1, where=None: right(x, axis)), ("M10",)),
    Planted("value wrong from 65536 classes", "log_softmax", by_call(
        lambda right, x, axis=-1, where=None: right(x, axis, where) * (2 if x.shape[-1] >= 65536 else 1)
    ), ("M10",)),
)  # fmt: skip

CONTROLS = (
    Planted("right in both modes", "softmax", by_tangent(lambda right, *_: right), (), ("M5", "M21")),
    Planted("right in both modes", "log_softmax", by_tangent(lambda right, *_: right), (), ("M10", "M21")),
)
