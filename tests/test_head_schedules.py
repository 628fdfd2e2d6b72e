"""Whatever schedule the fused head follows, its numbers are the same; a wrong schedule is caught."""

from functools import partial
from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType

import jaxsoftmax
from jaxsoftmax._head import class_blocks, gradient_task, token_chunks, whole_rows
from tests.head_cases import SCHEDULES, follow
from tests.tiers import in_tiers

TOKENS, EMBED, VOCAB = 24, 8, 1100
OTHERS = SCHEDULES[1:]
RNG = np.random.default_rng(0)
HIDDEN, KERNEL, BIAS = (RNG.normal(size=n).astype("f4") for n in ((TOKENS, EMBED), (EMBED, VOCAB), (VOCAB,)))
LABELS = np.arange(TOKENS) * 45
LABELS[3:14] = -1  # a chunk of ignored tokens among them
OPTIONS = dict(ignore_index=-1, label_smoothing=0.1, z_loss=0.01, logit_softcap=5.0, chunk_size=5)
V = HIDDEN[::-1], KERNEL[:, ::-1], BIAS[::-1]


def loss(hidden, kernel, bias, **options):
    return jnp.sum(jaxsoftmax.linear_cross_entropy(hidden, kernel, LABELS, bias=bias, **OPTIONS | options))


def over_mesh(hidden, kernel, bias):
    mesh = jax.make_mesh((2, 2), ("data", "vocab"), axis_types=(AxisType.Auto,) * 2)
    head = partial(jaxsoftmax.sharded_linear_cross_entropy, mesh=mesh, token_axes="data", vocab_axis="vocab")
    return head(hidden, kernel, LABELS, bias=bias, **OPTIONS)


GRADIENT = jax.grad(loss, (0, 1, 2))
PROGRAMS = {
    "value and gradients": lambda *head: (loss(*head), GRADIENT(*head)),
    "gradients of unreduced losses": lambda *head: jax.grad(partial(loss, reduction="none"), (0, 1, 2))(*head),
    "some gradients": lambda *head: jax.grad(loss, (1,))(*head),
    "forward over reverse": lambda *head: jax.jvp(GRADIENT, head, V)[1],
    "reverse over reverse": lambda *head: jax.vjp(GRADIENT, *head)[1](V),
    "over a mesh": lambda *head: (over_mesh(*head), jax.grad(over_mesh, (0, 1, 2))(*head)),
    "forward over reverse over a mesh": lambda *head: jax.jvp(jax.grad(over_mesh, (0, 1, 2)), head, V)[1],
    "vmap of gradients": lambda *head: jax.vmap(GRADIENT, (None, 0, None))(*head[:1], jnp.stack(head[1:2] * 2), BIAS),
}


def run(program):
    return jax.tree.leaves(jax.jit(program)(HIDDEN, KERNEL, BIAS))


def agree(got, expected):
    for one, other in zip(got, expected, strict=True):
        assert np.max(np.abs(other)) > 0
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6 * np.max(np.abs(other)))


@pytest.fixture(scope="module")
def found():
    """What programs gave, by name."""
    return {}


@pytest.fixture
def on_a_cpu(found, monkeypatch):
    """What a program gives as a CPU runs it, computed once."""

    def result(program):
        if program not in found:
            with monkeypatch.context() as patched:
                follow(patched, "CPU", classes=512)
                found[program] = run(PROGRAMS[program])
        return found[program]

    yield result
    monkeypatch.undo()
    jax.clear_caches()  # of a schedule that was planted


FIRST = [("whole rows", "value and gradients"), ("CPU, all tokens", "value and gradients")]


@in_tiers(("schedule", "program"), list(product(OTHERS, PROGRAMS)), FIRST)
def test_every_schedule_gives_the_numbers_of_the_cpu_s(schedule, program, monkeypatch, on_a_cpu):
    expected = on_a_cpu(program)
    follow(monkeypatch, schedule, classes=512)  # three blocks, of which the last is ragged
    agree(run(PROGRAMS[program]), expected)


def first_chunk_twice(step, init, xs, first_step):
    carry, first = first_step(init, jax.tree.map(lambda array: array[0], xs))
    carry, others = jax.lax.scan(step, carry, xs)
    return carry, jax.tree.map(lambda one, several: jnp.concatenate([one[None], several[1:]]), first, others)


def one_class_further(right, first, array, block):
    return right(first + 1, array, block)


PLANTED = {
    "the first chunk is added twice": (token_chunks, "scan_chunks", lambda right: first_chunk_twice),
    "a block of dW is one class off": (class_blocks, "_written", lambda right: partial(one_class_further, right)),
    "the last block is said to begin further on": (
        class_blocks,
        "_first_class",
        lambda right: lambda i, classes, vocab: i * classes,
    ),
    "classes of two blocks count twice": (
        class_blocks._Blocks,
        "is_new",
        lambda right: lambda blocks, i: jnp.ones((1, blocks.classes), bool),
    ),
    "hidden states of ignored tokens count": (
        gradient_task,
        "zero_ignored_hidden",
        lambda right: lambda hidden, ignored: hidden.at[3].set(jnp.nan),
    ),
}


@in_tiers("name", PLANTED, first=["the first chunk is added twice", "a block of dW is one class off"])
def test_a_wrong_schedule_is_caught(name, monkeypatch, on_a_cpu):
    right = on_a_cpu("value and gradients")
    module, function, plant = PLANTED[name]
    monkeypatch.setattr(module, function, plant(getattr(module, function)))
    follow(
        monkeypatch,
        "whole rows, all tokens" if module in (class_blocks, class_blocks._Blocks) else "whole rows",
        classes=512,
    )
    with pytest.raises(AssertionError):
        agree(run(PROGRAMS["value and gradients"]), right)


@pytest.mark.slow
def test_without_its_barrier_a_schedule_is_slower_and_not_wrong(monkeypatch, on_a_cpu):
    right = on_a_cpu("value and gradients")
    monkeypatch.setattr(whole_rows.lax, "optimization_barrier", lambda array: array)
    follow(monkeypatch, "whole rows")
    agree(run(PROGRAMS["value and gradients"]), right)


@in_tiers("schedule", SCHEDULES, first=["CPU", "whole rows"])
def test_tails_survive_every_schedule(schedule, monkeypatch):
    """At a gap of 50 nats every gradient is a multiple of the tail (VOCAB - 1) e^-50, which 1 + r would absorb."""
    kernel = np.zeros((1, VOCAB), np.float32)
    kernel[0, 7] = 50.0
    labels = np.full(4, 7)
    follow(monkeypatch, schedule, classes=512)

    def of_head(kernel):
        return jaxsoftmax.linear_cross_entropy(jnp.ones((4, 1)), kernel, labels, reduction="sum", chunk_size=2)

    value, gradient = jax.jit(jax.value_and_grad(of_head))(kernel)
    tail = np.exp(-50.0)
    np.testing.assert_allclose(value, 4 * (VOCAB - 1) * tail, rtol=1e-5)
    np.testing.assert_allclose(gradient[0, 7], -4 * (VOCAB - 1) * tail, rtol=1e-5)
    np.testing.assert_allclose(np.delete(gradient[0], 7), 4 * tail, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_a_small_budget_of_bytes_changes_no_number_beyond_the_dtype_s_rounding(dtype):
    """Kernels in a dtype narrower than the sums are those of which a budget may have blocks of classes taken."""
    head = [array.astype(dtype) for array in (HIDDEN, KERNEL, BIAS)]

    def gradients(memory_budget):
        return jax.jit(jax.grad(partial(loss, memory_budget=memory_budget), (0, 1, 2)))(*head)

    for in_blocks, in_chunks in zip(gradients(1), gradients(None), strict=True):
        assert in_blocks.dtype == in_chunks.dtype == dtype
        expected = np.float64(in_chunks)
        assert np.linalg.norm(in_blocks - expected) <= float(jnp.finfo(dtype).eps) * np.linalg.norm(expected)


@pytest.mark.slow
def test_a_budget_of_more_bytes_than_32_bits_can_say_is_taken():
    assert loss(HIDDEN, KERNEL, BIAS, memory_budget=4 << 30) == loss(HIDDEN, KERNEL, BIAS)


@pytest.mark.slow
def test_a_budget_of_bytes_is_kept_where_the_sums_over_chunks_would_exceed_it():
    shapes = (((1024, 64), "bfloat16"), ((64, 65536), "bfloat16"), ((1024,), "int32"))
    arrays = [jax.ShapeDtypeStruct(*shape) for shape in shapes]

    def temporary(budget):
        program = jax.value_and_grad(partial(jaxsoftmax.linear_cross_entropy, memory_budget=budget), (0, 1))
        return jax.jit(program).lower(*arrays).compile().memory_analysis().temp_size_in_bytes

    budget = 56 << 20
    assert temporary(None) > 4 * 64 * 65536 + budget  # the sums, and the logits of 512 tokens
    assert temporary(budget) < 1.1 * budget
