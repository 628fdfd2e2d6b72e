"""Times of one product with the curvature, side by side, in float32."""

from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

import jaxsoftmax
from experiments._confident_curvature import OPTAX_PRODUCT, product_with_optax
from experiments._curvature_products import (
    Flat,
    Logits,
    Model,
    Pixels,
    Product,
    forward_over_reverse,
    gauss_newton,
    linearized_twin,
    model_of,
    reverse_over_forward_twin,
    reverse_over_reverse,
)
from jaxsoftmax.bench import Spread, interleaved, ratios, seconds_of


def _gradient(model: Model, v: Flat) -> Flat:
    return jax.grad(model.of(jaxsoftmax.cross_entropy))(model.point)


@dataclass(frozen=True)
class Times:
    """Of one subject: the median, and the quartiles of its ratio to optax's in the same round."""

    seconds: float
    ratio: Spread


SUBJECTS: dict[str, Product] = {
    "the gradient alone": _gradient,
    OPTAX_PRODUCT: product_with_optax,
    "jvp of grad": forward_over_reverse,
    "grad of ⟨grad, v⟩": reverse_over_reverse,
    "linearize of the twin's grad": linearized_twin,
    "grad of the twin's jvp": reverse_over_forward_twin,
    "Gauss–Newton by cross_entropy_hvp": gauss_newton,
}


def _as_they_are(logits: Logits, x: Pixels) -> Logits:
    return logits


def logits_alone(rows: int, classes: int, seed: int) -> Model:
    """Returns a network that is its logits: nothing but the loss takes time."""
    rng = np.random.default_rng(seed)
    logits, labels = rng.normal(size=(rows, classes)), rng.integers(classes, size=rows)
    return model_of(_as_they_are, logits, np.zeros((rows, 0)), labels, "float32")


def times(model: Model, v: np.ndarray, rounds: int) -> dict[str, Times]:
    """Times each subject's product with v, compiled, in interleaved rounds."""
    direction = jnp.asarray(v, jnp.float32)
    calls = {}
    for name, product in SUBJECTS.items():
        calls[name] = partial(_call, jax.jit(product), model, direction)
        calls[name]()
    clocks = {name: partial(seconds_of, call) for name, call in calls.items()}
    found = interleaved(clocks, 0.0, rounds)
    return {name: Times(float(np.median(each)), ratios(each, found[OPTAX_PRODUCT])) for name, each in found.items()}


def _call(product: Product, model: Model, v: Flat) -> Flat:
    return jax.block_until_ready(product(model, v))
