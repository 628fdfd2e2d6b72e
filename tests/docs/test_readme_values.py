"""README's table of what this library gets right: correct values are those of 50 digits, the others are computed."""

import decimal
import types

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import optax
import pytest

import jaxsoftmax
from docs.generate import certificates
from docs.generate.repository import RESULTS
from tests.docs.readme import README, shown
from tests.tolerances import precision

THEIRS = types.SimpleNamespace(
    softmax=jax.nn.softmax,
    logsumexp=jax.nn.logsumexp,
    softmax_cross_entropy=optax.softmax_cross_entropy,
    softmax_cross_entropy_with_integer_labels=optax.softmax_cross_entropy_with_integer_labels,
)
CONFIDENT, MANY, SHIFTED, ZEROS = [0.0, -20.0], [0.0] + [-17.0] * 4095, [1e4, 9990.0, 9980.0], [0.0] * 262144
INF = np.inf


def loss(logits, label=0, dtype="float32"):
    return lambda library: library.softmax_cross_entropy_with_integer_labels(jnp.array(logits, dtype), label)


def label_gradient(logits):
    def of(library):
        return jax.grad(lambda x: library.softmax_cross_entropy_with_integer_labels(x, 0))(jnp.array(logits))[0]

    return of


def exact_loss(logits):
    """The sum of the others' shares: exp(x_j - x_0)."""
    return mpmath.log1p(mpmath.fsum(mpmath.exp(mpmath.mpf(x) - logits[0]) for x in logits[1:]))


def exact_label_gradient(logits):
    return mpmath.expm1(-exact_loss(logits))


def float64_softmax_gradient(library):
    with precision("float64"):
        return jax.grad(lambda x: library.softmax(x)[0])(np.array([40.0, 0.0]))


def loss_of_a_masked_class(library):
    return library.softmax_cross_entropy(jnp.array([0.0, -INF, 1.0]), jnp.array([1.0, 0.0, 0.0]))


def log_sum_gradient_of_nothing(library):
    return jnp.max(jnp.abs(jax.grad(lambda x: library.logsumexp(x, axis=-1))(jnp.full(3, -INF))))


with mpmath.workdps(50):
    SHARE = mpmath.exp(-40) / (1 + mpmath.exp(-40)) ** 2
    ROWS = [  # in README's order: the correct numbers, and what each library computes
        ([exact_loss(CONFIDENT)], loss(CONFIDENT)),
        ([exact_label_gradient(CONFIDENT)], label_gradient(CONFIDENT)),
        ([exact_loss(MANY)], loss(MANY)),
        ([exact_label_gradient(MANY)], label_gradient(MANY)),
        ([exact_loss(SHIFTED)], loss(SHIFTED)),
        ([SHARE, -SHARE], float64_softmax_gradient),
        ([mpmath.log(1 + mpmath.e)], loss_of_a_masked_class),
        ([mpmath.mpf(0)], log_sum_gradient_of_nothing),
        ([exact_loss(CONFIDENT)], loss(CONFIDENT, dtype="bfloat16")),
        ([mpmath.log(len(ZEROS))], loss(ZEROS, dtype="bfloat16")),
    ]

TABLE = shown("input")
NUMBERS = [cells for cells in TABLE if not cells[0].startswith("label ")]
each_row = pytest.mark.parametrize(
    ("cells", "exact", "computed"),
    [pytest.param(cells, *row, id=f"row {i}") for i, (cells, row) in enumerate(zip(NUMBERS, ROWS, strict=True))],
)


def decimals(cell):
    """The numbers of a cell, as `1.5e-9`, `±1.5e-9` or `0, -1.5e-9`."""
    ascii_cell = cell.replace("−", "-")
    parts = [ascii_cell[1:], f"-{ascii_cell[1:]}"] if ascii_cell[0] == "±" else ascii_cell.split(", ")
    return [decimal.Decimal(part) for part in parts]


@each_row
def test_correct_value_is_that_of_50_digits_to_the_last_one_shown(cells, exact, computed):
    for number, truth in zip(decimals(cells[1]), exact, strict=True):
        assert len(number.as_tuple().digits) >= 9 or truth == 0
        assert abs(mpmath.mpf(str(number)) - truth) <= mpmath.mpf(10) ** number.as_tuple().exponent / 2


@each_row
def test_value_of_another_library_is_what_it_computes(cells, exact, computed):
    np.testing.assert_allclose(np.float64(computed(THEIRS)), np.float64(decimals(cells[2])), rtol=1e-3, atol=0)


@each_row
def test_value_of_this_library_is_what_it_computes(cells, exact, computed):
    np.testing.assert_allclose(np.float64(computed(jaxsoftmax)), np.float64(decimals(cells[3])), rtol=2.0**-22, atol=0)


def test_labels_outside_the_vocabulary_are_as_the_table_says():
    described = {cells[0]: cells[1:] for cells in TABLE if cells[0].startswith("label ")}
    assert described == {
        "label −1, of 3 classes": ["nan", "that of the last class", "nan, and a nan gradient for that row"],
        "label 3, of 3 classes": ["nan", "nan, with a finite gradient", "nan, and a nan gradient for that row"],
    }
    logits = jnp.array([[0.5, -1.0, 2.0]] * 3)
    labels = jnp.array([-1, 3, 2])

    def outcome(library):
        losses, pullback = jax.vjp(lambda x: library.softmax_cross_entropy_with_integer_labels(x, labels), logits)
        return np.asarray(losses), np.asarray(pullback(jnp.ones(3))[0])

    losses, gradients = outcome(THEIRS)
    assert losses[0] == losses[2]
    assert np.isnan(losses[1])
    assert np.isfinite(gradients).all()
    losses, gradients = outcome(jaxsoftmax)
    assert np.isnan(losses).tolist() == [True, True, False]
    assert np.isnan(gradients).tolist() == [[True] * 3, [True] * 3, [False] * 3]


@pytest.mark.skipif(not RESULTS.joinpath("certificate").exists(), reason="a source distribution has no results")
def test_certificate_has_as_many_rows_as_the_text_says():
    assert "and two thousand more." in README
    assert [round(len(kept.rows), -3) for kept in certificates.kept()] == [2000, 2000]
