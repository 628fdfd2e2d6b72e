"""The table of what this library gets right: correct values are those of 50 digits, the others are computed."""

import decimal
import functools
import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxsoftmax
from docs.generate import certificates
from docs.generate.repository import RESULTS
from tests.docs.pages import PAGES, shown
from tests.tolerances import MP, array, exact, exact_softmax, exp, log, precision

THEIRS = types.SimpleNamespace(
    softmax=jax.nn.softmax,
    logsumexp=jax.nn.logsumexp,
    softmax_cross_entropy=optax.softmax_cross_entropy,
    softmax_cross_entropy_with_integer_labels=optax.softmax_cross_entropy_with_integer_labels,
)
LIBRARIES = {"theirs": THEIRS, "ours": jaxsoftmax}
INF = np.inf
CONFIDENT, MANY, SHIFTED = (
    ([0.0, -20.0], "float32"),
    ([0.0] + [-17.0] * 4095, "float32"),
    ([1e4, 9990, 9980], "float32"),
)


def exact_loss(logits):
    """The sum of the others' shares: exp(x_j - x_0)."""
    values, counts = np.unique(logits, return_counts=True)
    return log((counts * exp(exact(values) - logits[0])).sum())


def exact_label_gradient(logits):
    return exp(-exact_loss(logits)) - 1


def loss(library, x):
    return library.softmax_cross_entropy_with_integer_labels(x, 0)


def label_gradient(library, x):
    return jax.grad(loss, 1)(library, x)[0]


def softmax_gradient(library, x):
    return jax.grad(lambda x: library.softmax(x)[0])(x)


def softmax_product(library, x):
    return jax.vjp(library.softmax, x)[1](jnp.array([-2.0, -2.0, 1.0]))[0]


def loss_with_a_masked_class(library, x):
    return library.softmax_cross_entropy(x, jnp.array([1.0, 0.0, 0.0]))


def log_sum_gradient(library, x):
    return jnp.max(jnp.abs(jax.grad(lambda x: library.logsumexp(x, axis=-1))(x)))


def exact_softmax_product(logits, cotangent):
    s = exact_softmax(logits)
    return list(s * (exact(cotangent) - np.sum(s * exact(cotangent))))


FALLING = [0.0, -20.0, -20.0]
SHARE = exp(exact(-40)) / (1 + exp(exact(-40))) ** 2
ROWS = [  # in the table's order: the correct numbers, what each library computes, and of what
    ([exact_loss(CONFIDENT[0])], loss, CONFIDENT),
    ([exact_label_gradient(CONFIDENT[0])], label_gradient, CONFIDENT),
    ([exact_loss(MANY[0])], loss, MANY),
    ([exact_label_gradient(MANY[0])], label_gradient, MANY),
    ([exact_loss(SHIFTED[0])], loss, SHIFTED),
    ([SHARE, -SHARE], softmax_gradient, ([40.0, 0.0], "float64")),
    (exact_softmax_product(FALLING, [-2.0, -2.0, 1.0]), softmax_product, (FALLING, "float32")),
    ([log(1 + exp(exact(1)))], loss_with_a_masked_class, ([0.0, -INF, 1.0], "float32")),
    ([exact(0)], log_sum_gradient, ([-INF] * 3, "float32")),
    ([exact_loss(CONFIDENT[0])], loss, ([0.0, -20.0], "bfloat16")),
    ([log(exact(262144))], loss, (np.zeros(262144), "bfloat16")),
]

TABLE = shown("input")
NUMBERS = [cells for cells in TABLE if not cells[0].startswith("label ")]
each_row = pytest.mark.parametrize(
    ("cells", "row"),
    [pytest.param(cells, i, id=f"row {i}") for i, (cells, _) in enumerate(zip(NUMBERS, ROWS, strict=True))],
)


@functools.cache
def computed(library):
    """The numbers of every row: in one program those without float64, and in another the rest."""

    @jax.jit
    def numbers(inputs):
        return {row: ROWS[row][1](LIBRARIES[library], x) for row, x in inputs.items()}

    inputs = {row: array(*values_and_dtype) for row, (_, _, values_and_dtype) in enumerate(ROWS)}
    wide = {row: x for row, x in inputs.items() if x.dtype == np.float64}
    with precision("float64"):
        of_wide = numbers(wide)
    return of_wide | numbers({row: x for row, x in inputs.items() if row not in wide})


def decimals(cell):
    """The numbers of a cell, as `1.5e-9`, `±1.5e-9` or `0, -1.5e-9`."""
    ascii_cell = cell.replace("−", "-")
    parts = [ascii_cell[1:], f"-{ascii_cell[1:]}"] if ascii_cell[0] == "±" else ascii_cell.split(", ")
    return [decimal.Decimal(part) for part in parts]


@each_row
def test_correct_value_is_that_of_50_digits_to_the_last_one_shown(cells, row):
    for number, truth in zip(decimals(cells[1]), ROWS[row][0], strict=True):
        assert len(number.as_tuple().digits) >= 9 or truth == 0
        assert abs(MP.mpf(str(number)) - truth) <= MP.mpf(10) ** number.as_tuple().exponent / 2


@each_row
def test_value_of_another_library_is_what_it_computes(cells, row):
    shown_there = np.float64(decimals(cells[2]))
    np.testing.assert_allclose(np.float64(computed("theirs")[row]), shown_there, rtol=1e-3, atol=0)


@each_row
def test_value_of_this_library_is_what_it_computes(cells, row):
    shown_there = np.float64(decimals(cells[3]))
    np.testing.assert_allclose(np.float64(computed("ours")[row]), shown_there, rtol=2.0**-22, atol=0)


def test_labels_outside_the_vocabulary_are_as_the_table_says():
    described = {cells[0]: cells[1:] for cells in TABLE if cells[0].startswith("label ")}
    assert described == {
        "label −1, of 3 classes": ["nan", "that of the last class", "nan, and a nan gradient for that row"],
        "label 3, of 3 classes": ["nan", "nan, with a finite gradient", "nan, and a nan gradient for that row"],
    }
    logits, labels = array([[0.5, -1.0, 2.0]] * 3, "float32"), np.array([-1, 3, 2], np.int32)

    def outcome(library):
        def losses(x):
            return library.softmax_cross_entropy_with_integer_labels(x, labels)

        return jax.jit(lambda x: (losses(x), jax.grad(lambda x: jnp.sum(losses(x)))(x)))(logits)

    losses, gradients = outcome(THEIRS)
    assert losses[0] == losses[2]
    assert np.isnan(losses[1])
    assert np.isfinite(gradients).all()
    losses, gradients = outcome(jaxsoftmax)
    assert np.isnan(losses).tolist() == [True, True, False]
    assert np.isnan(gradients).tolist() == [[True] * 3, [True] * 3, [False] * 3]


@pytest.mark.skipif(not RESULTS.joinpath("certificate").exists(), reason="a source distribution has no results")
def test_certificate_has_as_many_rows_as_the_text_says():
    assert "and 3700 more." in PAGES
    assert [round(len(kept.rows), -2) for kept in certificates.kept()] == [3700, 3700]
