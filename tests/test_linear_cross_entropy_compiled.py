"""What the fused head compiles to: its memory, its matrix products, its use of donated arrays; and it is repeatable."""

import re
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsoftmax import forward_mode, linear_cross_entropy
from tests.tiers import in_tiers

pytestmark = pytest.mark.usefixtures("fresh_compilation")
LARGE = ((4096, 256, 50257), (2048, 512, 131072))  # tokens, embed, vocab
at_large = pytest.mark.parametrize("shape", [LARGE[0], pytest.param(LARGE[1], marks=pytest.mark.slow)])


def arguments(tokens, embed, vocab, dtype=jnp.float32):
    shapes = (((tokens, embed), dtype), ((embed, vocab), dtype), ((tokens,), jnp.int32))
    return [jax.ShapeDtypeStruct(*shape) for shape in shapes]


def materialised(hidden, kernel, labels):
    logits = hidden @ kernel
    picked = jnp.take_along_axis(logits, labels[:, None], 1)[:, 0]
    return jnp.mean(jax.nn.logsumexp(logits, 1) - picked)


def with_gradients(loss):
    return jax.value_and_grad(loss, (0, 1))


def slope(hidden, kernel, labels):
    """The derivative along (hidden, kernel), in pure forward mode."""
    loss = partial(forward_mode.linear_cross_entropy, labels=labels)
    return jax.jvp(loss, (hidden, kernel), (hidden, kernel))


def forward_over_reverse(loss):
    def product(hidden, kernel, labels):
        gradients = jax.grad(lambda *head: loss(*head, labels), (0, 1))
        return jax.jvp(gradients, (hidden, kernel), (hidden, kernel))

    return product


def reverse_over_forward(hidden, kernel, labels):
    return jax.grad(lambda *head: slope(*head, labels)[1], (0, 1))(hidden, kernel)


@cache
def compiled(function, *shape):
    """For its text and its memory, which are settled before LLVM gets to optimise."""
    lowered = jax.jit(function).lower(*arguments(*shape))
    return lowered.compile(compiler_options={"xla_backend_optimization_level": 0})


def temporary_bytes(function, *shape):
    return compiled(function, *shape).memory_analysis().temp_size_in_bytes


HEAD, MATERIALISED = with_gradients(linear_cross_entropy), with_gradients(materialised)


@at_large
def test_no_buffer_holds_the_logits_of_all_tokens(shape):
    dims = re.findall(r"(?:[fsu]\d+|bf16|pred)\[([\d,]+)\]", compiled(HEAD, *shape).as_text())
    sizes = [np.prod([int(n) for n in each.split(",")], dtype=np.int64) for each in dims]
    assert max(sizes) <= max(shape[0] // 4, shape[1]) * shape[2]


@at_large
def test_memory_is_at_most_a_sixth_of_that_of_materialised_logits(shape):
    assert temporary_bytes(HEAD, *shape) <= temporary_bytes(MATERIALISED, *shape) / 6


CHUNK, KERNEL = 512 * 50257 * 4, 256 * 50257 * 4  # bytes, at the first of LARGE
OLD = jax.__version_info__ < (0, 11)
KEYWORDS = {  # and what each may hold besides
    "bias": (
        dict(bias=np.linspace(-1, 1, 50257, dtype=np.float32)),
        CHUNK if OLD else 0,
    ),  # it copies what it adds the bias to
    "class weights": (dict(class_weights=np.linspace(1, 2, 50257, dtype=np.float32)), 0),
    "ignore_index": (dict(ignore_index=-1), KERNEL if OLD else 0),  # it copies what passes through a conditional
    "label_smoothing": (dict(label_smoothing=0.1), 0),
    "z_loss": (dict(z_loss=1e-4), 0),
    "logit_softcap": (dict(logit_softcap=30.0), CHUNK),  # what is capped, for the slope, and the logits
}
FIRST = ["logit_softcap"]  # which holds the most


@in_tiers("name", KEYWORDS, FIRST)
def test_a_keyword_holds_little_besides(name):
    keywords, besides = KEYWORDS[name]
    with_keyword = with_gradients(partial(linear_cross_entropy, **keywords))
    assert temporary_bytes(with_keyword, *LARGE[0]) <= 1.06 * temporary_bytes(HEAD, *LARGE[0]) + besides


def ignoring(loss):
    return partial(loss, ignore_index=-1)


SWEEPS = {
    "value and gradients": HEAD,
    "value and gradients of the forward-mode variant": with_gradients(forward_mode.linear_cross_entropy),
    "value and gradients of some": with_gradients(ignoring(linear_cross_entropy)),
    "value and gradients of some of the forward-mode variant": with_gradients(
        ignoring(forward_mode.linear_cross_entropy)
    ),
    "forward over reverse of some of the forward-mode variant": forward_over_reverse(
        ignoring(forward_mode.linear_cross_entropy)
    ),
    "forward mode": slope,
    "forward over reverse": forward_over_reverse(linear_cross_entropy),
    "forward over reverse of the forward-mode variant": forward_over_reverse(forward_mode.linear_cross_entropy),
    "reverse over forward": reverse_over_forward,
}


@in_tiers("name", SWEEPS, first=["value and gradients"])
def test_memory_does_not_grow_with_the_tokens(name):
    few, many = (temporary_bytes(SWEEPS[name], tokens, 64, 20011) for tokens in (4096, 8192))
    assert many <= 1.1 * few
    assert many < 2 * 8192 * 20011  # half of the logits; a chunk of them is 1/16


@pytest.mark.parametrize(("argnums", "products"), [((), 1), ((0,), 2), ((1,), 2), ((0, 1), 3)])
def test_only_the_matrix_products_asked_for_are_formed(argnums, products):
    head = jax.value_and_grad(linear_cross_entropy, argnums) if argnums else linear_cross_entropy
    assert products_in(head) == products


@pytest.mark.parametrize(("argnums", "products"), [((0,), 3), ((1,), 3), ((0, 1), 4)])
def test_losses_of_tokens_form_their_logits_once_more_for_the_gradients_asked_for(argnums, products):
    losses = jax.value_and_grad(lambda *head: jnp.sum(linear_cross_entropy(*head, reduction="none")), argnums)
    assert products_in(losses) == products


def products_in(function):
    """In the program for this platform, as JAX hands it to XLA."""
    return jax.jit(function).lower(*arguments(6, 4, 9)).as_text().count("stablehlo.dot_general")


@pytest.mark.slow
def test_a_step_of_training_reuses_the_donated_kernel():
    def step(kernel, hidden, labels):
        return kernel - jax.grad(linear_cross_entropy, 1)(hidden, kernel, labels)

    hidden, kernel, labels = arguments(64, 8, 4096)
    program = jax.jit(step, donate_argnums=0).lower(kernel, hidden, labels).compile()
    assert program.memory_analysis().alias_size_in_bytes == 4 * 8 * 4096


@pytest.mark.slow
def test_head_is_repeatable_bit_for_bit():
    rng = np.random.default_rng(0)
    hidden, kernel = (rng.normal(size=size).astype(np.float32) for size in ((600, 16), (16, 9001)))
    labels = np.where(rng.random(600) < 0.3, -1, rng.integers(0, 9001, 600)).astype(np.int32)
    run = jax.jit(with_gradients(partial(linear_cross_entropy, ignore_index=-1)))
    first, again = (jax.tree.leaves(run(hidden, kernel, labels)) for _ in range(2))
    for one, other in zip(first, again, strict=True):
        np.testing.assert_array_equal(one, other)
