"""Wrong fused heads: right ones of which one part of the value, of G or of a product with G is spoilt."""

import inspect

import jax
import jax.numpy as jnp
import optax

import jaxsoftmax
from tests.verify.planted import Planted, by_call, by_rule, by_tangent, changed, of_second_order

HEAD = "linear_cross_entropy"
VARIANT = f"forward_mode.{HEAD}"
BLOCK, IGNORED = 2048, -100
OF_THE_LOSS = set(inspect.signature(jaxsoftmax.cross_entropy).parameters) - {"logits", "labels"}
IN_BLOCKS = {"quantity": {"gradients in blocks"}}


def _gradient_in_logits(bar, a, z=None, **changes):
    """G, of all logits at once."""
    given = {name: value for name, value in vars(a).items() if name in OF_THE_LOSS} | changes
    z = _logits(a) if z is None else z
    (g,) = jax.vjp(lambda z: jaxsoftmax.cross_entropy(z, a.labels, **given), z)[1](bar)
    return g


def _logits(a):
    bias = jnp.zeros((), a.hidden.dtype) if a.bias is None else a.bias
    return jnp.matmul(a.hidden.astype(bias.dtype), a.kernel, preferred_element_type=jnp.float32) + bias


def _by_gradient(spoil):
    """A head of which G is spoil(cotangent, arguments)."""

    def rule(bars, bar, a):
        g = spoil(bar, a)
        return {"hidden": g @ a.kernel.T, "kernel": a.hidden.T @ g, "bias": jnp.sum(g, 0)}

    return by_rule(rule)


def _by_other_arguments(*names, **changes):
    """A head whose gradients in `names` are those with other arguments."""

    def rule(bars, bar, a):
        given = vars(a) | {name: value(a) for name, value in changes.items()}
        parts = {name: given.pop(name) for name in names}
        (bars,) = jax.vjp(lambda parts: jaxsoftmax.linear_cross_entropy(**parts, **given), parts)[1](bar)
        return bars

    return by_rule(rule)


def _in_place(name, product):
    """One cotangent as product(G, arguments)."""
    return by_rule(changed(name, lambda right, bar, a: product(right, _gradient_in_logits(bar, a), a)))


def _padded(right, hidden, kernel, labels, *, bias=None, class_weights=None, **keywords):
    """Classes added up to a multiple of 128, of logit 0."""
    missing = (0, -kernel.shape[1] % 128)
    weights = None if class_weights is None else jnp.pad(class_weights, missing)
    kernel, bias = jnp.pad(kernel, ((0, 0), missing)), None if bias is None else jnp.pad(bias, missing)
    return right(hidden, kernel, labels, bias=bias, class_weights=weights, **keywords)


def _ragged_chunk_dropped(right, hidden, kernel, labels, *, chunk_size=None, token_weights=None, **keywords):
    if chunk_size is None:
        return right(hidden, kernel, labels, token_weights=token_weights, **keywords)
    u = jnp.ones(labels.shape, hidden.dtype) if token_weights is None else token_weights
    u = jnp.where(jnp.arange(labels.size) < labels.size // chunk_size * chunk_size, u, 0)
    return right(hidden, kernel, labels, chunk_size=chunk_size, token_weights=u, **keywords)


def _labels_within_blocks(bar, a):
    """A block's own numbers for its classes, compared with labels that are numbers in the vocabulary."""
    g = _gradient_in_logits(bar, a)
    if g.shape[1] <= BLOCK:
        return g
    classes, u = jnp.arange(g.shape[1]), (bar * a.token_weights)[:, None]
    return g + u * ((a.labels[:, None] == classes) - 1.0 * (a.labels[:, None] == classes % BLOCK))


def _overlap_twice(right, *_):
    v = right.shape[-1]
    classes = jnp.arange(v)
    return jnp.where((v > BLOCK) & (classes >= v - BLOCK) & (classes < v // BLOCK * BLOCK), 2 * right, right)


def _last_block_dropped(right, g, a):
    whole = g.shape[1] // BLOCK * BLOCK or g.shape[1]
    return g[:, :whole] @ a.kernel[:, :whole].T


def _last_chunk_alone(right, g, a):
    first = (len(g) - 1) // a.chunk_size * a.chunk_size
    return a.hidden[first:].T @ g[first:]


def _sum_in_low_precision(right, g, a):
    terms = a.hidden[:, :, None] * g.astype(a.hidden.dtype)[:, None]
    return jax.lax.scan(lambda total, term: (total + term, None), jnp.zeros_like(a.kernel), terms)[0]


def _low_probs_less_one(bar, a):
    """p rounded to the kernel's dtype, and 1 subtracted there."""
    low = jax.nn.softmax(_logits(a)).astype(a.kernel.dtype)
    return bar.astype(low.dtype) * (low - jax.nn.one_hot(a.labels, low.shape[1], dtype=low.dtype))


def _capped_twice_never_sloped(bar, a):
    """The derivative in c tanh(z / c), taken for that in z."""
    cap = a.logit_softcap
    capped = _logits(a) if cap is None else cap * jnp.tanh(_logits(a) / cap)
    return _gradient_in_logits(bar, a, capped, logit_softcap=None)


def _mean_over(divisor):
    """A mean with another divisor(labels, token weights, w_y)."""

    def function(
        right, hidden, kernel, labels, *, reduction="mean", token_weights=None, class_weights=None, **keywords
    ):
        u = jnp.ones(labels.shape, hidden.dtype) if token_weights is None else token_weights
        w = 1.0 if class_weights is None else class_weights[jnp.maximum(labels, 0)]
        given = keywords | {"token_weights": token_weights, "class_weights": class_weights}
        if reduction != "mean":
            return right(hidden, kernel, labels, reduction=reduction, **given)
        return right(hidden, kernel, labels, reduction="sum", **given) / divisor(labels, u, w)

    return by_call(function)


def _right_divisor(labels, u, w):
    return jnp.sum(jnp.where(labels == IGNORED, 0, u * w))


def _spread_over_others(right, hidden, kernel, labels, label_smoothing=0.0, **keywords):
    v = kernel.shape[1]
    return right(hidden, kernel, labels, label_smoothing=label_smoothing * (v - 1) / v, **keywords)


def _wrapped(right, hidden, kernel, labels, ignore_index=None, **keywords):
    labels = jnp.where(labels == ignore_index, labels, labels % kernel.shape[1])
    return right(hidden, kernel, labels, ignore_index=ignore_index, **keywords)


def _in_the_order_of_chunks(right, hidden, kernel, labels, ignore_index=None, **keywords):
    value = right(hidden, kernel, labels, ignore_index=ignore_index, **keywords)
    return value[jnp.argsort(labels == ignore_index)] if value.ndim else value


def _by_optax(right, hidden, kernel, labels, *, bias=0, reduction="mean", token_weights=1.0, chunk_size=None):
    del right, chunk_size
    losses = token_weights * optax.softmax_cross_entropy_with_integer_labels(hidden @ kernel + bias, labels)
    return {"mean": jnp.mean, "sum": jnp.sum}[reduction](losses)


def _none(_):
    return None


def _ignored_as_class_0(a):
    return jnp.where(a.labels == IGNORED, 0, a.labels)


HEADS = (
    Planted("padded classes left in the log-sum-exp", HEAD, by_call(_padded), ("M16-head", "M24-head")),
    Planted("ragged last chunk dropped", HEAD, by_call(_ragged_chunk_dropped), ("M16-head", "M24-head")),
    Planted("labels compared with numbers in a block", HEAD, _by_gradient(_labels_within_blocks), ("M16-head",),
            failing_only=IN_BLOCKS),
    Planted("overlap of the last blocks twice in dW", HEAD, by_rule(changed("kernel", _overlap_twice)),
            ("M16-head",), failing_only=IN_BLOCKS),
    Planted("overlap of the last blocks twice in db", HEAD, by_rule(changed("bias", _overlap_twice)),
            ("M16-head",), failing_only=IN_BLOCKS),
    Planted("last block left out of dX", HEAD, _in_place("hidden", _last_block_dropped), ("M16-head",),
            failing_only=IN_BLOCKS),
    Planted("dW of the last chunk alone", HEAD, _in_place("kernel", _last_chunk_alone), ("M16-head",)),
    Planted("bias left out of G", HEAD, _by_gradient(lambda bar, a: _gradient_in_logits(bar, a, _logits(a) - a.bias)),
            ("M16-head",), ("M24-head",)),
    Planted("cotangent ignored", HEAD, _by_gradient(lambda bar, a: _gradient_in_logits(jnp.ones_like(bar), a)),
            ("M16-head",), ("M24-head",)),
    Planted("p in bfloat16, then - 1", HEAD, _by_gradient(_low_probs_less_one), ("M20-head",), dtypes=("bfloat16",),
            failing_only={"quantity": {"gradients in low precision", "gradients summed from low precision"}}),
    Planted("dW added up in bfloat16", HEAD, _in_place("kernel", _sum_in_low_precision), ("M20-head",),
            dtypes=("bfloat16",), failing_only={"quantity": {"gradients summed from low precision"}}),
    Planted("optax over all logits", HEAD, by_call(_by_optax), ("M20-head",)),
    Planted("label wrapped", HEAD, by_call(_wrapped), ("M16-head", "M24-head"), ("M20-head",),
            failing_only={"regime": {"labels -1, V and -V", "weighted, one ignored, and labels -1, V and -V"}}),
    Planted("eps / (V - 1)", HEAD, by_call(_spread_over_others), ("M24-head",), ("M16-head",)),
    Planted("losses in the order of the chunks", HEAD, by_call(_in_the_order_of_chunks), ("M24-head",), ("M16-head",)),
    Planted("softcap slope left out", HEAD, _by_gradient(_capped_twice_never_sloped), ("M27-head",), ("M16-head",)),
    Planted("z-loss left out of the gradient", HEAD,
            _by_other_arguments("hidden", "kernel", "bias", z_loss=lambda a: 0.0), ("M27-head",), ("M24-head",)),
    Planted("ignored tokens' gradient left in", HEAD,
            _by_other_arguments("hidden", ignore_index=_none, labels=_ignored_as_class_0),
            ("M27-head",), ("M16-head", "M24-head")),
    Planted("token weights left out of db", HEAD,
            _by_other_arguments("bias", token_weights=_none), ("M16-head", "M27-head"), ("M24-head",)),
    Planted("token weights' gradient zero", HEAD,
            by_rule(lambda bars, *_: {name: 0 * bars[name] for name in bars if name == "token_weights"}),
            ("M16-head", "M20-head", "M27-head"), ("M24-head",)),
    Planted("mean over tokens", HEAD, _mean_over(lambda labels, u, w: labels.size), ("M27-head",),
            ("M16-head", "M24-head")),
    Planted("ignored tokens counted in the mean", HEAD, _mean_over(lambda labels, u, w: jnp.sum(u * w)),
            ("M27-head",), ("M16-head", "M24-head")),
    Planted("cotangents of single tokens mixed", HEAD,
            by_rule(lambda bars, bar, a: {"bias": 0 * bars["bias"]} if bar.ndim else {}), ("M27-head",),
            ("M24-head",), dtypes=("float32", "float64")),
    Planted("second derivative zero", HEAD, by_rule(changed("kernel", of_second_order(lambda d: 0 * d))),
            ("M27-head",), ("M16-head",)),
    Planted("tangent doubled", VARIANT, by_tangent(lambda right, *_: 2 * right), ("M16-head",), ("M24-head",)),
)  # fmt: skip

CONTROLS = (
    Planted("right in reverse mode", HEAD, by_rule(lambda *_: {}), (), ("M16-head", "M27-head")),
    Planted("right by G", HEAD, _by_gradient(_gradient_in_logits), (), ("M16-head", "M20-head", "M27-head")),
    Planted("right by the arguments", HEAD, _by_other_arguments("hidden", "kernel", "bias"), (), ("M27-head",)),
    Planted("right by the mean's divisor", HEAD, _mean_over(_right_divisor), (), ("M16-head",)),
    Planted("right in both modes", VARIANT, by_tangent(lambda right, *_: right), (), ("M16-head", "M24-head")),
)  # fmt: skip
