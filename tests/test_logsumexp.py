"""Log-sum-exp: jax.nn's whole signature, exact tails, and its gradients (M8, M9, M18)."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsoftmax import logsumexp
from tests.tiers import in_tiers
from tests.tolerances import (
    DTYPES,
    FINITE_ROWS,
    ORDINARY_ROWS,
    ROWS,
    array,
    assert_close,
    exact,
    exact_softmax,
    exp,
    in_every_dtype,
    log,
    precision,
)

STATIC = ("axis", "keepdims", "return_sign")
OURS, THEIRS = (jax.jit(f, static_argnames=STATIC) for f in (logsumexp, jax.nn.logsumexp))
ROW_SUMS = jax.jit(jax.vmap(logsumexp))
SUMS_AND_GRADIENTS = jax.jit(lambda a: (jax.vmap(logsumexp)(a), jax.vmap(jax.grad(logsumexp))(a)))

RNG = np.random.default_rng(0)
A = RNG.normal(size=(2, 3, 5))
B = np.where(RNG.random((2, 3, 5)) < 0.2, 0, RNG.uniform(0.25, 2, (2, 3, 5)))
MASK = RNG.random((2, 3, 5)) < 0.7
SIGNED = B * np.where(RNG.random((2, 3, 5)) < 0.5, -1, 1)
LARGER = RNG.uniform(0.25, 2, (4, 2, 3, 5))

SIGNATURES = {
    "negative axis, kept": {"axis": -2, "keepdims": True},
    "tuple of axes": {"axis": (0, 2)},
    "tuple of axes out of order, kept": {"axis": (2, -3), "keepdims": True},
    "no axes": {"axis": ()},
    "all axes, kept": {"keepdims": True},
    "b broadcasts along the sum": {"axis": (1, 2), "b": B[:, :1, :1] + 1},
    "b scalar": {"axis": 0, "b": 2.5},
    "b larger than a": {"axis": -1, "b": LARGER},
    "b signed": {"axis": (0, 2), "b": SIGNED, "return_sign": True},
    "where": {"axis": -1, "where": MASK},
    "where broadcasts along the sum": {"axis": -1, "where": MASK[:, :, :1]},
    "where larger than a": {"axis": -1, "where": LARGER > 1},
    "b and where": {"axis": (0, -1), "b": SIGNED, "where": MASK, "return_sign": True},
    "b along one axis, where along another": {"axis": None, "b": B[0, 0], "where": MASK[:, :, :1], "keepdims": True},
}

INF, NAN = np.inf, np.nan
SPECIAL = {  # a, b, where
    "plus infinity": ([0.0, INF, -INF], None, None),
    "two plus infinities": ([INF, INF, 0.0], None, None),
    "nan": ([0.0, NAN, -INF], None, None),
    "nan and plus infinity": ([INF, NAN, 0.0], None, None),
    "minus infinities": ([-INF, -INF, -INF], None, None),
    "masked nan": ([0.0, NAN, 1.0], None, [True, False, True]),
    "masked plus infinity": ([0.0, INF, 1.0], None, [True, False, True]),
    "fully masked": ([0.0, NAN, 1.0], None, [False, False, False]),
    "plus infinity, weighted": ([0.0, INF, 1.0], [1.0, 2.0, 1.0], None),
    "plus infinity, weighted below 0": ([0.0, INF, 1.0], [1.0, -2.0, 1.0], None),
    "nan, weighted": ([0.0, NAN, 1.0], [1.0, 2.0, 1.0], None),
    "minus infinities, weighted": ([-INF, -INF, -INF], [1.0, -2.0, 1.0], None),
    "weight 0 on a nan": ([0.0, NAN, 1.0], [1.0, 0.0, 1.0], None),
    "weight 0 on plus infinity": ([0.0, INF, 1.0], [1.0, 0.0, 1.0], None),
    "weights 0": ([0.0, 2.0, 1.0], [0.0, 0.0, 0.0], None),
    "weight nan": ([0.0, 2.0, 1.0], [1.0, NAN, 1.0], None),
    "weight plus infinity": ([0.0, 2.0, 1.0], [1.0, INF, 1.0], None),
    "masked weight nan": ([0.0, 2.0, 1.0], [1.0, NAN, 1.0], [True, False, True]),
    "masked weight plus infinity": ([0.0, 2.0, 1.0], [1.0, INF, 1.0], [True, False, True]),
    "weights that cancel": ([1.0, 1.0, -INF], [1.0, -1.0, 1.0], None),
    "negative sum": ([0.0, 2.0, 1.0], [1.0, -1.0, 1.0], None),
}

DIFFERENTIATED = (
    "negative axis, kept",
    "tuple of axes",
    "where",
    "b broadcasts along the sum",
    "b larger than a",
    "b and where",
    "b along one axis, where along another",
)
FIRST = (
    "negative axis, kept",
    "tuple of axes out of order, kept",
    "b signed",
    "b larger than a",
    "where",
    "b and where",
)
TAILS = [[0.0, -gap, -INF, -gap - 1, -INF] for gap in (1, 5, 10, 16, 17, 20, 40, 60, 80, 85)]
NONE = [-INF] * 5
EVERY_ROW = [*ROWS, *TAILS, NONE]


def by_tier(signatures):
    return in_tiers("signature", signatures, first=[case for case in signatures if case in FIRST])


@cache
def on_signatures(function, first):
    """The values of every signature of a tier and the gradients in a and b of some, compiled together."""
    cases, differentiated = ([case for case in of if (case in FIRST) == first] for of in (SIGNATURES, DIFFERENTIATED))
    options = {
        case: {name: arguments[name] for name in STATIC if name in arguments} for case, arguments in SIGNATURES.items()
    }
    arrays = {
        case: {name: np.asarray(arguments[name]) for name in ("b", "where") if name in arguments}
        for case, arguments in SIGNATURES.items()
    }

    def gradients(a, b=None, where=None, **options):
        def total(a, *weights):
            sums, _ = function(a, b=weights[0] if weights else None, where=where, **options | {"return_sign": True})
            return jnp.vdot(jnp.cos(jnp.arange(sums.size)), sums)  # each sum has its own cotangent

        arguments = (a,) if b is None else (a, jnp.where(b == 0, 0.5, b))  # jax.nn gives a weight 0 no gradient
        return jax.grad(total, tuple(range(len(arguments))))(*arguments)

    def of_all(a, arrays):
        values = {case: function(a, **arrays[case], **options[case]) for case in cases}
        return values, {case: gradients(a, **arrays[case], **options[case]) for case in differentiated}

    with precision("float64"):
        return jax.jit(of_all)(A, arrays)


@by_tier(SIGNATURES)
def test_equals_jax_nn_on_its_whole_signature(signature):
    got, expected = (on_signatures(f, signature in FIRST)[0][signature] for f in (logsumexp, jax.nn.logsumexp))
    assert jax.tree.structure(got) == jax.tree.structure(expected)
    jax.tree.map(lambda g, e: np.testing.assert_allclose(g, e, rtol=1e-13, strict=True), got, expected)


@by_tier(DIFFERENTIATED)
def test_gradients_equal_those_of_jax_nn(signature):
    both = (on_signatures(f, signature in FIRST)[1][signature] for f in (logsumexp, jax.nn.logsumexp))
    for got, expected in zip(*both, strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-12, atol=1e-14, strict=True)


@pytest.mark.parametrize("case", SPECIAL)
def test_equals_jax_nn_on_infinities_and_nans(case):
    a, b, where = (None if values is None else np.array(values) for values in SPECIAL[case])
    arguments = {"axis": -1, "b": b, "where": where, "return_sign": True}
    with precision("float64"):
        np.testing.assert_allclose(OURS(a, **arguments), THEIRS(a, **arguments), rtol=1e-15)


@cache
def outcomes(dtype):
    """The sums of all rows, and the gradients."""
    with precision(dtype):
        return tuple(map(np.asarray, SUMS_AND_GRADIENTS(array(EVERY_ROW, dtype))))


@in_every_dtype
def test_is_the_logarithm_of_the_sum_of_exponentials(dtype):  # (M18)
    sums, _ = outcomes(dtype)
    assert_close(sums[: len(ROWS)], log(np.sum(exp(exact(array(ROWS, dtype))), -1)), dtype)


@in_every_dtype
def test_keeps_a_tail_beside_a_maximum_of_0(dtype):  # (M18)
    sums, _ = outcomes(dtype)
    assert_close(sums[len(ROWS) : -1], log(np.sum(exp(exact(array(TAILS, dtype))), -1)), dtype)


@in_every_dtype
def test_gradient_is_softmax(dtype):  # (M8)
    _, gradients = outcomes(dtype)
    assert_close(gradients[:-1], exact_softmax(array(EVERY_ROW[:-1], dtype)), dtype)


@in_every_dtype
def test_minus_infinities_give_minus_infinity_with_gradient_0(dtype):  # (jax#6811)
    sums, gradients = outcomes(dtype)
    assert sums[-1] == -np.inf
    np.testing.assert_array_equal(gradients[-1], 0)


def test_gradient_at_a_masked_element_is_0_whatever_it_holds():
    a = np.array([[0.5, hidden, -1.0] for hidden in (0.0, 1e3, INF, -INF, NAN)])
    where = np.array([True, False, True])
    with precision("float64"):
        weighted = jax.grad(lambda a, b: jnp.sum(logsumexp(a, -1, b, where=where)), (0, 1))
        plain = jax.grad(lambda a: jnp.sum(logsumexp(a, -1, where=where)))
        gradients = jax.jit(lambda a, b: (*weighted(a, b), plain(a)))(a, np.ones_like(a))
        kept = np.exp([0.5, -1.0]) / np.sum(np.exp([0.5, -1.0]))
        for gradient in map(np.asarray, gradients):  # the weights are 1
            np.testing.assert_array_equal(gradient[:, 1], 0)
            np.testing.assert_allclose(gradient[:, ::2], np.broadcast_to(kept, (5, 2)), rtol=1e-15)


def test_plus_infinity_has_gradient_nan_as_in_jax_nn():
    a = array([0.0, INF], "float32")
    for gradient in jax.jit(lambda a: [jax.grad(f)(a) for f in (jax.nn.logsumexp, logsumexp)])(a):
        assert np.isnan(gradient).any()


@pytest.mark.parametrize("b", [None, np.zeros((3, 0), np.float32)], ids=["plain", "weighted"])
def test_sum_over_nothing_is_minus_infinity_of_sign_0_as_in_jax_nn(b):
    got, expected = (f(np.zeros((3, 0), np.float32), axis=-1, b=b, return_sign=True) for f in (OURS, THEIRS))
    np.testing.assert_array_equal(got, expected)
    np.testing.assert_array_equal(got, [[-np.inf] * 3, [0] * 3])


@pytest.mark.parametrize("length", [3, 1000, 32768])  # two sums at once, one, or one of pieces
def test_empty_batch_gives_an_empty_batch(length):
    def total(a):
        return jnp.sum(logsumexp(a, -1))

    sums, gradients = jax.jit(lambda a: (logsumexp(a, -1), jax.grad(total)(a)))(np.zeros((0, length), np.float32))
    assert (sums.shape, gradients.shape) == ((0,), (0, length))


def dtype_of_result(function, a, b):
    return str(jax.eval_shape(lambda a, b: function(a, b=b), jax.ShapeDtypeStruct((3,), jnp.dtype(a)), b).dtype)


@pytest.mark.parametrize("x64", [False, True])
@pytest.mark.parametrize("a", ["bool", "int32", "bfloat16", "float32"])
def test_result_has_the_dtype_of_jax_nn(a, x64):
    with jax.enable_x64(x64):
        weights = {"none": None, "2": 2, "2.0": 2.0} | {b: np.ones(3, jnp.dtype(b)) for b in ("int32", *DTYPES[:3])}
        got, expected = (
            {name: dtype_of_result(f, a, b) for name, b in weights.items()} for f in (logsumexp, jax.nn.logsumexp)
        )
        assert got == expected


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_gradients_have_the_dtypes_of_their_arguments(dtype):
    a, b = array(ORDINARY_ROWS, dtype), array(ORDINARY_ROWS, "float32") + 5
    by_a, by_b = jax.eval_shape(jax.grad(lambda a, b: jnp.sum(logsumexp(a, -1, b)), (0, 1)), a, b)
    assert (by_a.dtype, by_b.dtype) == (dtype, "float32")


def test_scalar_is_its_own_log_sum_exp():
    assert tuple(map(float, jax.jit(jax.value_and_grad(logsumexp))(3.0))) == (3, 1)


def test_list_of_axes_is_a_tuple_of_axes():
    of_list, of_tuple = jax.jit(lambda a: (logsumexp(a, [0, 2]), logsumexp(a, (0, 2))))(A)
    np.testing.assert_array_equal(of_list, of_tuple)


def test_zeros_in_bfloat16_sum_to_the_logarithm_of_their_number():
    zeros = array(np.zeros((1, 262144)), "bfloat16")
    assert_close(ROW_SUMS(zeros), log(exact([262144])), "bfloat16")


def test_hessian_is_that_of_the_textbook_formula():  # (M9)
    def textbook(a):
        return jnp.log(jnp.sum(jnp.exp(a)))

    with precision("float64"):
        a = np.array(FINITE_ROWS[0])
        got, expected = jax.jit(lambda a: [jax.hessian(f)(a) for f in (logsumexp, textbook)])(a)
        np.testing.assert_allclose(got, expected, rtol=1e-14, atol=1e-15)
