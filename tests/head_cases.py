"""Combinations of the fused head's keywords and sizes, and what they give by the closed forms, in NumPy's float64."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxsoftmax import cross_entropy, linear_cross_entropy
from jaxsoftmax._token_chunks import CPU, SMALL

SIZES = (1, 2, 7, 50, CPU.classes + 1, 2 * CPU.classes + 3)


class Case(NamedTuple):
    differentiated: dict[str, np.ndarray]  # hidden, kernel, and perhaps bias and token_weights
    labels: np.ndarray
    keywords: dict[str, Any]
    chunk: int | None
    small: int  # bytes of logits that are formed at once
    cotangents: np.ndarray


def generated(seed):
    """A combination of keywords and sizes, and numbers to go with it."""
    rng = np.random.default_rng(seed)
    tokens, embed, vocab = int(rng.integers(0, 12)), int(rng.integers(1, 9)), int(rng.choice(SIZES))
    batch = (tokens,) if rng.random() < 0.7 else (2, tokens)

    def maybe(name, value):
        return {name: value} if rng.random() < 0.5 else {}

    arrays = {"hidden": rng.normal(size=(*batch, embed)), "kernel": rng.normal(size=(embed, vocab))}
    arrays |= maybe("bias", rng.normal(size=vocab)) | maybe("token_weights", rng.random(batch))
    labels = rng.integers(0, vocab, batch).astype(np.int32)
    keywords = {"reduction": str(rng.choice(["mean", "sum", "none"]))}
    keywords |= maybe("class_weights", rng.random(vocab)) | maybe("label_smoothing", 0.125)
    keywords |= maybe("z_loss", 2.0**-7) | maybe("logit_softcap", 4.0) | maybe("ignore_index", -100)
    if "ignore_index" in keywords:
        labels = np.where(rng.random(batch) < 0.3, np.int32(-100), labels)
    chunk, small = rng.choice([None, 1, 5, 8]), int(rng.choice([0, SMALL]))
    return Case(arrays, labels, keywords, chunk if chunk is None else int(chunk), small, rng.normal(size=batch))


def traits(case):
    """What a few cases have to show for many: each keyword with each reduction, and each kind of size and chunk."""
    tokens, vocab, reduction = case.labels.size, case.differentiated["kernel"].shape[1], case.keywords["reduction"]
    chunks = 1 if case.chunk is None else -(-tokens // case.chunk)
    several, ragged = chunks > 1, chunks > 1 and tokens % case.chunk > 0
    in_blocks, ignores = case.small == 0 and vocab > CPU.classes, "ignore_index" in case.keywords
    names = (case.keywords | case.differentiated).keys() - {"reduction"}
    each = {
        ("vocab", vocab),
        ("chunk_size", case.chunk),
        ("axes of tokens", case.labels.ndim),
        ("no token", tokens == 0),
    }
    chunking = {("several, ragged, ignoring", several, ragged, ignores), ("in blocks, several", in_blocks, several)}
    return each | chunking | {(name, reduction) for name in names}


def held(case, dtype):
    """The case with the numbers that arrays of `dtype` hold."""
    arrays = {name: a.astype(jnp.dtype(dtype)).astype(np.float64) for name, a in case.differentiated.items()}
    return case._replace(differentiated=arrays)


def value_and_gradients(loss, case, dtype):
    arrays = {name: a.astype(jnp.dtype(dtype)) for name, a in case.differentiated.items()}

    @jax.jit
    @jax.value_and_grad
    def reduced(arrays):
        value = loss(**arrays)
        return jnp.sum(value * case.cotangents.astype(value.dtype)) if value.ndim else value

    return reduced(arrays)


def head_of(case):
    return lambda **arrays: linear_cross_entropy(labels=case.labels, chunk_size=case.chunk, **arrays, **case.keywords)


def materialised(case, loss=cross_entropy):
    def of_logits(hidden, kernel, bias=0.0, **weights):
        return loss(hidden @ kernel + bias, case.labels, **weights, **case.keywords)

    return of_logits


def textbook(logits, labels, *, token_weights=1.0, class_weights=1.0, ignore_index=None, reduction, **options):
    """The loss as the formulas M24 and M27 say, for autodiff: neither a closed form nor a line of the package."""
    vocab, cap = logits.shape[-1], options.get("logit_softcap", jnp.inf)
    eps, zeta = options.get("label_smoothing", 0), options.get("z_loss", 0)
    z = cap * jnp.tanh(logits / cap) if np.isfinite(cap) else logits
    lse = jnp.log(jnp.sum(jnp.exp(z), -1, keepdims=True))
    one_hot = labels[..., None] == np.arange(vocab)  # no class where ignored
    label_weights = jnp.sum(one_hot * class_weights, -1)
    targets = class_weights * ((1 - eps) * one_hot + eps / vocab)
    losses = jnp.sum(targets * (lse - z), -1) + zeta * label_weights * lse[..., 0] ** 2
    losses = token_weights * jnp.where(labels == ignore_index, 0, losses)
    total = {"mean": jnp.sum(token_weights * label_weights), "sum": 1, "none": 1}[reduction]
    return losses if reduction == "none" else jnp.sum(losses) / jnp.where(total == 0, 1, total)


class Reference(NamedTuple):
    value: np.floating
    gradients: dict[str, np.ndarray]
    sizes: dict[str, np.ndarray]  # of each gradient's terms: how far it may be off is a share of these


def reference(case):
    """The value and the gradients by the closed forms M16 and M27, in NumPy.

    The sizes are, of hidden and kernel, |G| |W|^T and |x|^T |G|, as each entry of the gradient G of the logits is
    rounded; of the token weights in a mean |l_t| / W and |mean| w_t / W, whose difference it is (M27).
    """
    hidden, kernel = case.differentiated["hidden"], case.differentiated["kernel"]
    x, reduction = hidden.reshape(-1, hidden.shape[-1]), case.keywords["reduction"]
    losses, g, divisors = _of_tokens(case, x @ kernel + case.differentiated.get("bias", 0.0))
    u = case.differentiated.get("token_weights", np.ones(case.labels.shape)).ravel()
    share = {"mean": 1 / (np.sum(u * divisors) or np.inf), "sum": 1.0, "none": case.cotangents.ravel()}[reduction]
    value = np.sum(share * u * losses)
    g = (share * u)[:, None] * g  # of x W + b
    of_mean = value * divisors if reduction == "mean" else np.zeros_like(losses)
    gradients = {"hidden": g @ kernel.T, "kernel": x.T @ g, "bias": np.sum(g, 0)}
    gradients["token_weights"] = share * (losses - of_mean)
    sizes = {"hidden": abs(g) @ abs(kernel).T, "kernel": abs(x).T @ abs(g), "bias": gradients["bias"]}
    sizes["token_weights"] = share * (abs(losses) + abs(of_mean))
    return Reference(
        value,
        *({name: of[name].reshape(a.shape) for name, a in case.differentiated.items()} for of in (gradients, sizes)),
    )


def _of_tokens(case, logits):
    """Each token's loss (M24), its gradient in the logits (M25), and what it adds to the divisor of the mean (M27)."""
    vocab, options, cap = logits.shape[-1], case.keywords, case.keywords.get("logit_softcap", np.inf)
    eps, zeta = options.get("label_smoothing", 0.0), options.get("z_loss", 0.0)
    z = cap * np.tanh(logits / cap) if np.isfinite(cap) else logits
    counted = case.labels.ravel() != options.get("ignore_index")
    labels = np.where(counted, case.labels.ravel(), 0)[:, None]
    one_hot = labels == np.arange(vocab)
    w = options.get("class_weights", np.ones(vocab))
    w_y = w[labels]

    m = np.max(z, -1, keepdims=True)
    denominator = np.sum(np.exp(z - m), -1, keepdims=True)
    s, nlls = np.exp(z - m) / denominator, m - z + np.log(denominator)
    lse = m + np.log(denominator)
    others = np.where(one_hot, 0, np.exp(z - np.take_along_axis(z, labels, -1)))
    nll = np.log1p(np.sum(others, -1, keepdims=True))
    s_less_one_hot = np.where(one_hot, -np.sum(np.where(one_hot, 0, s), -1, keepdims=True), s)
    losses = (1 - eps) * w_y * nll + eps / vocab * np.sum(w * nlls, -1, keepdims=True) + zeta * w_y * lse**2
    g = (1 - eps) * w_y * s_less_one_hot + eps / vocab * (np.sum(w) * s - w) + 2 * zeta * w_y * lse * s
    g = g / np.cosh(logits / cap) ** 2  # (M23)
    return counted * losses[:, 0], counted[:, None] * g, counted * w_y[:, 0]


def gradient_and_hessian_product(hidden, labels, scale):
    """Of sum_t scale_t nll_t: (dX, dW) at the kernel w, and in the kernel the Hessian times v (M5, M14, M16)."""
    x, scale = hidden.astype(np.float64), scale[:, None]

    def softmax(w):
        e = np.exp(x @ w)
        return e / np.sum(e, -1, keepdims=True)

    def gradient(w):
        g = scale * (softmax(w) - np.eye(w.shape[1])[labels])
        return g @ w.T, x.T @ g

    def product(w, v):
        s, z_dot = softmax(w), x @ v
        return x.T @ (scale * s * (z_dot - np.sum(s * z_dot, -1, keepdims=True)))

    return gradient, product
