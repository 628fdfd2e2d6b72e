"""Wrong cross-entropies of one token."""

import jax
import jax.numpy as jnp

import jaxsoftmax
from tests.verify.planted import (
    FLOAT,
    INTEGER,
    Planted,
    by_call,
    by_rule,
    by_tangent,
    by_value,
    changed,
    doubled_under_vmap,
    if_dtype,
    if_longer,
    of_second_order,
    one_hot,
    twice_the_first,
)


def _double(bar, *_):
    return 2 * bar


def _probs_alone(bar, value_bar, a):
    return bar + value_bar[..., None] * one_hot(a.labels, a.logits)


def _cancelling(bar, value_bar, a):
    """The label's entry as exp(-nll) - 1."""
    nll = jaxsoftmax.softmax_cross_entropy_with_integer_labels(a.logits, a.labels)[..., None]
    return jnp.where(one_hot(a.labels, a.logits) == 1, value_bar[..., None] * (jnp.exp(-nll) - 1), bar)


def _cancelling_targets(bar, value_bar, a):
    return value_bar[..., None] * (jaxsoftmax.softmax(a.logits) * jnp.sum(a.labels, -1, keepdims=True) - a.labels)


def _without_sum(bar, value_bar, a):
    return value_bar[..., None] * (jaxsoftmax.softmax(a.logits) - a.labels)


def _first_of_ties(bar, value_bar, a):
    """The targets taken for one-hot at their argmax."""
    total = jnp.sum(a.labels, -1, keepdims=True)
    return value_bar[..., None] * total * (jaxsoftmax.softmax(a.logits) - one_hot(jnp.argmax(a.labels, -1), a.logits))


def _hessian_without_sum(bar, value_bar, a):
    return of_second_order(lambda d: d / jnp.sum(a.labels, -1, keepdims=True))(bar)


def _lse_minus_logit(right, a):
    lse = jaxsoftmax.logsumexp(a.logits, axis=-1)
    return lse - jnp.take_along_axis(a.logits, a.labels[..., None], -1)[..., 0]


def _lse_minus_logits(right, a):
    lse = jaxsoftmax.logsumexp(a.logits, axis=-1)
    return jnp.sum(jnp.where(a.labels == 0, 0, a.labels * (lse[..., None] - a.logits)), -1)


def _zero_times_infinity(right, a):
    return -jnp.sum(a.labels * jaxsoftmax.log_softmax(a.logits), -1)


def _wrapped(right, logits, labels, **keywords):
    return right(logits, jnp.where(labels < 0, labels + logits.shape[-1], labels), **keywords)


def _clipped(right, logits, labels, **keywords):
    return right(logits, jnp.minimum(labels, logits.shape[-1] - 1), **keywords)


def _neighbours_poisoned(right, a):
    return right + 0 * jnp.sum(right)


def _finite_gradient(bar, value_bar, a):
    """The loss of a label out of range is nan, its gradient isn't."""
    return jnp.where(jnp.isnan(bar), value_bar[..., None] * jaxsoftmax.softmax(a.logits), bar)


def _rounded_loss(right, logits, labels, **keywords):
    return right(logits, labels, **keywords).astype(logits.dtype)


def _low_precision_rule(bar, value_bar, a):
    """p and p - 1 in 8 bits."""
    probs = jaxsoftmax.softmax(a.logits)
    return value_bar[..., None].astype(probs.dtype) * (probs - one_hot(a.labels, a.logits))


def _wrong_when_traced(right, logits, labels, **keywords):
    value = right(logits, labels, **keywords)
    return 2 * value if isinstance(logits, jax.core.Tracer) else value


def _wrong_by_itself(right, logits, labels, **keywords):
    """Wrong for a row by itself, neither in a batch nor under vmap."""
    scale = jax.custom_batching.custom_vmap(lambda value: 2 * value)
    scale.def_vmap(lambda size, batched, value: (value, True))
    value = right(logits, labels, **keywords)
    return value if value.ndim else scale(value)


def _labels(spoil):
    return by_rule(changed("labels", spoil))


def _logits(spoil):
    return by_rule(changed("logits", spoil))


INTEGER_LABELS = (
    Planted("label gradient p in place of p - 1", INTEGER, _logits(_probs_alone), ("M11",), ("M19",)),
    Planted("p - 1 cancels: exp(-nll) - 1", INTEGER, _logits(_cancelling), ("M20",), ("M14",)),
    Planted("lse - x_y", INTEGER, by_value(_lse_minus_logit), ("M19",), ("M14",)),
    Planted("label -1 wrapped to the last class", INTEGER, by_call(_wrapped), ("M11-range",)),
    Planted("label >= V clipped", INTEGER, by_call(_clipped), ("M11-range",)),
    Planted("finite gradient for a label out of range", INTEGER, _logits(_finite_gradient), ("M11-range",)),
    Planted("neighbours of a label out of range poisoned", INTEGER, by_value(_neighbours_poisoned), ("M11-range",),
            ("M19",)),
    Planted("cotangent dropped", INTEGER, _logits(lambda bar, value_bar, a: bar / value_bar[..., None]),
            ("M14", "M16")),
    Planted("cotangent doubled", INTEGER, _logits(_double), ("M14",)),
    Planted("gradient of the wrong sign", INTEGER, _logits(lambda bar, *_: -bar), ("M20",), ("M19",)),
    Planted("gradient wrong above 1000 classes", INTEGER, _logits(if_longer(1000, twice_the_first)), ("M11",),
            failing_only={"regime": {"ragged, V = 2053", "long, V = 69632"}}),
    Planted("gradient wrong from 65536 classes", INTEGER, _logits(if_longer(65535, twice_the_first)), ("M11",),
            failing_only={"regime": {"long, V = 69632"}}),
    Planted("gradient wrong under vmap alone", INTEGER, _logits(lambda bar, *_: doubled_under_vmap(bar)),
            ("M11-range",), failing_only={"transformation": {"vmap", "jacrev"}}),
    Planted("value wrong for a row by itself", INTEGER, by_call(_wrong_by_itself), ("M19",), quick=False,
            failing_only={"transformation": {"eager", "scan"}}),
    Planted("value wrong when traced", INTEGER, by_call(_wrong_when_traced), ("M19",), quick=False,
            failing_only={"transformation": {"jit", "vmap", "scan", "checkpoint"}}),
    Planted("gradient wrong in bfloat16 alone", INTEGER, _logits(if_dtype("bfloat16", _double)), ("M19-low",),
            dtypes=("bfloat16", "float16"), failing_only={"dtype": {"bfloat16"}}),
    Planted("gradient wrong in float16 alone", INTEGER, _logits(if_dtype("float16", _double)), ("M19-low",),
            dtypes=("bfloat16", "float16"), failing_only={"dtype": {"float16"}}),
    Planted("gradient wrong in float64 alone", INTEGER, _logits(if_dtype("float64", _double)), ("M20",),
            dtypes=("float32", "float64"), failing_only={"dtype": {"float64"}}),
    Planted("p - 1 formed in 8 bits", INTEGER, _logits(_low_precision_rule), ("M19-low",), dtypes=("bfloat16",)),
    Planted("a loss in 8 bits", INTEGER, by_call(_rounded_loss), ("M19-low",), dtypes=("bfloat16",)),
    Planted("Hessian zero", INTEGER, _logits(of_second_order(lambda d: 0 * d)), ("M15",), ("M14",)),
    Planted("an axis other than the last taken for the last", INTEGER, by_call(
        lambda right, logits, labels, axis=-1, **k: right(logits, labels, **k) if axis == -1 else 0.0 * labels
    ), ("M11",)),
    Planted("nan gradient for a row of -inf alone", INTEGER, _logits(
        lambda bar, _, a: jnp.where(jnp.all(jnp.isneginf(a.logits), -1, keepdims=True), jnp.nan, bar)
    ), ("M11-mask",)),
)  # fmt: skip

FLOAT_LABELS = (
    Planted("s - t with unnormalised targets", FLOAT, _logits(_without_sum), ("M11",), ("M12",)),
    Planted("target gradient zero", FLOAT, _labels(lambda bar, *_: 0 * bar), ("M12",), ("M19",)),
    Planted("target gradient of the wrong sign", FLOAT, _labels(lambda bar, *_: -bar), ("M12",)),
    Planted("targets normalised", FLOAT, by_call(
        lambda right, logits, labels, **k: right(logits, labels / jnp.sum(labels, -1, keepdims=True), **k)
    ), ("M11",), ("M19",)),
    Planted("targets taken for one-hot at their argmax", FLOAT, _logits(_first_of_ties), ("M11",), ("M19",)),
    Planted("0 * inf of a one-hot target", FLOAT, by_value(_zero_times_infinity), ("M11-mask",), ("M12",)),
    Planted("lse - x", FLOAT, by_value(_lse_minus_logits), ("M19",), ("M12",)),
    Planted("s sum(t) - t cancels", FLOAT, _logits(_cancelling_targets), ("M20",), ("M12",)),
    Planted("Hessian without sum(t)", FLOAT, _logits(_hessian_without_sum), ("M15",), ("M12",)),
    Planted("gradient the mean over classes", FLOAT, _logits(lambda bar, *_: bar / bar.shape[-1]), ("M11",)),
    Planted("cotangent dropped", FLOAT, _logits(lambda bar, value_bar, a: bar / value_bar[..., None]), ("M11",)),
    Planted("cotangent of the targets dropped", FLOAT,
            _labels(lambda bar, value_bar, a: bar / value_bar[..., None]), ("M12",)),
    Planted("gradient wrong above 1000 classes", FLOAT, _logits(if_longer(1000, twice_the_first)), ("M11",)),
    Planted("target gradient constant in the logits", FLOAT, _labels(of_second_order(lambda d: 0 * d)), ("M12",)),
    Planted("mask ignored", FLOAT, by_call(lambda right, logits, labels, where=None, **k: right(logits, labels, **k)),
            ("M11-mask",)),
)  # fmt: skip

VARIANTS = (
    Planted("tangent zero", f"forward_mode.{INTEGER}", by_tangent(lambda right, *_: 0 * right), ("M20",), ("M19",)),
    Planted("tangent doubled", f"forward_mode.{FLOAT}", by_tangent(lambda right, *_: 2 * right), ("M12",), ("M19",)),
    Planted("tangent without <s, v>", f"forward_mode.{INTEGER}", by_tangent(
        lambda right, v, a: -jnp.sum(v * one_hot(a.labels, v), -1)
    ), ("M14",), ("M19",)),
)  # fmt: skip

CONTROLS = (
    Planted("right in reverse mode", INTEGER, by_rule(lambda *_: {}), (), ("M14", "M15", "M20")),
    Planted("right by value", INTEGER, by_value(lambda right, _: right), (), ("M11-range", "M19")),
    Planted("right in low precision", INTEGER, by_rule(lambda *_: {}), (), ("M19-low",), dtypes=("bfloat16",)),
    Planted("right in reverse mode", FLOAT, by_rule(lambda *_: {}), (), ("M11", "M15")),
    Planted("right in both modes", f"forward_mode.{FLOAT}", by_tangent(lambda right, *_: right), (), ("M12",)),
)
