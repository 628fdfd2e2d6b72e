"""Combinations of the fused head's keywords and sizes, and what they give by the closed forms, in NumPy's float64."""

from functools import partial
from itertools import combinations
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxsoftmax import cross_entropy, linear_cross_entropy
from jaxsoftmax._head import chunk_sizes, programs, schedules
from tests import textbook
from tests.tolerances import precision

BLOCK = schedules.CPU.budget.classes

TOLERANCE = {"float64": 1e-13, "float32": 1e-6, "bfloat16": 2.0**-7, "float16": 2.0**-10}  # of its terms
SEEDS = range(110)
COVERING = (2, 49, 61, 67, 70, 106)  # show each trait of all
# Show each pair of facts.
PAIRWISE = (
    *(2, 4, 5, 7, 12, 16, 23, 27, 31, 34, 39, 42, 49, 57),
    *(61, 65, 67, 68, 70, 71, 77, 81, 91, 94, 97, 99, 106, 109),
)
OF_LOSS = ("class_weights", "label_smoothing", "z_loss", "logit_softcap", "ignore_index")
OPTIONAL = ("bias", "token_weights", *OF_LOSS)
SIZES = (1, 2, 7, 50, BLOCK + 1, 2 * BLOCK + 3)


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
    chunk, small = rng.choice([None, 1, 5, 8]), int(rng.choice([0, schedules.CPU.budget.whole]))
    return Case(arrays, labels, keywords, chunk if chunk is None else int(chunk), small, rng.normal(size=batch))


def follow(monkeypatch, schedule, whole=0, classes=1000):
    """Have heads that are traced from now on follow a schedule on this CPU, whatever their sizes.

    "CPU"; "whole rows", that of TPU and GPU; or either with all tokens and blocks of `classes`. On a CPU logits of at
    most `whole` bytes are formed at once.
    """
    steps, _, all_tokens = schedule.partition(", ")
    cpu = schedules.CPU._replace(budget=schedules.CPU.budget._replace(whole=whole))
    monkeypatch.setattr(schedules, "BY_PLATFORM", {"CPU": {"cpu": cpu}, "whole rows": {}}[steps])
    monkeypatch.setattr(schedules, "ON_EVERY_PLATFORM", cpu.budget)

    def sizes_of(budget, settings, size):
        sizes = chunk_sizes.chunk_sizes(budget, settings, size)
        return sizes._replace(classes=min(classes, size.vocab), all_tokens=True) if size.in_blocks else sizes

    if all_tokens:
        monkeypatch.setattr(programs, "chunk_sizes", sizes_of)
    jax.clear_caches()


SCHEDULES = ("CPU", "whole rows", "CPU, all tokens", "whole rows, all tokens")


def facts(case):
    """By name: whether each keyword is given, the reduction, and each kind of size and chunk."""
    tokens, vocab = case.labels.size, case.differentiated["kernel"].shape[1]
    several = case.chunk is not None and tokens > case.chunk
    given = {name: name in case.keywords | case.differentiated for name in OPTIONAL}
    return given | {
        "reduction": case.keywords["reduction"],
        "vocab": vocab,
        "chunk_size": case.chunk,
        "several chunks": several,
        "ragged chunks": several and tokens % case.chunk > 0,
        "axes of tokens": case.labels.ndim,
        "no token": tokens == 0,
        "formed at once": case.small,
        "in blocks": case.small == 0 and vocab > BLOCK,
    }


def pairs(case):
    """Each two of its facts."""
    return set(combinations(facts(case).items(), 2))


def traits(case):
    """What a few cases have to show for many: each keyword with each reduction, and each kind of size and chunk."""
    of = facts(case)
    sizes = {(name, of[name]) for name in ("vocab", "chunk_size", "axes of tokens", "no token")}
    several = of["several chunks"]
    chunking = {("ignoring", several, of["ragged chunks"], of["ignore_index"]), ("in blocks", of["in blocks"], several)}
    return sizes | chunking | {(name, of["reduction"]) for name in OPTIONAL if of[name]}


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


def head_of(case, head=linear_cross_entropy):
    return partial(head, labels=case.labels, chunk_size=case.chunk, **case.keywords)


def materialised(case, loss=cross_entropy):
    def of_logits(hidden, kernel, bias=0.0, **weights):
        return loss(hidden @ kernel + bias, case.labels, **weights, **case.keywords)

    return of_logits


def reference(case):
    """The value, and by name the gradients and the sizes of their terms: how far they may be off is a share of these.

    The sizes are, of hidden and kernel, |G| |W|^T and |x|^T |G|, as each entry of the gradient G of the logits is
    rounded; of the token weights in a mean |l_t| / W and |mean| w_t / W, whose difference it is (M27).
    """
    given = {"bias": 0.0, "token_weights": np.ones(case.labels.shape)} | case.differentiated
    exact = textbook.of_head(**given, labels=case.labels, cotangents=case.cotangents, **case.keywords)
    gradients = dict(zip(("hidden", "kernel", "bias", "token_weights"), exact.gradients, strict=True))
    hidden, kernel, g = abs(given["hidden"]), abs(given["kernel"]), abs(exact.by_logits)
    batch = tuple(range(case.labels.ndim))
    sizes = {"hidden": g @ kernel.T, "kernel": np.tensordot(hidden, g, (batch, batch)), "bias": gradients["bias"]}
    sizes["token_weights"] = sum(map(abs, exact.token_weight_terms))
    return exact.value, *({name: of[name] for name in case.differentiated} for of in (gradients, sizes))


def gradient_and_hessian_product(hidden, labels, scale):
    """Of sum_t scale_t nll_t: (dX, dW) at the kernel w, and in the kernel the Hessian times v (M5, M14, M16)."""
    x = hidden.astype(np.float64)

    def gradient(w):
        exact = textbook.of_head(x, w, 0.0, scale, labels, cotangents=np.ones(labels.shape), reduction="sum")
        return exact.gradients[:2]

    def product(w, v):
        return textbook.derivatives(lambda kernels: gradient(*kernels)[1], [w], [v])

    return gradient, product


def assert_is_reference(head, case, dtype):
    with precision(dtype):
        value, gradients = value_and_gradients(head, case, dtype)
    expected, expected_gradients, sizes = reference(held(case, dtype))
    np.testing.assert_allclose(value, expected, rtol=10 * TOLERANCE[dtype], atol=TOLERANCE[dtype])
    assert gradients.keys() == expected_gradients.keys()
    for name, gradient in gradients.items():
        error = np.asarray(gradient, np.float64) - expected_gradients[name]
        assert gradient.dtype == jnp.dtype(dtype)
        assert np.linalg.norm(error) <= TOLERANCE[dtype] * np.linalg.norm(sizes[name]), name
