"""Wrong log-sum-exps."""

import jax.numpy as jnp

import jaxsoftmax
from tests.verify.planted import (
    Planted,
    by_call,
    by_rule,
    by_tangent,
    by_value,
    changed,
    if_dtype,
    if_longer,
    of_second_order,
    twice_the_first,
)

VARIANT = "forward_mode.logsumexp"


def _double(bar, *_):
    return 2 * bar


def _absorbed(right, a):
    """m + log(1 + r): only where nothing but the plain sum is asked for."""
    if a.b is not None:
        return right
    m = jnp.max(a.a, a.axis, keepdims=True)
    m = jnp.where(jnp.isneginf(m), 0, m)
    return jnp.squeeze(m + jnp.log(jnp.sum(jnp.exp(a.a - m), a.axis, keepdims=True)), a.axis)


def _maxima_left_out(right, a):
    """All the maxima left out of r, not one."""
    if a.b is not None:
        return right
    m = jnp.max(a.a, -1, keepdims=True)
    r = jnp.sum(jnp.where(a.a == m, 0, jnp.exp(a.a - m)), -1)
    return jnp.where(jnp.isneginf(right), right, m[..., 0] + jnp.log1p(r))


def _low_precision(right, a, axis=None, **keywords):
    m = jnp.max(a, axis, keepdims=True)
    sums = jnp.cumsum(jnp.exp(a - m), axis, dtype=a.dtype)[..., -1]
    return m[..., 0] + jnp.log(sums)


def _nan_when_empty(bar, value_bar, a):
    return jnp.where(jnp.all(jnp.isneginf(a.a), -1, keepdims=True), jnp.nan, bar)


def _unweighted(bar, value_bar, a):
    return bar if a.b is None else value_bar[0][..., None] * jaxsoftmax.softmax(a.a)


def _only_last_axis(right, a, axis=None, **keywords):
    return right(a, axis=axis, **keywords) if isinstance(axis, int) else jnp.sum(right(a, axis=-1), -1)


def _cotangent_dropped(bar, value_bar, a):
    return bar if a.b is not None else bar / value_bar[..., None]


def _in_float32(right, a):
    return jnp.float32(right).astype(a.a.dtype) if a.b is None else right


def _long_tail_dropped(right, a):
    """Over 65536 classes and more, a confident row's value is its maximum."""
    if a.b is not None or a.a.shape[-1] < 65536:
        return right
    m = jnp.max(a.a, -1)
    return jnp.where(right - m < 0.1, m, right)


def _sign_lost(right, a, **keywords):
    value = right(a, **keywords)
    return (value[0], jnp.abs(value[1])) if isinstance(value, tuple) else value


LOG_SUM_EXP = (
    Planted("cotangent zero", "logsumexp", by_rule(changed("a", lambda bar, *_: 0 * bar)), ("M8",)),
    Planted("cotangent doubled", "logsumexp", by_rule(changed("a", _double)), ("M8",)),
    Planted(
        "cotangent dropped", "logsumexp", by_rule(changed("a", _cotangent_dropped)), ("M8",), ("M8-empty",),
    ),
    Planted("gradient divided by V", "logsumexp", by_rule(changed("a", lambda bar, *_: bar / bar.shape[-1])), ("M8",)),
    Planted("weights left out of the gradient", "logsumexp", by_rule(changed("a", _unweighted)), ("M8",)),
    Planted(
        "gradient in the weights 0 at a weight 0",
        "logsumexp",
        by_rule(lambda bars, _, a: {} if a.b is None else {"b": jnp.where(a.b == 0, 0, bars["b"])}),
        ("M8-empty",),
        ("M18",),
    ),
    Planted(
        "no gradient in the weights",
        "logsumexp",
        by_rule(lambda bars, _, a: {} if a.b is None else {"b": 0 * bars["b"]}),
        ("M8", "M8-empty"),
    ),
    Planted("nan gradient over -inf alone", "logsumexp", by_rule(changed("a", _nan_when_empty)), ("M8-empty",),
            ("M22",)),
    Planted("Hessian zero", "logsumexp", by_rule(changed("a", of_second_order(lambda d: 0 * d))), ("M9",),
            ("M8-empty",)),
    Planted("Hessian of the wrong sign", "logsumexp", by_rule(changed("a", of_second_order(lambda d: -d))), ("M9",)),
    Planted("log(1 + r): the tail absorbed", "logsumexp", by_value(_absorbed), ("M18",), ("M9",)),
    Planted("every maximum left out of r", "logsumexp", by_value(_maxima_left_out), ("M18",)),
    Planted(
        "value wrong from 65536 classes",
        "logsumexp",
        by_value(lambda right, a: 2 * right if a.a.shape[-1] >= 65536 else right),
        ("M18",),
        failing_only={"regime": {"long, V = 69632", "[0] + [-17] * 69631"}},
    ),
    Planted("gradient wrong above 1000 classes", "logsumexp",
            by_rule(changed("a", if_longer(1000, twice_the_first))), ("M8",),
            failing_only={"regime": {"long, V = 69632", "ragged, V = 2053"}}),
    Planted("only the last of two axes", "logsumexp", by_call(_only_last_axis), ("M22",)),
    Planted("float64 formed in float32", "logsumexp", by_value(_in_float32), ("M18",), dtypes=("float32", "float64"),
            failing_only={"dtype": {"float64"}}),
    Planted("sums in 8 bits, which stick at 256", "logsumexp", by_call(_low_precision), ("M8-low",),
            dtypes=("bfloat16",)),
    Planted(
        "gradient wrong in float16 alone", "logsumexp", by_rule(changed("a", if_dtype("float16", _double))),
        ("M8-low",), dtypes=("bfloat16", "float16"), failing_only={"dtype": {"float16"}},
    ),
    Planted("tail of a long confident row dropped", "logsumexp", by_value(_long_tail_dropped), ("M18",)),
    Planted("sign of the sum lost", "logsumexp", by_call(_sign_lost), ("M18",)),
    Planted("mask ignored", "logsumexp", by_call(lambda right, a, where=None, **k: right(a, **k)), ("M18",)),
    Planted("weighted Hessian zero", "logsumexp", by_rule(
        lambda bars, _, a: {} if a.b is None else {"a": of_second_order(lambda d: 0 * d)(bars["a"])}
    ), ("M9",), quick=False),
)  # fmt: skip

VARIANTS = (
    Planted("tangent zero", VARIANT, by_tangent(lambda right, *_: 0 * right), ("M8",)),
    Planted("tangent doubled", VARIANT, by_tangent(lambda right, *_: 2 * right), ("M8",)),
    Planted("the plain sum of the tangent", VARIANT, by_tangent(lambda right, v, a: jnp.sum(v, -1)), ("M9",)),
)

CONTROLS = (
    Planted("right in reverse mode", "logsumexp", by_rule(lambda *_: {}), (), ("M8", "M9")),
    Planted("right by value", "logsumexp", by_value(lambda right, _: right), (), ("M18",)),
    Planted("right in both modes", VARIANT, by_tangent(lambda right, *_: right), (), ("M8-empty", "M9")),
)
