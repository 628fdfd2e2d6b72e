"""What token statistics, distillation and losses with parts compile to in the head: their memory and their products."""

import re
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsoftmax import SparseLabels, linear_cross_entropy, linear_distillation, linear_token_stats, token_stats
from tests.tiers import in_tiers

pytestmark = pytest.mark.usefixtures("fresh_compilation")
LARGE, SMALL = (4096, 256, 50257), (6, 4, 9)  # tokens, embed, vocab
STATS = ("log_prob", "entropy", "log_sum_exp")


def arguments(tokens, embed, vocab):
    """Hidden, kernel, labels, classes and weights of sparse labels, a teacher's hidden and kernel."""
    shapes = {"hidden": (tokens, embed), "kernel": (embed, vocab), "labels": (tokens,), "indices": (tokens, 2)}
    shapes |= {"weights": (tokens, 2), "teacher_hidden": (tokens, embed), "teacher_kernel": (embed, vocab)}
    dtypes = {"labels": jnp.int32, "indices": jnp.int32}
    return {name: jax.ShapeDtypeStruct(shape, dtypes.get(name, jnp.float32)) for name, shape in shapes.items()}


def stats_of(*names):
    def total(hidden, kernel, labels, **_):
        stats = linear_token_stats(hidden, kernel, labels)
        return sum(jnp.sum(getattr(stats, name)) for name in names)

    return total


def materialised_stats(hidden, kernel, labels, **_):
    log_s = jax.nn.log_softmax(hidden @ kernel)
    entropy = -jnp.sum(jnp.exp(log_s) * log_s, -1)
    return jnp.sum(entropy) + jnp.sum(jnp.take_along_axis(log_s, labels[:, None], 1))


def distilled(hidden, kernel, teacher_hidden, teacher_kernel, **_):
    return linear_distillation(hidden, kernel, teacher_hidden, teacher_kernel)


def materialised_distillation(hidden, kernel, teacher_hidden, teacher_kernel, **_):
    log_q, log_p = jax.nn.log_softmax(hidden @ kernel), jax.nn.log_softmax(teacher_hidden @ teacher_kernel)
    return jnp.mean(jnp.sum(jnp.exp(log_p) * (log_p - log_q), -1))


def sparse(hidden, kernel, indices, weights, has_aux=False, **_):
    return linear_cross_entropy(hidden, kernel, SparseLabels(indices, weights), has_aux=has_aux)


def sparse_with_parts(**given):
    return sparse(**given, has_aux=True)


def integer(hidden, kernel, labels, has_aux=False, **_):
    return linear_cross_entropy(hidden, kernel, labels, has_aux=has_aux)


def integer_with_parts(**given):
    return integer(**given, has_aux=True)


def with_gradients(function, *names, has_aux=False):
    """The value and the gradients in the arguments of these names."""

    def both(**given):
        others = {name: each for name, each in given.items() if name not in names}
        wanted = {name: given[name] for name in names}
        return jax.value_and_grad(lambda wanted: function(**wanted, **others), has_aux=has_aux)(wanted)

    return both if names else function


OF_HEAD = ("hidden", "kernel")
PROGRAMS = {
    "token statistics": with_gradients(stats_of("log_prob", "entropy"), *OF_HEAD),
    "materialised token statistics": with_gradients(materialised_stats, *OF_HEAD),
    "materialised distillation": with_gradients(materialised_distillation, *OF_HEAD),
    "distillation": with_gradients(distilled, *OF_HEAD),
    "sparse labels with parts": with_gradients(sparse_with_parts, *OF_HEAD, has_aux=True),
    "integer labels with parts": with_gradients(integer_with_parts, *OF_HEAD, has_aux=True),
}
OF_CHUNKS = [name for name in PROGRAMS if not name.startswith("materialised")]


@cache
def compiled(name):
    lowered = jax.jit(PROGRAMS[name]).lower(**arguments(*LARGE))
    return lowered.compile(compiler_options={"xla_backend_optimization_level": 0})


@in_tiers("name", OF_CHUNKS, first=OF_CHUNKS[:1])
def test_no_buffer_holds_the_logits_of_all_tokens(name):
    dims = re.findall(r"(?:[fsu]\d+|bf16|pred)\[([\d,]+)\]", compiled(name).as_text())
    sizes = [np.prod([int(n) for n in each.split(",")], dtype=np.int64) for each in dims]
    assert max(sizes) <= LARGE[0] // 4 * LARGE[2]


@in_tiers("name", OF_CHUNKS, first=OF_CHUNKS[:1])
def test_memory_is_at_most_a_sixth_of_that_of_materialised_logits(name):
    other = "materialised distillation" if name == "distillation" else "materialised token statistics"
    of_chunks, of_all = (compiled(each).memory_analysis() for each in (name, other))
    assert of_chunks.temp_size_in_bytes <= of_all.temp_size_in_bytes / 6


def products_in(function):
    """Of 2 N D V flops each, in the program for this platform, as JAX hands it to XLA."""
    return jax.jit(function).lower(**arguments(*SMALL)).as_text().count("stablehlo.dot_general")


def test_values_of_token_statistics_form_one_product():
    assert products_in(stats_of(*STATS)) == 1


@pytest.mark.parametrize("names", [STATS[:1], STATS[1:2], STATS[2:], STATS])
def test_a_backward_pass_of_token_statistics_forms_four_products_in_all_however_many_are_used(names):
    assert products_in(with_gradients(stats_of(*names), *OF_HEAD)) == 4


LOSSES = {"integer": (integer, integer_with_parts), "sparse": (sparse, sparse_with_parts)}


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("wanted", [(), OF_HEAD])
def test_parts_of_a_loss_add_no_product(name, wanted):
    without, with_parts = LOSSES[name]
    products = products_in(with_gradients(with_parts, *wanted, has_aux=True))
    assert products == products_in(with_gradients(without, *wanted)) == 1 + len(wanted)


TEACHER = ("teacher_hidden", "teacher_kernel")


@pytest.mark.parametrize(("wanted", "products"), [((), 2), (OF_HEAD, 4), (TEACHER, 4), ((*OF_HEAD, *TEACHER), 6)])
def test_of_a_constant_teacher_the_logits_alone_are_formed(wanted, products):
    assert products_in(with_gradients(distilled, *wanted)) == products


def test_a_teacher_whose_gradient_is_stopped_has_none_formed():
    def stopped(teacher_hidden, teacher_kernel, **given):
        teacher = jax.lax.stop_gradient((teacher_hidden, teacher_kernel))
        return distilled(**given, teacher_hidden=teacher[0], teacher_kernel=teacher[1])

    assert products_in(with_gradients(stopped, *OF_HEAD, *TEACHER)) == 4


FUNCTIONS = {
    "rows": lambda hidden, labels, **_: token_stats(hidden, labels),
    "head": lambda hidden, kernel, labels, **_: linear_token_stats(hidden, kernel, labels),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_prediction_that_is_not_used_is_not_computed(name):
    """On a CPU the first index of a maximum is a minimum of indices."""

    def minima_in(*names):
        program = jax.jit(lambda **given: [getattr(FUNCTIONS[name](**given), each) for each in names])
        return program.lower(**arguments(*SMALL)).compile().as_text().count("f32[] minimum(")

    assert minima_in(*STATS) == 0
    assert minima_in("prediction") == 1
