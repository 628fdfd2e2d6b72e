"""Outside of jit: a second call compiles nothing, and `jax_debug_nans` finds none on the way to a finite answer."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxsoftmax
from jaxsoftmax import forward_mode
from tests.row_functions import FUNCTIONS, arrays, value_and_gradient
from tests.tiers import in_tiers

X, Y, T = (jnp.asarray(array) for array in arrays(4, 640))
HIDDEN, KERNEL = (jnp.asarray(arrays(*shape)[0]) / 10 for shape in ((4, 8), (8, 640)))
MODULES = {"reverse": jaxsoftmax, "both modes": forward_mode}
in_both_modes = pytest.mark.parametrize("module", ["reverse", pytest.param("both modes", marks=pytest.mark.slow)])
HEADS = {
    "head": {"chunk_size": 2},
    "head, ignoring": {"chunk_size": 2, "ignore_index": 3},
    "head, unreduced": {"reduction": "none"},
}
FIRST = ("softmax", "training, integer", "head")


@pytest.fixture
def compilations():
    """A list that grows with every program XLA compiles."""
    seen = []

    def listen(event, *_, **__):
        if "backend_compile" in event:
            seen.append(event)

    jax.monitoring.register_event_duration_secs_listener(listen)
    yield seen
    jax.monitoring.unregister_event_duration_listener(listen)


@in_both_modes
@in_tiers("name", [*FUNCTIONS, *HEADS], FIRST)
def test_a_second_call_compiles_nothing(name, module, compilations):
    def of_head(hidden, keywords):
        return MODULES[module].linear_cross_entropy(hidden, KERNEL, Y, **keywords)

    def call():
        if name in FUNCTIONS:
            value_and_gradient(FUNCTIONS[name], MODULES[module])(X, Y, T)
            return FUNCTIONS[name](MODULES[module], X, Y, T)
        jax.grad(lambda hidden: jnp.sum(of_head(hidden, HEADS[name])))(HIDDEN)
        return of_head(HIDDEN, HEADS[name])

    call()
    compilations.clear()
    call()
    assert compilations == []


def test_a_compilation_is_seen(compilations):
    jax.jit(lambda x: x + 1)(X)
    assert compilations


FINITE = {
    "an ignored label": lambda f: f.cross_entropy(X[:2], np.array([0, -100]), ignore_index=-100),
    "all labels ignored": lambda f: f.cross_entropy(X[:2], np.array([-100, -100]), ignore_index=-100),
    "all labels of a head ignored": lambda f: f.linear_cross_entropy(
        HIDDEN[:2], KERNEL, np.array([-100, -100]), ignore_index=-100
    ),
    "a label 0 at -inf": lambda f: f.softmax_cross_entropy(
        np.array([[0.0, 1.0, -np.inf]]), np.array([[1.0, 0.0, 0.0]])
    ),
    "softmax of -inf": lambda f: f.softmax(np.array([-np.inf, -np.inf])),
    "a -inf": lambda f: f.logsumexp(np.array([0.0, -np.inf])),
    "statistics of a class at -inf": lambda f: jnp.stack(f.token_stats(np.array([0.0, 1.0, -np.inf]), 0)[:3]),
    "statistics of an ignored label": lambda f: jnp.stack(f.token_stats(X[:2], np.array([0, 3]), ignore_index=3)[:3]),
    "a sparse label of weight 0 at -inf": lambda f: f.cross_entropy(
        np.array([[0.0, 1.0, -np.inf]]), jaxsoftmax.SparseLabels(np.array([[0, 2]]), np.array([[1.0, 0.0]]))
    ),
    "a divergence of classes at -inf": lambda f: f.distillation(
        np.array([[0.0, 1.0, -np.inf]]), np.array([[1.0, 0.0, -np.inf]]), divergence="jensen_shannon"
    ),
    "a divergence of equal rows": lambda f: f.distillation(X, X),
}


@in_both_modes
@pytest.mark.parametrize("name", FINITE)
def test_a_finite_answer_has_no_nan_on_the_way(name, module):
    with jax.debug_nans(True):
        assert np.isfinite(FINITE[name](MODULES[module])).all()


def test_a_nan_answer_is_found():
    with jax.debug_nans(True), pytest.raises(FloatingPointError):
        jaxsoftmax.softmax(np.array([np.nan, 0.0]))
