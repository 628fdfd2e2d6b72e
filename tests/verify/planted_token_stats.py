"""Wrong statistics of tokens, over logits and in the fused head."""

import jax
import jax.numpy as jnp

from tests.verify.planted import Planted, by_call, last_of_maximum, scaled_gradient, with_slope

STATS, HEAD = "token_stats", "linear_token_stats"


def _entropy(formula):
    """The statistics, of which the entropy is another formula(logits, right statistics)."""

    def function(right, logits, labels, temperature=1.0, **keywords):
        stats = right(logits, labels, temperature=temperature, **keywords)
        return stats._replace(entropy=formula(logits / temperature, stats).astype(stats.entropy.dtype))

    return by_call(function)


def _by_subtraction(z, stats):
    """L - sum s z."""
    s = jax.nn.softmax(z)
    return stats.log_sum_exp - jnp.sum(jnp.where(s == 0, 0, s * jnp.where(s == 0, 0, z)), -1)


def _of_logs(z, stats):
    """-sum s log s, which is 0 times infinity at -inf."""
    return -jnp.sum(jax.nn.softmax(z) * jax.nn.log_softmax(z), -1)


def _slope_of_logs(z, stats):
    """The right entropy, with the gradient -s (log s + H), which cancels at s = 1."""
    s, log_s = jax.nn.softmax(z), z - stats.log_sum_exp[..., None]
    slope = jnp.where(s == 0, 0, -s * (jnp.where(s == 0, 0, log_s) + stats.entropy[..., None]))
    return with_slope(stats.entropy, z, slope)


def _slope_without_entropy(z, stats):
    """The gradient of the terms -s_j log s_j as if each s_j were free: -s (log s + 1)."""
    s, log_s = jax.nn.softmax(z), jax.nn.log_softmax(z)
    return with_slope(stats.entropy, z, jnp.where(s == 0, 0, -s * (jnp.where(s == 0, 0, log_s) + 1)))


def _cancelling_log_prob(right, logits, labels, **keywords):
    """z_y - L."""
    stats = right(logits, labels, **keywords)
    picked = jnp.take_along_axis(logits, labels[..., None], -1)[..., 0]
    return stats._replace(log_prob=picked - stats.log_sum_exp)


def _none_ignored(right, logits, labels, ignore_index=None, **keywords):
    return right(logits, labels, **keywords)


def _gradient_without_temperature(right, logits, labels, temperature=1.0, **keywords):
    return right(scaled_gradient(logits, temperature), labels, temperature=temperature, **keywords)


def _times_temperature(right, logits, labels, temperature=1.0, **keywords):
    return right(logits * temperature, labels, **keywords)


def _last_predicted(right, logits, labels, **keywords):
    return right(logits, labels, **keywords)._replace(prediction=last_of_maximum(logits))


def _head_by_subtraction(right, hidden, kernel, labels, *, bias=None, **keywords):
    stats = right(hidden, kernel, labels, bias=bias, **keywords)
    return stats._replace(entropy=_by_subtraction(hidden @ kernel + (0 if bias is None else bias), stats))


def _last_predicted_in_head(right, hidden, kernel, labels, *, bias=None, **keywords):
    stats = right(hidden, kernel, labels, bias=bias, **keywords)
    return stats._replace(prediction=last_of_maximum(hidden @ kernel + (0 if bias is None else bias)))


def _chunk_without_gradient(right, hidden, kernel, labels, *, chunk_size=None, **keywords):
    """The kernel's gradient of the first chunk alone."""
    if chunk_size is None:
        return right(hidden, kernel, labels, **keywords)
    first = right(hidden, kernel, labels, chunk_size=chunk_size, **keywords)
    rest = right(hidden, jax.lax.stop_gradient(kernel), labels, chunk_size=chunk_size, **keywords)
    return jax.tree.map(lambda a, b: jnp.where(jnp.arange(len(a)) < chunk_size, a, b), first, rest)


TOKEN_STATS = (
    Planted("entropy as L - sum s z", STATS, _entropy(_by_subtraction), ("M28",), ("M33",)),
    Planted("entropy as -sum s log s", STATS, _entropy(_of_logs), ("M28",), ("M33",)),
    Planted("entropy's gradient as -s (log s + H)", STATS, _entropy(_slope_of_logs), ("M28",), ("M33",)),
    Planted("entropy's gradient as -s (log s + 1)", STATS, _entropy(_slope_without_entropy), ("M28",)),
    Planted("ignored tokens counted", STATS, by_call(_none_ignored), ("M28",), ("M33",),
            failing_only={"quantity": {"statistics where a label is ignored"}}),
    Planted("log-probability as z_y - L", STATS, by_call(_cancelling_log_prob), ("M19",), ("M33",)),
    Planted("1 / T left out of the gradient", STATS, by_call(_gradient_without_temperature), ("M32",), ("M33",),
            failing_only={"quantity": {"gradients of the statistics", "statistics, temperature",
                                       "statistics, all keywords"}}),
    Planted("logits times T", STATS, by_call(_times_temperature), ("M32",), ("M33",)),
    Planted("the last class of the maximum", STATS, by_call(_last_predicted), ("M33",), ("M32",)),
    Planted("entropy as L - sum s z", HEAD, by_call(_head_by_subtraction), ("M28",), ("M33",)),
    Planted("kernel's gradient of one chunk alone", HEAD, by_call(_chunk_without_gradient), ("M28",), ("M33",)),
    Planted("the last class of the maximum", HEAD, by_call(_last_predicted_in_head), ("M33",), ("M28",)),
)  # fmt: skip

CONTROLS = (
    Planted("right by a slope", STATS, _entropy(
        lambda z, stats: with_slope(stats.entropy, z, jnp.zeros_like(z)) + (stats.entropy
                                                                            - jax.lax.stop_gradient(stats.entropy))
    ), (), ("M28", "M33")),
)  # fmt: skip
