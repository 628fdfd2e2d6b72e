"""Functions that take a keyword and do nothing with it, or not in each kind of call; and wrong second derivatives."""

import jax
import jax.numpy as jnp

from jaxsoftmax import SparseLabels
from tests.verify.planted import LOSS, Planted, by_call, by_rule, changed, of_second_order

HEAD, MESH_HEAD = "linear_cross_entropy", "sharded_linear_cross_entropy"
STATS, LINEAR_STATS = "token_stats", "linear_token_stats"
DISTILLATION, LINEAR_DISTILLATION = "distillation", "linear_distillation"
OF_LOSS, OF_HEAD, OF_TOKENS = ("M27-keywords",), ("M27-head-keywords",), ("M32-keywords",)


def _dropping(*dropped, where=lambda *arguments, **keywords: True):
    """A function that leaves keywords out, wherever where(arguments, keywords) says so."""

    def function(right, *arguments, **keywords):
        if where(*arguments, **keywords):
            keywords = {name: value for name, value in keywords.items() if name not in dropped}
        return right(*arguments, **keywords)

    return by_call(function)


def _if_labels(kind):
    """Where labels are "integer", "float" or "sparse"."""

    def where(*arguments, **_):
        labels = arguments[-1]
        if isinstance(labels, SparseLabels):
            return kind == "sparse"
        return kind == ("integer" if jnp.issubdtype(labels.dtype, jnp.integer) else "float")

    return where


def _if_reduction(wanted):
    return lambda *arguments, reduction="mean", **_: reduction == wanted


def _if_false(*arguments, ignore_index=None, **_):
    return not ignore_index


def _if_negative(*arguments, ignore_index=None, **_):
    return ignore_index is not None and ignore_index < 0


def _if_alone(*arguments, **keywords):
    return len(keywords) == 1


def _by_cotangent(right, value_bar, _):
    bar = value_bar[0] if isinstance(value_bar, tuple) else value_bar
    return right if bar.ndim else right / jnp.where(bar == 0, 1, bar)


def _over_all_tokens(right, *arguments, reduction="mean", has_aux=False, **keywords):
    if reduction != "mean":
        return right(*arguments, reduction=reduction, has_aux=has_aux, **keywords)
    total = right(*arguments, reduction="sum", has_aux=has_aux, **keywords)
    n = arguments[0].shape[0]
    return (total[0] / n, total[1]) if has_aux else total / n


def _nothing(right, *arguments, **keywords):
    return jax.tree.map(jnp.zeros_like, right(*arguments, **keywords))


def _unweighted_correct(right, *arguments, has_aux=False, **keywords):
    if not has_aux:
        return right(*arguments, **keywords)
    loss, parts = right(*arguments, has_aux=True, **keywords)
    plain = {name: value for name, value in keywords.items() if name != "token_weights"}
    return loss, parts._replace(correct=right(*arguments, has_aux=True, **plain)[1].correct)


def _label_weights_constant(right, logits, labels, **keywords):
    if isinstance(labels, SparseLabels):
        labels = SparseLabels(labels.indices, jax.lax.stop_gradient(labels.weights))
    return right(logits, labels, **keywords)


def _normalised(right, logits, labels, **keywords):
    if not isinstance(labels, SparseLabels) and jnp.issubdtype(labels.dtype, jnp.floating):
        labels = labels / jnp.sum(labels, -1, keepdims=True)
    return right(logits, labels, **keywords)


def _doubled_with(keyword):
    def function(right, *arguments, **keywords):
        scale = 2 if keyword in keywords else 1
        return jax.tree.map(lambda part: scale * part, right(*arguments, **keywords))

    return by_call(function)


def _swapped_beta(right, *arguments, beta=0.5, **keywords):
    return right(*arguments, beta=1 - beta, **keywords)


def _last_chunk_dropped(right, hidden, kernel, labels, chunk_size=None, **keywords):
    if chunk_size is None or labels.shape[0] % chunk_size == 0 or keywords.get("reduction") == "none":
        return right(hidden, kernel, labels, **keywords)
    kept = labels.shape[0] // chunk_size * chunk_size
    keywords = {k: v[:kept] if k == "token_weights" and v is not None else v for k, v in keywords.items()}
    return right(hidden[:kept], kernel, labels[:kept], **keywords)


def _flat(derivative):
    return by_rule(changed(derivative, of_second_order(lambda dot: 0 * dot)))


def _deaf(function, caught_by, *keywords):
    """A function that takes keywords, all of which do nothing."""
    return Planted(f"no {', '.join(keywords)}", function, _dropping(*keywords), caught_by, dropped=keywords)


_OF_LOSS = ("token_weights", "ignore_index", "label_smoothing", "z_loss", "logit_softcap", "class_weights")
_OF_MESH = ("token_weights", "ignore_index", "label_smoothing", "class_weights")
_OF_DIVERGENCE = ("divergence", "temperature", "token_weights")
_SETTINGS = ("dtype", "precision", "memory_budget")

DROPPED = (
    _deaf(LOSS, OF_LOSS, *_OF_LOSS),
    _deaf(HEAD, OF_HEAD, *_OF_LOSS, "bias"),
    _deaf(MESH_HEAD, ("M27-mesh-keywords",), *_OF_MESH),
    _deaf(STATS, OF_TOKENS, "temperature", "logit_softcap", "ignore_index"),
    _deaf(LINEAR_STATS, OF_TOKENS, "temperature", "logit_softcap", "ignore_index", "bias"),
    _deaf(DISTILLATION, OF_TOKENS, *_OF_DIVERGENCE),
    _deaf(DISTILLATION, OF_TOKENS, "beta"),  # apart: it is judged with a divergence that uses it
    _deaf(LINEAR_DISTILLATION, OF_TOKENS, *_OF_DIVERGENCE, "bias", "teacher_bias"),
    _deaf(LINEAR_DISTILLATION, OF_TOKENS, "beta"),
)

IN_ONE_KIND_OF_CALL = (
    Planted("always 0", HEAD, by_call(_nothing), OF_HEAD),
    Planted("a mean over all tokens", LOSS, by_call(_over_all_tokens), OF_LOSS),
    Planted("a mean over all tokens", HEAD, by_call(_over_all_tokens), OF_HEAD),
    Planted("an ignore_index of 0 is none", LOSS, _dropping("ignore_index", where=_if_false), OF_LOSS),
    Planted("a negative ignore_index is none", HEAD, _dropping("ignore_index", where=_if_negative), OF_HEAD),
    Planted(
        "smoothing with integer labels alone", LOSS, _dropping("label_smoothing", where=_if_labels("float")), OF_LOSS
    ),
    Planted(
        "smoothing with float labels alone", LOSS, _dropping("label_smoothing", where=_if_labels("integer")), OF_LOSS
    ),
    Planted("no z-loss with sparse labels", LOSS, _dropping("z_loss", where=_if_labels("sparse")), OF_LOSS),
    Planted(
        "no class weights with sparse labels", LOSS, _dropping("class_weights", where=_if_labels("sparse")), OF_LOSS
    ),
    Planted("no token weights in a sum", LOSS, _dropping("token_weights", where=_if_reduction("sum")), OF_LOSS),
    Planted("no token weights where unreduced", HEAD, _dropping("token_weights", where=_if_reduction("none")), OF_HEAD),
    Planted("no smoothing in a mean", HEAD, _dropping("label_smoothing", where=_if_reduction("mean")), OF_HEAD),
    Planted("a soft cap that needs another keyword", LOSS, _dropping("logit_softcap", where=_if_alone), OF_LOSS),
    Planted("float labels normalised", LOSS, by_call(_normalised), OF_LOSS),
    Planted("no gradient in sparse labels' weights", LOSS, by_call(_label_weights_constant), OF_LOSS),
    Planted("right predictions unweighted", LOSS, by_call(_unweighted_correct), OF_LOSS),
    Planted("a ragged last chunk dropped", HEAD, by_call(_last_chunk_dropped), OF_HEAD),
    *(Planted(f"doubled with {name}", HEAD, _doubled_with(name), OF_HEAD) for name in _SETTINGS),
    Planted("doubled with memory_budget", LINEAR_DISTILLATION, _doubled_with("memory_budget"), OF_TOKENS),
    Planted("the cotangent dropped", HEAD, by_rule(changed("kernel", _by_cotangent)), OF_HEAD),
    Planted("the cotangent dropped", LOSS, by_rule(changed("logits", _by_cotangent)), OF_LOSS),
    Planted("beta for the student", DISTILLATION, by_call(_swapped_beta), OF_TOKENS),
)

SECOND_ORDER = (
    Planted("second derivative zero", "softmax", _flat("x"), ("M6-second",), ("M6",)),
    Planted("second derivative zero", "log_softmax", _flat("x"), ("M6-second",), ("M10",)),
    Planted("Hessian of a mean zero", LOSS, _flat("logits"), ("M15-mean",), ("M14",)),
    Planted("Hessian of a mean zero in the kernel", HEAD, _flat("kernel"), ("M15-mean",)),
    Planted("second derivative zero", DISTILLATION, _flat("logits"), ("M28-second",)),
    Planted("second derivative zero", LINEAR_DISTILLATION, _flat("kernel"), ("M28-second",)),
)

CONTROLS = (
    Planted("right, by keywords", HEAD, by_call(lambda right, *a, **k: right(*a, **k)), (), ("M16-head",)),
    Planted("right, by keywords", DISTILLATION, by_call(lambda right, *a, **k: right(*a, **k)), (), ("M29",)),
    Planted("right, by keywords", LOSS, by_call(lambda right, *a, **k: right(*a, **k)), (), (*OF_LOSS, "M15-mean")),
)
