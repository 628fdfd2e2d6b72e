"""Wrong divergences, over logits and between two fused heads."""

import jax
import jax.numpy as jnp

from tests.verify.planted import Planted, by_call, scaled_gradient

DISTILLATION, HEADS = "distillation", "linear_distillation"


def _only(kind, function):
    """The function in place of one divergence alone."""

    def spoilt(right, *args, divergence="forward_kl", **keywords):
        if divergence != kind:
            return right(*args, divergence=divergence, **keywords)
        return function(right, *args, divergence=divergence, **keywords)

    return by_call(spoilt)


def _reduced(losses, reduction, token_weights):
    w = jnp.ones_like(losses) if token_weights is None else token_weights
    if reduction == "none":
        return w * losses
    return jnp.sum(w * losses) / (jnp.sum(w) if reduction == "mean" else 1)


def _times(s, factor):
    return jnp.where(s == 0, 0, s * jnp.where(s == 0, 0, factor))


def _cancelling_kl(right, z, u, *, divergence="forward_kl", temperature=1.0, token_weights=None, reduction="mean", **_):
    """sum p (log p - log q)."""
    log_q, log_p = (jax.nn.log_softmax(x.astype(jnp.float32) / temperature) for x in (z, u))
    return _reduced(jnp.sum(_times(jnp.exp(log_p), log_p - log_q), -1), reduction, token_weights)


def _cancelling_js(
    right, z, u, *, divergence="forward_kl", beta=0.5, temperature=1.0, token_weights=None, reduction="mean"
):
    """Both parts against log (beta p + (1 - beta) q)."""
    log_q, log_p = (jax.nn.log_softmax(x.astype(jnp.float32) / temperature) for x in (z, u))
    log_m = jnp.log(beta * jnp.exp(log_p) + (1 - beta) * jnp.exp(log_q))
    teacher, student = (jnp.sum(_times(jnp.exp(a), a - log_m), -1) for a in (log_p, log_q))
    return _reduced(beta * teacher + (1 - beta) * student, reduction, token_weights)


def _other_direction(right, *args, divergence="forward_kl", **keywords):
    return right(*args, divergence="reverse_kl" if divergence == "forward_kl" else divergence, **keywords)


def _constant_teacher(right, z, u, **keywords):
    return right(z, jax.lax.stop_gradient(u), **keywords)


def _swapped_beta(right, *args, beta=0.5, **keywords):
    return right(*args, beta=1 - beta, **keywords)


def _halves(right, *args, beta=0.5, **keywords):
    return right(*args, beta=0.5, **keywords)


def _times_square(right, *args, temperature=1.0, **keywords):
    return right(*args, temperature=temperature, **keywords) * temperature**2


def _gradient_without_temperature(right, z, u, temperature=1.0, **keywords):
    z, u = scaled_gradient(z, temperature), scaled_gradient(u, temperature)
    return right(z, u, temperature=temperature, **keywords)


def _teacher_without_temperature(right, z, u, temperature=1.0, **keywords):
    return right(z, u * temperature, temperature=temperature, **keywords)


def _mean_over_tokens(right, *args, reduction="mean", **keywords):
    value = right(*args, reduction="sum" if reduction == "mean" else reduction, **keywords)
    return value / args[0].shape[0] if reduction == "mean" else value


def _without_teacher_bias(right, *args, teacher_bias, **keywords):
    return right(*args, **keywords)


def _constant_teacher_kernel(right, hidden, kernel, teacher_hidden, teacher_kernel, **keywords):
    return right(hidden, kernel, teacher_hidden, jax.lax.stop_gradient(teacher_kernel), **keywords)


DIVERGENCES = (
    Planted("sum p (log p - log q)", DISTILLATION, _only("forward_kl", _cancelling_kl), ("M29",), ("M30",)),
    Planted("KL(q||p) for KL(p||q)", DISTILLATION, by_call(_other_direction), ("M29",), ("M30",)),
    Planted("no gradient for the teacher", DISTILLATION, _only("forward_kl", _constant_teacher), ("M29",), ("M30",)),
    Planted("mean over tokens", DISTILLATION, by_call(_mean_over_tokens), ("M29",), ("M30",),
            failing_only={"quantity": {"gradients of the mean, and in the token weights"}}),
    Planted("log of the mixture", DISTILLATION, _only("jensen_shannon", _cancelling_js), ("M30",), ("M29",)),
    Planted("beta swapped", DISTILLATION, by_call(_swapped_beta), ("M30",), ("M29",)),
    Planted("beta 1/2 always", DISTILLATION, by_call(_halves), ("M30",), ("M29",)),
    Planted("times T^2", DISTILLATION, by_call(_times_square), ("M32",), ("M29",)),
    Planted("1 / T left out of the gradient", DISTILLATION, by_call(_gradient_without_temperature), ("M32",), ("M29",),
            failing_only={"quantity": {
                "gradients of forward_kl", "gradients of jensen_shannon", "divergence, temperature",
                *(f"divergence, several keywords{reduced}" for reduced in ("", ", reduction=sum", ", reduction=none")),
            }}),
    Planted("teacher without temperature", DISTILLATION, by_call(_teacher_without_temperature), ("M32",), ("M29",)),
    Planted("KL(q||p) for KL(p||q)", HEADS, by_call(_other_direction), ("M29",), ("M30",)),
    Planted("teacher's bias forgotten", HEADS, by_call(_without_teacher_bias), ("M29", "M30")),
    Planted("no gradient for the teacher's kernel", HEADS, by_call(_constant_teacher_kernel), ("M29", "M30")),
    Planted("beta swapped", HEADS, by_call(_swapped_beta), ("M30",), ("M29",)),
)  # fmt: skip
