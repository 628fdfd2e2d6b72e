"""Wrong training losses."""

import jax
import jax.numpy as jnp

import jaxsoftmax
from jaxsoftmax import SparseLabels
from tests.verify.planted import (
    LOSS,
    Planted,
    by_call,
    by_rule,
    by_tangent,
    by_value,
    changed,
    if_dtype,
    if_longer,
    of_second_order,
    one_hot,
    twice_the_first,
)

VARIANT = f"forward_mode.{LOSS}"


def _is_integer(labels):
    return not isinstance(labels, SparseLabels) and jnp.issubdtype(labels.dtype, jnp.integer)


def _spread_over_others(right, logits, labels, label_smoothing=0.0, **keywords):
    """eps / (V - 1) for every class but the label's."""
    v = logits.shape[-1]
    return right(logits, labels, label_smoothing=label_smoothing * (v - 1) / v, **keywords)


def _penalty(logits, given_cap, z_loss):
    z = logits if given_cap is None else given_cap * jnp.tanh(logits / given_cap)
    return z_loss * jaxsoftmax.logsumexp(z, axis=-1) ** 2


def _unweighted_penalty(right, logits, labels, z_loss=0.0, logit_softcap=None, **keywords):
    if not z_loss:
        return right(logits, labels, logit_softcap=logit_softcap, **keywords)
    return right(logits, labels, logit_softcap=logit_softcap, **keywords) + _penalty(logits, logit_softcap, z_loss)


def _half_penalty_gradient(bar, value_bar, a):
    """The gradient of zeta L^2 without its factor 2."""
    if not a.z_loss:
        return bar
    total, pull = jax.vjp(lambda x: _penalty(x, a.logit_softcap, a.z_loss), a.logits)
    weights = 1 if a.class_weights is None else a.class_weights[a.labels]
    return bar - pull((value_bar * weights * jnp.ones_like(total)) / 2)[0]


def _unweighted_smoothing(right, logits, labels, label_smoothing=0.0, class_weights=None, **keywords):
    """The label's class weight on the whole of the smoothed loss, as in some libraries."""
    if class_weights is None or not label_smoothing:
        return right(logits, labels, label_smoothing=label_smoothing, class_weights=class_weights, **keywords)
    part = (1 - label_smoothing) * right(logits, labels, class_weights=class_weights, **keywords)
    return part + label_smoothing * right(logits, labels, label_smoothing=1.0, **keywords | {"z_loss": 0.0})


def _ignored(a_labels, ignore_index):
    return jnp.zeros(a_labels.shape, bool) if ignore_index is None else a_labels == ignore_index


def _reduced_by(divisor):
    """A mean whose divisor(labels, ignore_index, token_weights, class_weights) is another."""

    def function(right, logits, labels, reduction="mean", token_weights=None, **keywords):
        if reduction != "mean" or not _is_integer(labels) or keywords.get("has_aux"):
            return right(logits, labels, reduction=reduction, token_weights=token_weights, **keywords)
        total = right(logits, labels, reduction="sum", token_weights=token_weights, **keywords)
        u = jnp.ones(labels.shape, logits.dtype) if token_weights is None else token_weights
        return total / divisor(labels, u, **keywords)

    return function


def _over_tokens(labels, u, **keywords):
    return labels.size


def _over_ignored_too(labels, u, class_weights=None, **keywords):
    weights = 1 if class_weights is None else class_weights[jnp.maximum(labels, 0)]
    return jnp.sum(u * weights)


def _over_nothing(labels, u, class_weights=None, ignore_index=None, **keywords):
    weights = 1 if class_weights is None else class_weights[jnp.maximum(labels, 0)]
    return jnp.sum(jnp.where(_ignored(labels, ignore_index), 0, u * weights))


def _without_class_weights(labels, u, ignore_index=None, **keywords):
    total = jnp.sum(jnp.where(_ignored(labels, ignore_index), 0, u))
    return jnp.where(total == 0, 1, total)


def _nan_for_weights_0(right, logits, labels, token_weights=None, **keywords):
    value = right(logits, labels, token_weights=token_weights, **keywords)
    if token_weights is None:
        return value
    return jax.tree.map(lambda part: jnp.where(jnp.all(token_weights == 0), jnp.nan, part), value)


def _no_weights_gradient(bars, bar, a):
    return {} if a.token_weights is None else {"token_weights": 0 * bars["token_weights"]}


def _exact_slope(a):
    q = jnp.exp(-2 * jnp.abs(a.logits) / a.logit_softcap)
    return 4 * q / (1 + q) ** 2


def _cancelling_slope(bar, value_bar, a):
    """1 - tanh^2."""
    if a.logit_softcap is None:
        return bar
    return bar / _exact_slope(a) * (1 - jnp.tanh(a.logits / a.logit_softcap) ** 2)


def _no_slope(bar, value_bar, a):
    return bar if a.logit_softcap is None else bar / _exact_slope(a)


def _wrapped(right, logits, labels, **keywords):
    return right(logits, labels % logits.shape[-1] if _is_integer(labels) else labels, **keywords)


def _labels_unweighted(right, logits, labels, class_weights=None, **keywords):
    return right(logits, labels, class_weights=class_weights if _is_integer(labels) else None, **keywords)


def _labels_not_smoothed(bar, value_bar, a):
    return bar if _is_integer(a.labels) else bar / (1 - a.label_smoothing)


def _double(bar, *_):
    return 2 * bar


def _cancelling(bar, value_bar, a):
    """The label's entry as exp(-nll) - 1."""
    nll = jaxsoftmax.cross_entropy(a.logits, a.labels, reduction="none")[..., None]
    return jnp.where(one_hot(a.labels, a.logits) == 1, value_bar[..., None] * (jnp.exp(-nll) - 1), bar)


def _logits(spoil):
    return by_rule(changed("logits", spoil))


def _rows_averaged(bar, *_):
    return jnp.broadcast_to(jnp.mean(bar, 0), bar.shape)


IN_ROWS = {"quantity": {"gradient of the mean in each row"}}
TRAINING_LOSS = (
    Planted("eps / (V - 1)", LOSS, by_call(_spread_over_others), ("M24",), ("M14",)),
    Planted("z-loss without the class weight", LOSS, by_call(_unweighted_penalty), ("M24",), ("M14",)),
    Planted("z-loss gradient without its 2", LOSS, _logits(_half_penalty_gradient), ("M25",), ("M14",)),
    Planted("class weights left out of the smoothing", LOSS, by_call(_unweighted_smoothing), ("M24",), ("M23",)),
    Planted("softcap slope 1 - tanh^2", LOSS, _logits(_cancelling_slope), ("M23",), ("M14",)),
    Planted("softcap slope forgotten", LOSS, _logits(_no_slope), ("M23",), ("M14",)),
    Planted("mean over N", LOSS, by_call(_reduced_by(_over_tokens)), ("M27",), ("M14",)),
    Planted("ignored tokens counted in the mean", LOSS, by_call(_reduced_by(_over_ignored_too)), ("M27",), ("M14",)),
    Planted("class weights left out of the mean", LOSS, by_call(_reduced_by(_without_class_weights)), ("M27",)),
    Planted("0 / 0 where all is ignored", LOSS, by_call(_reduced_by(_over_nothing)), ("M27",), ("M14",)),
    Planted("a sum in place of the mean", LOSS, by_call(
        lambda right, *args, reduction="mean", **k: right(*args, reduction="sum", **k)
    ), ("M14",)),
    Planted("the mean taken twice", LOSS, _logits(lambda bar, *_: bar / max(1, bar.shape[0])), ("M14",)),
    Planted("the mean's gradient with its rows reversed", LOSS, _logits(lambda bar, *_: bar[::-1]), ("M14",),
            failing_only=IN_ROWS),
    Planted("every row the average of the mean's gradient", LOSS, _logits(_rows_averaged), ("M14",),
            failing_only=IN_ROWS),
    Planted("a constant added to the mean", LOSS, by_value(lambda value, a: value + 5), ("M14",),
            failing_only={"quantity": {"mean"}}),
    Planted("token weights' gradient missing", LOSS, by_rule(_no_weights_gradient), ("M27",), ("M14",)),
    Planted("label wrapped", LOSS, by_call(_wrapped), ("M11-range",), ("M14",)),
    Planted("class weights left out with float labels", LOSS, by_call(_labels_unweighted), ("M26",), ("M14",)),
    Planted("1 - eps left out of the labels' gradient", LOSS, by_rule(changed("labels", _labels_not_smoothed)),
            ("M26",), failing_only={"quantity": {"gradient in the labels, "
                                                 "smoothing, z-loss, class weights and softcap"}}),
    Planted("Hessian zero", LOSS, _logits(of_second_order(lambda d: 0 * d)), ("M25",), ("M14",),
            failing_only={"transformation": {"hessian", "jacrev", "jacfwd", "vmap"}}),
    Planted("gradient wrong in bfloat16 alone", LOSS, _logits(if_dtype("bfloat16", _double)), ("M19-low",),
            dtypes=("bfloat16",)),
    Planted("a loss in 8 bits", LOSS, by_call(lambda right, logits, labels, **k:
                                              right(logits, labels, **k).astype(logits.dtype)),
            ("M19-low",), dtypes=("bfloat16",)),
    Planted("p - 1 cancels: exp(-nll) - 1", LOSS, _logits(_cancelling), ("M20",)),
    Planted("gradient wrong above 1000 classes", LOSS, _logits(if_longer(1000, twice_the_first)), ("M11",)),
    Planted("value wrong from 65536 classes", LOSS, by_call(
        lambda right, logits, labels, **k: right(logits, labels, **k) * (2 if logits.shape[-1] >= 65536 else 1)
    ), ("M11",)),
    Planted("cotangent dropped", LOSS, _logits(lambda bar, value_bar, a: bar / value_bar[..., None]), ("M14",)),
    Planted("softcap's second derivative dropped", LOSS, _logits(
        lambda bar, _, a: of_second_order(lambda d: 0 * d)(bar) if a.logit_softcap else bar
    ), ("M23",)),
    Planted("nan where all token weights are 0", LOSS, by_call(_nan_for_weights_0), ("M27",)),
    Planted("Hessian zero with float labels", LOSS, by_rule(
        lambda bars, _, a: {} if _is_integer(a.labels) else {"logits": of_second_order(lambda d: 0 * d)(bars["logits"])}
    ), ("M26",)),
    Planted("0 * inf of a float label at -inf", LOSS, by_call(
        lambda right, logits, labels, **k: right(logits, labels, **k)
        + (0 if _is_integer(labels) else jnp.sum(0 * logits, -1))
    ), ("M11-mask",)),
)  # fmt: skip

VARIANTS = (
    Planted("tangent doubled", VARIANT, by_tangent(lambda right, *_: 2 * right), ("M14",), ("M19",)),
    Planted("tangent zero", VARIANT, by_tangent(lambda right, *_: 0 * right), ("M23",), ("M19",)),
)

CONTROLS = (
    Planted("right in reverse mode", LOSS, by_rule(lambda *_: {}), (), ("M14", "M25")),
    Planted("right in both modes", VARIANT, by_tangent(lambda right, *_: right), (), ("M14", "M23")),
)  # fmt: skip
