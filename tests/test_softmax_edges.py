"""Softmax and log-softmax on jax.nn's whole signature: axes, masks, empty arrays, integers and scalars."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsoftmax import log_softmax, softmax
from tests.test_softmax import FUNCTIONS, INF, JAX_NN, NAN, of_both
from tests.tolerances import array, precision

X = np.random.default_rng(0).normal(size=(2, 3, 5))
MASK = np.random.default_rng(1).random((2, 3, 5)) < 0.7
SIGNATURES = {  # logits, axis, where
    "axis": (X, 0, None),
    "two axes": (X, (0, 2), MASK[0, 0]),
    "two axes out of order": (X, (2, 1), MASK[:, :1]),
    "all axes": (X, None, MASK),
    "mask of floats": (X, -1, MASK.astype(np.float64)),
    "mask larger than the logits": (X[0, 0], -1, MASK),
    "logits repeated to the mask": (np.broadcast_to(X[0, 0], X.shape), -1, MASK),
    "adjacent axes": (X, (0, 1), None),
}


@cache
def on_signatures():
    """Ours and jax.nn's on every signature, and ours on a list of axes, compiled together."""
    arrays = {case: (x, where) for case, (x, _, where) in SIGNATURES.items()}
    axes = {case: axis for case, (_, axis, _) in SIGNATURES.items()}

    def theirs(f, x, axis, where):
        if where is None:
            return f(x, axis)
        return f(jnp.broadcast_to(x, jnp.broadcast_shapes(x.shape, where.shape)), axis, where=where != 0)

    def of_all(arrays):
        return {
            name: {
                "ours": {case: f(x, axes[case], where) for case, (x, where) in arrays.items()},
                "theirs": {case: theirs(JAX_NN[name], x, axes[case], where) for case, (x, where) in arrays.items()},
                "list of axes": f(arrays["adjacent axes"][0], [0, 1]),
            }
            for name, f in FUNCTIONS.items()
        }

    with precision("float64"):
        return jax.jit(of_all)(arrays)


@pytest.mark.parametrize("signature", SIGNATURES)
@of_both
def test_equals_jax_nn_on_its_whole_signature(name, signature):
    got, expected = (on_signatures()[name][library][signature] for library in ("ours", "theirs"))
    np.testing.assert_allclose(got, expected, rtol=1e-14, strict=True)


@of_both
def test_list_of_axes_is_a_tuple_of_axes(name):
    of_list, of_tuple = on_signatures()[name]["list of axes"], on_signatures()[name]["ours"]["adjacent axes"]
    np.testing.assert_array_equal(of_list, of_tuple)


@of_both
def test_logits_broadcast_with_a_larger_mask(name):
    ours = on_signatures()[name]["ours"]
    np.testing.assert_array_equal(ours["mask larger than the logits"], ours["logits repeated to the mask"])


@cache
def masked():
    """Of rows whose middle entry is masked, and of a row wholly masked: ours, of what is left, and jax.nn's."""
    x = [*([0.5, hidden, -1.0] for hidden in (0.0, 1e30, INF, -INF, NAN)), [1.0, NAN, 2.0]]
    where = np.array([[True, False, True]] * 5 + [[False] * 3])

    def of_all(x, where):
        return {
            name: {
                "values": f(x, -1, where),
                "jacobians": jax.vmap(jax.jacrev(f), (0, None, 0))(x, -1, where),
                "left": f(x[:, ::2]),
                "theirs": JAX_NN[name](jnp.ones_like(x), -1, where=where),
            }
            for name, f in FUNCTIONS.items()
        }

    return jax.tree.map(np.asarray, jax.jit(of_all)(array(x, "float32"), where))


@pytest.mark.parametrize(("name", "outside"), [("softmax", 0.0), ("log_softmax", -np.inf)])
def test_masked_entry_counts_for_nothing_whatever_it_holds(name, outside):
    values, jacobians, left = (masked()[name][key][:5] for key in ("values", "jacobians", "left"))
    np.testing.assert_array_equal(values[:, ::2], left)
    np.testing.assert_array_equal(values[:, 1], outside)
    assert (jacobians[:, 1] == 0).all()
    assert (jacobians[:, :, 1] == 0).all()


@of_both
def test_fully_masked_row_is_empty_with_gradient_0(name):
    np.testing.assert_array_equal(masked()[name]["values"][5], masked()[name]["theirs"][5])
    np.testing.assert_array_equal(masked()[name]["jacobians"][5], 0)


@pytest.mark.parametrize("axis", [1, pytest.param(0, marks=pytest.mark.slow)])
def test_a_row_of_minus_infinity_has_the_identity_or_0_for_its_jacobian(axis):
    x = np.moveaxis(np.array([[0.0, 1.0, 2.0], [-INF, -INF, -INF]], np.float32), 0, 1 - axis)

    @jax.jit
    def of_both(x):
        return {name: jax.vmap(jax.jacrev(f), 1 - axis)(x) for name, f in FUNCTIONS.items()}

    jacobians = of_both(x)
    np.testing.assert_array_equal(jacobians["softmax"][1], np.zeros((3, 3)))
    np.testing.assert_array_equal(jacobians["log_softmax"][1], np.eye(3))


@of_both
@pytest.mark.parametrize("shape", [(3, 0), (0, 3)])
def test_empty_array_gives_an_empty_array(name, shape):
    function, x = FUNCTIONS[name], np.zeros(shape, np.float32)
    value, gradient = jax.jit(lambda x: (function(x), jax.grad(lambda x: jnp.sum(function(x)))(x)))(x)
    assert (value.shape, gradient.shape) == (shape, shape)


def test_integers_are_promoted_as_jax_promotes_them():
    integers = {dtype: array([0, 1, 3], dtype) for dtype in ("int8", "uint32", "float32")}
    for promoted in jax.jit(lambda x: [jax.tree.map(f, x) for f in FUNCTIONS.values()])(integers):
        expected = promoted.pop("float32")
        for dtype, got in promoted.items():
            assert got.dtype == jax.eval_shape(jnp.exp, integers[dtype]).dtype
            np.testing.assert_array_equal(got, expected)


def test_scalar_over_no_axes_has_probability_1():
    assert float(softmax(3.0, axis=None)) == 1  # Python's number, untraced
    assert float(log_softmax(3.0, axis=None)) == 0
