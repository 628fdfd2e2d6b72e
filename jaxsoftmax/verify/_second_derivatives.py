"""Second derivatives with no keyword: of softmax and log-softmax, means, statistics and divergences, and in heads."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import mpmath
import numpy as np

from jaxsoftmax.verify import _head_inputs, _regimes
from jaxsoftmax.verify._cross_entropy_theorems import LOSS
from jaxsoftmax.verify._distillation_theorems import DISTILLATION
from jaxsoftmax.verify._exact_divergence import JENSEN_SHANNON, REVERSE, Divergence, ExactPair
from jaxsoftmax.verify._exact_head import HEAD, ExactHead, Setting
from jaxsoftmax.verify._exact_stats import SHARES, row_entropy_hessian, three_gradients
from jaxsoftmax.verify._oracle import ExactRow, Expected, end_to_end, exact, itself
from jaxsoftmax.verify._theorem import FLOAT32, Claim, Inputs, Theorem, derivative, hessian
from jaxsoftmax.verify._token_loss import Options
from jaxsoftmax.verify._token_stats_theorems import LINEAR_STATS, STATS
from jaxsoftmax.verify._two_heads import LINEAR_DISTILLATION

TOKENS = Setting(7, 3, _regimes.VOCAB, reduction="sum", options=Options("no keyword"), weighted=True)


def along(f: Any, x: Any, g: Any, v: Any) -> Any:
    """<v, J^T g>, of a row or of each."""
    return jnp.sum(v * jax.vjp(f, x)[1](g)[0], -1)


def of_softmax(x: np.ndarray, g: np.ndarray, v: np.ndarray) -> Expected:
    """The gradient of <v, J g> = <s, v g> - <s, v> <s, g>."""
    row, g, v = ExactRow(exact(x)), exact(g), exact(v)
    both, of_g, of_v = map(row.jacobian_product, (v * g, g, v))
    mean_v, mean_g = row.probs @ itself(v), row.probs @ itself(g)
    return both - mean_v * of_g - mean_g * of_v


def of_log_softmax(x: np.ndarray, g: np.ndarray, v: np.ndarray) -> Expected:
    """The gradient of <v, g - s sum(g)>."""
    return -itself(exact(g)).sum() * ExactRow(exact(x)).jacobian_product(exact(v))


def of_mean(f: Any, x: Any, y: Any, v: Any) -> jax.Array:
    """The Hessian of the mean over tokens, times v."""
    return jax.jvp(jax.grad(lambda x: f(x, y)), (x,), (v,))[1]


def of_mean_exactly(x: np.ndarray, y: np.ndarray, v: np.ndarray) -> Expected:
    """J_t v_t / N (M15)."""
    rows = [ExactRow(exact(z)).jacobian_product(exact(d)) for z, d in zip(x, v, strict=True)]
    return Expected.stack(rows) / len(x)


def tokens(dtype: str) -> list[Inputs]:
    """Six tokens and a direction."""
    x = _regimes.ordinary(dtype, rows=6, seed=40)
    labels = np.array([0, 6, 2, 5, 4, 3], np.int32)
    return [Inputs("six tokens", (x[None], labels[None], _regimes.directions(x)[None]))]


def of_head(f: Any, theta: Any, v: Any, y: Any) -> jax.Array:
    """The Hessian of the head's mean in hidden states and kernel, times v."""

    def mean(theta):
        parts = TOKENS.parts(theta)
        return f(parts.hidden, parts.kernel, y)

    return jax.jvp(jax.grad(mean), (theta,), (v,))[1]


def of_head_exactly(theta: np.ndarray, v: np.ndarray, y: np.ndarray) -> Expected:
    """The Hessian-vector product of `of_head`, in mpmath: of the sum with bias 0 and token weights 1, over N."""
    n, bias = TOKENS.tokens, np.zeros(TOKENS.vocab)
    head = ExactHead(TOKENS, np.concatenate([theta, bias, np.ones(n)]), y)
    products = head.hessian_products(np.concatenate([v, bias, np.zeros(n)]))
    return end_to_end({name: part for name, part in products.items() if name.endswith(("hidden", "kernel"))}) / n


def head_tokens(dtype: str) -> list[Inputs]:
    """Seven tokens and a direction in all of hidden states and kernel."""
    theta = _head_inputs.packed(*_head_inputs.drawn(TOKENS, 41)[:2])
    v = _regimes.directions(np.tile(theta, (2, 1)))[:1]
    return [Inputs("seven tokens", (theta[None], v, np.array([[0, 6, 2, 5, 4, 3, 1]], np.int32)))]


def statistics_hessian(x: np.ndarray, y: int) -> Expected:
    """The Hessian of a weighted sum of statistics: (w_L - w_p) J, and the entropy's (M9, M15, M28)."""
    row, (of_prob, of_entropy, of_lse) = ExactRow(exact(x)), exact(SHARES)
    jacobian = itself(row.jacobian)
    return of_lse * jacobian - of_prob * jacobian + of_entropy * row_entropy_hessian(row)


def statistics_gradient(x: np.ndarray, y: int) -> Expected:
    """The gradient of a weighted sum of log-probability, entropy and log-sum-exp."""
    return exact(SHARES) @ three_gradients(ExactRow(exact(x)), int(y))


def shares(f: Any, *arguments: Any) -> Any:
    """A weighted sum of a row's statistics, or of each row's."""
    stats = f(*arguments)
    return SHARES[0] * stats.log_prob + SHARES[1] * stats.entropy + SHARES[2] * stats.log_sum_exp


def divergence_hessian(divergence: Divergence) -> Any:
    """The Hessian of a divergence from its teacher, in the student's logits (M29, M30)."""

    def hessian(z: np.ndarray, u: np.ndarray) -> Expected:
        pair = ExactPair.of(np.stack([z, u]))
        q, j = pair.q.probs, pair.q.jacobian
        if divergence.name == "reverse_kl":
            weight, v, curved = mpmath.mpf(1), -pair.delta, exact(np.zeros(len(q)))
        else:
            weight = 1 - mpmath.mpf(divergence.beta)
            v, m = pair.swapped.to_mixture(weight), divergence.beta * pair.p.probs + weight * q
            curved = weight * q / m
        centred, rest = itself(v) - q @ itself(v), 1 - itself(curved)
        flat = rest[:, None] * j - q[:, None] * (rest @ j)
        return weight * (centred[:, None] * j - q[:, None] * (q * centred) + flat)

    return hessian


def labelled_rows(dtype: str) -> list[Inputs]:
    """Rows, each with a label."""
    return [Inputs("ordinary", (_regimes.ordinary(dtype), np.array([4, 0, 6, 3], np.int32)))]


def two_rows(dtype: str) -> list[Inputs]:
    """A student's logits and a teacher's."""
    return [Inputs("ordinary", (_regimes.ordinary(dtype), _regimes.ordinary(dtype, seed=8)))]


def hessian_through_product(
    hidden: Any, kernel: Any, hidden_dot: Any, kernel_dot: Any, derivatives: list[Any]
) -> Expected:
    """The Hessian in hidden states and kernel times a direction, of each token's gradient and Hessian in its logits."""
    x, w, x_dot, w_dot = map(exact, (hidden, kernel, hidden_dot, kernel_dot))
    z_dot = itself(x_dot) @ w + itself(x) @ w_dot
    g = Expected.stack([gradient for gradient, _ in derivatives])
    g_dot = Expected.stack([curved @ z_dot[i] for i, (_, curved) in enumerate(derivatives)])
    return end_to_end(
        {
            "Hessian-vector product in hidden": g_dot @ w.T + g @ w_dot.T,
            "Hessian-vector product in kernel": x.T @ g_dot + x_dot.T @ g,
        }
    )


def along_head(total: Any) -> Any:
    """The Hessian of total(function, hidden, kernel, *rest) in hidden and kernel, times a direction."""

    def product(f: Any, x: Any, w: Any, x_dot: Any, w_dot: Any, *rest: Any) -> jax.Array:
        gradient = jax.grad(lambda x, w: total(f, x, w, *rest), (0, 1))
        return jnp.concatenate([jnp.ravel(part) for part in jax.jvp(gradient, (x, w), (x_dot, w_dot))[1]])

    return product


def of_linear_stats(x: Any, w: Any, x_dot: Any, w_dot: Any, y: Any) -> Expected:
    """The exact Hessian-vector product of a weighted sum of the statistics of hidden @ kernel."""
    tokens = [(statistics_gradient(z, label), statistics_hessian(z, label)) for z, label in zip(x @ w, y, strict=True)]
    return hessian_through_product(x, w, x_dot, w_dot, tokens)


def of_linear_distillation(x: Any, w: Any, x_dot: Any, w_dot: Any, tx: Any, tw: Any) -> Expected:
    """The exact Hessian-vector product of the mean KL(p||q); in z its gradient is q - p, its Hessian J (M29)."""
    pairs, n = [ExactPair.of(np.stack(rows)) for rows in zip(x @ w, tx @ tw, strict=True)], mpmath.mpf(len(x))
    excess = [Expected(pair.excess, pair.q.probs + pair.p.probs) / n for pair in pairs]
    tokens = [(of_pair, itself(pair.q.jacobian) / n) for of_pair, pair in zip(excess, pairs, strict=True)]
    return hessian_through_product(x, w, x_dot, w_dot, tokens)


def heads(*further: Any) -> Any:
    """Hidden states, a kernel, a direction in both, and more."""

    def inputs(dtype: str) -> list[Inputs]:
        setting = Setting(4, 3, _regimes.VOCAB)
        arrays = [*_head_inputs.drawn(setting, 43)[:2], *_head_inputs.drawn(setting, 44)[:2], *further]
        return [Inputs("four tokens", tuple(array[None] for array in arrays))]

    return inputs


_OF_MEAN = "Hessian-vector product of the mean"
_of_data = partial(Claim, order=0, dtypes=FLOAT32, rowwise=False)
_two_directions = _regimes.rows(_regimes.moderate, beside=[_regimes.directions, partial(_regimes.directions, seed=6)])

SECOND_DERIVATIVES = (
    Theorem(
        "M6-second",
        "second derivatives of softmax",
        "the gradient of <v, J g> is J (v g) - <s, v> J g - <s, g> J v, and that of <v, g - s sum(g)> is - sum(g) J v",
        "as M6, to the ulp of the three terms",
        "a rule that is right at first order only: s taken for a constant",
        (
            derivative("softmax", "derivative of the VJP", of_softmax, _two_directions, 8, call=along),
            derivative("log_softmax", "derivative of the VJP", of_log_softmax, _two_directions, 8, call=along),
        ),
    ),
    Theorem(
        "M15-mean",
        "Hessian of a mean",
        "the Hessian of a mean over N tokens is J_t / N, and that of logits X W follows by the chain rule",
        "as M15, in sums of T or V products",
        "a rule that is right at first order only; a 1 / N taken twice, or left out",
        (
            _of_data(LOSS, _OF_MEAN, call=of_mean, oracle=of_mean_exactly, inputs=tokens, bound=6),
            _of_data(HEAD, _OF_MEAN, call=of_head, oracle=of_head_exactly, inputs=head_tokens, bound=6),
        ),
    ),
    Theorem(
        "M28-second",
        "second derivatives of statistics and divergences",
        "the Hessians of log s_y and of L are -J and J; that of KL(q||p) is J_jk (v_j - <q, v> + 1) - q_j q_k "
        "(v_k - <q, v>) with v = log q - log p; through logits X W they follow by the chain rule",
        "as M28 and M29, to the ulp of the terms",
        "a rule that is right at first order only",
        (
            hessian(STATS, "Hessian of a sum of statistics", statistics_hessian, labelled_rows, 8, call=shares),
            *(
                hessian(DISTILLATION, f"Hessian of {divergence.name} in the student", divergence_hessian(divergence),
                        two_rows, 8, call=lambda f, z, u, divergence=divergence: f(z, u, **divergence.keywords()),
                        dtypes=FLOAT32)
                for divergence in (REVERSE, JENSEN_SHANNON)
            ),
            _of_data(LINEAR_STATS, "Hessian-vector product of a sum of statistics",
                     call=along_head(lambda *call: jnp.sum(shares(*call))), oracle=of_linear_stats,
                     inputs=heads(np.array([4, 0, 6, 3], np.int32)), bound=8),
            _of_data(LINEAR_DISTILLATION, "Hessian-vector product of the mean",
                     call=along_head(lambda f, *arrays: f(*arrays)), oracle=of_linear_distillation,
                     inputs=heads(*_head_inputs.drawn(Setting(4, 2, _regimes.VOCAB), 45)[:2]), bound=8),
        ),
    ),
)  # fmt: skip
