"""Random rows of every kind, and a judge of many digits: a search for numbers that are wrong.

    python -m tests.random_rows 20000 1

tries 20000 rows of each family, from seed 1. The tests try a few.
"""

import sys
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import jaxsoftmax
from jaxsoftmax import forward_mode
from tests.tolerances import MP, exact, exp

WIDTH, BATCH = 5, 500
EPS, TINY, LARGEST = (float(getattr(np.finfo(np.float32), name)) for name in ("eps", "smallest_normal", "max"))


class Rows(NamedTuple):
    """Rows [batch, width], logits on a grid on which their differences are exact; labels [batch]."""

    x: np.ndarray
    weights: np.ndarray
    directions: np.ndarray
    labels: np.ndarray


def drawn(seed: int, batch: int = BATCH) -> Rows:
    """Rows of all scales, with ties, gaps, masks, and directions and weights of all sizes and both signs."""
    rng = np.random.default_rng(seed)
    shape = batch, WIDTH
    scale = rng.choice([2.0**-9, 0.25, 2, 16, 90], (batch, 1))
    x = np.round(rng.standard_normal(shape) * scale * 512) / 512
    x += rng.choice([0, 0, 0, 30, 90, -90], shape) * (rng.random(shape) < 0.2)
    x = np.where(rng.random(shape) < 0.2, np.max(x, -1, keepdims=True), x)  # ties
    x += rng.choice([0, 0, 1000, -8000], (batch, 1))
    x = np.where(rng.random(shape) < 0.1, -np.inf, x)
    x[:, 0] = np.where(np.all(x == -np.inf, -1), 0, x[:, 0])
    weights = np.exp(rng.uniform(-102, 87, shape)) if rng.random() < 0.5 else rng.random(shape)
    weights = np.where(rng.random(shape) < 0.1, 0, weights) * rng.choice([1, 1, -1], shape)
    directions = np.where(rng.random(shape) < 0.6, 1, rng.integers(-3, 4, shape)) * rng.choice([1, 0.1], (batch, 1))
    return Rows(*map(np.float32, (x, weights, directions)), rng.integers(0, WIDTH, batch, np.int32))


def computed(x, b, v, y):
    """What is judged of one row, family by family."""
    t = labels_of(x, b)
    losses = {
        "integer label": lambda x: jaxsoftmax.softmax_cross_entropy_with_integer_labels(x, y),
        "float labels": lambda x: jaxsoftmax.softmax_cross_entropy(x, t),
        "training loss": lambda x: jaxsoftmax.cross_entropy(x, y, reduction="none"),
        "logsumexp": jaxsoftmax.logsumexp,
    }
    families = {}
    for name, loss in losses.items():
        families[name], gradient = jax.value_and_grad(loss)(x)
        families[f"gradient of {name}"] = gradient
        families[f"Hessian of {name}"] = jax.jvp(jax.grad(loss), (x,), (v,))[1]
    families["softmax"], s_dot = jax.jvp(jaxsoftmax.softmax, (x,), (v,))
    families["JVP of softmax"], families["VJP of softmax"] = s_dot, jax.vjp(jaxsoftmax.softmax, x)[1](v)[0]
    families["log_softmax"] = jaxsoftmax.log_softmax(x)
    of_weights = jax.value_and_grad(lambda x, b: jaxsoftmax.logsumexp(x, b=b, return_sign=True)[0], (0, 1))
    families["weighted"], (families["weighted by a"], families["weighted by b"]) = of_weights(x, b)
    families["sign"] = jaxsoftmax.logsumexp(x, b=b, return_sign=True)[1]
    families["weighted, forward mode"] = forward_mode.logsumexp(x, b=abs(b))
    return families


def labels_of(x, b):
    """Float labels that add up to about 1, none at a logit of -inf."""
    t = jnp.where(jnp.isneginf(x), 0, jnp.minimum(abs(b), 1e3) + 2.0**-20)
    return jax.lax.reduce_precision(t / jnp.sum(t), 8, 12)  # else XLA might keep other bits in another use


def right(x: np.ndarray, b: np.ndarray, v: np.ndarray, y: int, t: np.ndarray) -> dict[str, tuple[Any, Any]]:
    """For each family what is right of a row, and the size of whose last bits it may be off by eight."""
    finite, top = np.isfinite(x), int(np.argmax(x))
    x, b, v, t = exact(x), exact(b), exact(v), exact(t)
    e = exp(x - x[top])
    others, total = np.sum(np.delete(e, top)), np.sum(e)
    s, nll, v_less = e / total, x[top] - x + MP.log1p(others), v - v[top]
    at_top = np.arange(len(x)) == top
    product = s * (v_less - np.sum(s * v_less))
    # Of a row without a dominant entry the directions are added up as they are.
    product_size = abs(product) + s * (np.sum(s * abs(v_less)) + (total >= 1.875) * (abs(v) + np.sum(s * abs(v))))
    s_less_one = np.where(at_top, -others / total, s - 1)
    one_hot = np.where(np.arange(len(x)) == y, s_less_one, s)
    sum_t, others_t = np.sum(t), np.sum(np.delete(t, top))
    gradient = np.where(at_top, t * s_less_one + s * others_t, sum_t * s - t)
    gradient_size = np.where(at_top, t * -s_less_one + s * others_t, sum_t * s + t)
    lse, loss = x[top] + MP.log1p(others), np.sum(np.where(finite, t * nll, 0))
    families = {
        "softmax": (s, s),
        "log_softmax": (-nll, nll),
        "logsumexp": (lse, max(abs(lse), abs(x[top]))),
        "gradient of logsumexp": (s, s),
        "integer label": (nll[y], nll[y]),
        "gradient of integer label": (one_hot, abs(one_hot)),
        "float labels": (loss, loss),
        "gradient of float labels": (gradient, gradient_size),
        "JVP of softmax": (product, product_size),
    }
    families |= {name: families["JVP of softmax"] for name in ("VJP of softmax", "Hessian of logsumexp")}
    families["Hessian of integer label"] = families["Hessian of training loss"] = families["JVP of softmax"]
    families["Hessian of float labels"] = sum_t * product, sum_t * product_size
    families["training loss"] = families["integer label"]
    families["gradient of training loss"] = families["gradient of integer label"]
    return families | _right_of_weights(x, b)


def _right_of_weights(x: np.ndarray, b: np.ndarray) -> dict[str, tuple[Any, Any]]:
    """Of a weighted sum, with the conditioning of a signed one; nothing where it is nearly 0."""
    families = {}
    for name, weights in {"weighted": b, "weighted, forward mode": abs(b)}.items():
        terms = weights * exp(x)
        total, size = np.sum(terms), np.sum(abs(terms))
        if abs(total) <= size * 1e-5:
            continue
        lead = int(np.argmax(abs(terms)))
        value, conditioning = MP.log(abs(total)), size / abs(total)
        families[name] = value, max(abs(value), abs(x[lead]), abs(MP.log(abs(weights[lead])))) + conditioning
        if name == "weighted":
            by_a, by_b = terms / total, exp(x) / total
            families["sign"] = MP.sign(total), 0
            families["weighted by a"] = by_a, abs(by_a) * (1 + conditioning)
            families["weighted by b"] = by_b, abs(by_b) * (1 + conditioning)
    return families


def off(got: Any, expected: Any, size: Any) -> float:
    """The largest distance, in what is allowed; below float32's numbers, or above them, any number there will do."""
    got, expected, size = np.broadcast_arrays(exact(got), expected, size)
    worst = 0.0
    for one, other, allowed in zip(got.flat, expected.flat, size.flat, strict=True):
        other = MP.mpf(other)
        if MP.isnan(one) or MP.isinf(one) or MP.isinf(other):
            same = one == other or (MP.isinf(one) and abs(other) > LARGEST and one * other > 0)
            worst = max(worst, 0.0 if same else float("inf"))
        else:
            worst = max(worst, float(abs(one - other) / (8 * EPS * allowed + 16 * TINY)))
    return worst


PROGRAM = jax.jit(jax.vmap(computed))
LABELS = jax.jit(jax.vmap(labels_of))


def worst_of(seed: int, batch: int = BATCH) -> dict[str, tuple[float, Rows]]:
    """For each family the distance that is largest, and the row it is in."""
    rows = drawn(seed, batch)
    got, t = jax.tree.map(np.asarray, (PROGRAM(*rows), LABELS(*rows[:2])))
    worst: dict[str, tuple[float, Rows]] = {}
    for i in range(batch):
        row = Rows(*(array[i] for array in rows))
        for name, (expected, size) in right(*row, t[i]).items():
            distance = off(got[name][i], expected, size)
            worst[name] = max(worst.get(name, (0.0, row)), (distance, row), key=lambda found: found[0])
    return worst


if __name__ == "__main__":
    count, first = int(sys.argv[1]), int(sys.argv[2])
    total: dict[str, tuple[float, Rows]] = {}
    for seed in range(first, first + -(-count // BATCH)):
        for name, found in worst_of(seed).items():
            total[name] = max(total.get(name, (0.0, found[1])), found, key=lambda pair: pair[0])
        worst = max(total, key=lambda name: total[name][0])
        print(f"seed {seed}: {total[worst][0]:.3f} of what is allowed, {worst}", flush=True)
    for name, (distance, row) in total.items():
        print(f"{name:28} {distance:.3f} of what is allowed" + (f", {row}" if distance > 1 else ""))
