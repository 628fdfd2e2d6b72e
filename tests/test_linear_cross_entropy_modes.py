"""Derivatives of the fused head of any order, under every transformation, are those of materialised logits."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxsoftmax
from jaxsoftmax import forward_mode
from tests.head_cases import gradient_and_hessian_product
from tests.tiers import in_tiers

HIDDEN = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)
KERNEL = np.random.default_rng(1).normal(size=(4, 9)).astype(np.float32)
LABELS = np.arange(6, dtype=np.int32)
MODES = {
    "forward over reverse": lambda f: lambda w: jax.jvp(jax.grad(f), (w,), (w / 2,))[1],
    "reverse over reverse": lambda f: jax.grad(lambda w: jnp.sum(jax.grad(f)(w) ** 2)),
    "checkpoint": lambda f: jax.grad(jax.checkpoint(f)),
    "vmap": lambda f: lambda w: jax.vmap(jax.grad(f))(jnp.stack([w, 2 * w])),
    "scan": lambda f: lambda w: jax.lax.map(jax.grad(f), jnp.stack([w, 2 * w])),
}
FORWARD_MODES = {
    "reverse over forward": lambda f: jax.grad(lambda w: jax.jvp(f, (w,), (w / 2,))[1]),
    "linearize": lambda f: lambda w: jax.linearize(f, w)[1](w / 2),
    "jacfwd": lambda f: jax.jacfwd(f),
    "forward over reverse": MODES["forward over reverse"],
}
EXPECTED = {  # of g(w) = (dX, dW) and a Hessian product h(w, v)
    "forward over reverse": lambda g, h, w: h(w, w / 2),
    "reverse over reverse": lambda g, h, w: 2 * h(w, g(w)[1]),
    "checkpoint": lambda g, h, w: g(w)[1],
    "vmap": lambda g, h, w: np.stack([g(w)[1], g(2 * w)[1]]),
    "scan": lambda g, h, w: np.stack([g(w)[1], g(2 * w)[1]]),
    "reverse over forward": lambda g, h, w: h(w, w / 2) + g(w)[1] / 2,
    "linearize": lambda g, h, w: np.vdot(g(w)[1], w / 2),
    "jacfwd": lambda g, h, w: g(w)[1],
}
OPTIONS = {
    "mean": dict(reduction="mean"),
    "none": dict(reduction="none"),
    "mean of some": dict(reduction="mean", ignore_index=0),
    "none of some": dict(reduction="none", ignore_index=0),
    "mean of some others than classes": dict(reduction="mean", ignore_index=-1),
}


@cache
def derivatives(module, modes, options):
    """Those of the sum of the losses in the kernel, by mode, in one program."""
    options = OPTIONS[options]
    labels = np.where(LABELS == 0, options.get("ignore_index", 0), LABELS).astype(np.int32)

    def of_head(w):
        return jnp.sum(module.linear_cross_entropy(HIDDEN, w, labels, chunk_size=4, **options))

    return jax.jit(lambda w: {name: mode(of_head)(w) for name, mode in modes})(KERNEL)


def closed_form(mode, options):
    options = OPTIONS[options]
    counted = (LABELS != 0) | ("ignore_index" not in options)
    scale = counted / (np.sum(counted) if options["reduction"] == "mean" else 1)
    return EXPECTED[mode](*gradient_and_hessian_product(HIDDEN, LABELS, scale), KERNEL.astype(np.float64))


def assert_near(got, expected):
    assert np.shape(got) == np.shape(expected)
    assert np.linalg.norm(got - expected) <= 1e-6 * np.linalg.norm(expected)


@in_tiers("options", OPTIONS, first=["mean"])
@pytest.mark.parametrize("mode", MODES)
def test_transformations_give_what_they_give_of_materialised_logits(mode, options):
    got = derivatives(jaxsoftmax, tuple(MODES.items()), options)[mode]
    assert_near(got, closed_form(mode, options))


@pytest.mark.slow
@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("mode", FORWARD_MODES)
def test_transformations_of_the_forward_mode_variant_give_what_they_give_of_materialised_logits(mode, options):
    got = derivatives(forward_mode, tuple(FORWARD_MODES.items()), options)[mode]
    assert_near(got, closed_form(mode, options))


SOME, EVERY = [(0,), (1, 2), (0, 1, 2)], [(0,), (1,), (2,), (0, 1), (1, 2), (0, 2), (0, 1, 2)]


@pytest.mark.parametrize("choices", [SOME, pytest.param(EVERY, marks=pytest.mark.slow)], ids=["some", "every"])
@pytest.mark.parametrize("reduction", ["mean", pytest.param("none", marks=pytest.mark.slow)])
def test_backward_passes_in_any_order_give_the_gradients_that_their_own_forward_passes_wanted(reduction, choices):
    # All go through one jitted function, which JAX gives one memory of what a forward pass has left.
    bias = np.linspace(-1, 1, KERNEL.shape[1], dtype=np.float32)

    def loss(hidden, kernel, bias):
        return jnp.mean(jaxsoftmax.linear_cross_entropy(hidden, kernel, LABELS, bias=bias, reduction=reduction))

    arguments = HIDDEN, KERNEL, bias
    expected = jax.grad(lambda h, k, b: jaxsoftmax.cross_entropy(h @ k + b, LABELS), (0, 1, 2))(*arguments)

    def pullback(*wanted):
        def of_wanted(*values):
            given = dict(zip(wanted, values, strict=True))
            return loss(*(given.get(at, argument) for at, argument in enumerate(arguments)))

        return jax.vjp(of_wanted, *(arguments[at] for at in wanted))[1]

    pullbacks = [pullback(*wanted) for wanted in choices]
    for wanted, back in zip(choices, pullbacks, strict=True):
        for at, gradient in zip(wanted, back(jnp.float32(1)), strict=True):
            np.testing.assert_allclose(gradient, expected[at], rtol=1e-5, atol=1e-7)
