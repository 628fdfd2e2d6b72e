"""The equality checker accepts every right line, and only those."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.derivation.claim import check_all, judge
from experiments.derivation.equalities import Derivation, Line, check, draw_points
from experiments.derivation.source_documents import DOCUMENTS, matrix_calculus
from experiments.derivation.source_documents.textbook import softmax


@pytest.fixture
def points():
    with jax.enable_x64(True):
        yield draw_points(np.random.default_rng(1), classes=3, count=8)


def jacobian_chain(last_line):
    first = Line("∇softmax(x)", lambda p: jax.jacfwd(softmax)(p.x))
    return Derivation("M5", "the gradient of softmax", first, Line("= …", last_line))


def right_line(p):
    return jnp.diag(softmax(p.x)) - jnp.outer(softmax(p.x), softmax(p.x))


def with_a_plus(p):
    return jnp.diag(softmax(p.x)) + jnp.outer(softmax(p.x), softmax(p.x))


def off_by_a_trillionth(p):
    return right_line(p) * (1.0 + 1e-12)


def of_another_shape(p):
    return softmax(p.x)


def not_finite(p):
    return right_line(p) / 0.0


def test_right_line_holds(points):
    assert [line.holds for line in check([jacobian_chain(right_line)], points)[0]] == [True, True]


@pytest.mark.parametrize("wrong_line", [with_a_plus, off_by_a_trillionth, of_another_shape, not_finite])
def test_planted_wrong_line_is_caught(points, wrong_line):
    assert [line.holds for line in check([jacobian_chain(wrong_line)], points)[0]] == [True, False]


def test_nonzero_line_is_not_equal_to_zero(points):
    chain = Derivation("M1", "a constant", Line("dA", lambda p: 0.0 * p.X), Line("= 1e-300", lambda p: p.X * 1e-300))
    assert [line.holds for line in check([chain], points)[0]] == [True, False]


def test_failing_line_fails_the_experiment(points):
    wrong = [(matrix_calculus.DOCUMENT, check_all([jacobian_chain(with_a_plus)], [points]))]
    planted = [(matrix_calculus.DOCUMENT, check_all(matrix_calculus.DOCUMENT.planted, [points]))]
    outcome = judge(wrong, planted, classes=[3])
    assert outcome.checks == {"every line holds": False, "every planted wrong line is caught": True}
    assert outcome.conclusion[0].startswith("0 of 1 equalities hold")


def test_missed_planted_line_fails_the_experiment(points):
    proved = [(matrix_calculus.DOCUMENT, check_all([jacobian_chain(right_line)], [points]))]
    outcome = judge(proved, proved, classes=[3])
    assert outcome.checks == {"every line holds": True, "every planted wrong line is caught": False}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: document.name)
def test_every_derivation_has_a_line_to_prove_and_every_document_a_planted_one(document):
    assert all(len(derivation.lines) >= 2 for derivation in document.derivations)
    assert len(document.planted) >= 1
