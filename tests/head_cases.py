"""Combinations of the fused head's keywords and sizes, and the same loss of materialised logits, in float64."""

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


def held(case, dtype):
    """The case with the numbers that arrays of `dtype` hold."""
    arrays = {name: a.astype(jnp.dtype(dtype)).astype(np.float64) for name, a in case.differentiated.items()}
    return case._replace(differentiated=arrays)


def value_and_gradients(loss, case, dtype):
    arrays = {name: jnp.asarray(a, dtype) for name, a in case.differentiated.items()}

    @jax.jit
    @jax.value_and_grad
    def reduced(arrays):
        value = loss(**arrays)
        return jnp.sum(value * case.cotangents.astype(value.dtype)) if value.ndim else value

    return reduced(arrays)


def head_of(case):
    return lambda **arrays: linear_cross_entropy(labels=case.labels, chunk_size=case.chunk, **arrays, **case.keywords)


def materialised(case):
    def loss(hidden, kernel, bias=0.0, **weights):
        return cross_entropy(hidden @ kernel + bias, case.labels, **weights, **case.keywords)

    return loss


def terms(case, value):
    """The sizes of the terms of each gradient, in float64: how far they may be off is a share of these.

    Of hidden and kernel |G| |W|^T and |x|^T |G|, as each entry of the gradient G of the logits is rounded; of the token
    weights in a mean |l_t| / W and |mean| w_t / W, whose difference it is (M27).
    """
    arrays = dict(case.differentiated)
    hidden, kernel = arrays.pop("hidden"), arrays.pop("kernel")
    z = hidden @ kernel + arrays.pop("bias", 0.0)

    def loss(z):
        value = cross_entropy(z, case.labels, **arrays, **case.keywords)
        return jnp.sum(value * case.cotangents) if value.ndim else value

    g = np.abs(jax.grad(loss)(z)).reshape(-1, kernel.shape[1])
    sizes = {"hidden": g @ np.abs(kernel).T, "kernel": np.abs(hidden).reshape(len(g), hidden.shape[-1]).T @ g}
    if "token_weights" in arrays and case.keywords["reduction"] == "mean":
        sizes["token_weights"] = _terms_of_a_mean(case, value)
    return sizes


def _terms_of_a_mean(case, mean):
    summed = case._replace(keywords=case.keywords | {"reduction": "sum"})
    losses = value_and_gradients(materialised(summed), summed, "float64")[1]["token_weights"]
    counted = case.labels != case.keywords.get("ignore_index")
    weights = case.keywords.get("class_weights", np.ones(case.differentiated["kernel"].shape[1]))
    weights = np.where(counted, weights[np.where(counted, case.labels, 0)], 0)
    total = np.sum(weights * case.differentiated["token_weights"])
    return (np.abs(losses) + np.abs(mean) * weights) / (total or 1)
