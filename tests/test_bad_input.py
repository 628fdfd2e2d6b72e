"""Bad input raises TypeError for a wrong type, ValueError for a wrong shape or range: argument, expected, received."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxsoftmax
from jaxsoftmax import SparseLabels, forward_mode

X, Y = np.zeros((4, 3), np.float32), np.zeros(4, np.int32)  # logits and labels
H, W = np.zeros((4, 2), np.float32), np.zeros((2, 3), np.float32)  # hidden and kernel
INTEGERS = np.zeros((4, 3), np.int32)
TARGETS = np.zeros((4, 3), np.float32)
COMPLEX = np.zeros((4, 3), np.complex64)
TOO_LONG = np.zeros(5, np.float32)


def bad(function, error, message, /, *arguments, **keywords):
    """A call, and the error that it raises."""
    return function, error, message, arguments, keywords


PRIMITIVES = {
    "a complex": bad("logsumexp", TypeError, r"a: expected a real dtype, got complex64", COMPLEX),
    "a text": bad("logsumexp", TypeError, r"a: expected an array, got str", "1.0"),
    "a none": bad("logsumexp", TypeError, r"a: expected an array, got NoneType", None),
    "a objects": bad("logsumexp", TypeError, r"a: expected an array, got list", [object()]),
    "b text": bad("logsumexp", TypeError, r"b: expected an array, got str", X, b="1"),
    "b complex": bad("logsumexp", TypeError, r"b: expected a real dtype, got complex64", X, b=1j),
    "b shape": bad("logsumexp", ValueError, r"a and b: .* broadcast.*\(4, 3\).*\(5,\)", X, b=TOO_LONG),
    "where text": bad("logsumexp", TypeError, r"where: expected an array, got str", X, where="x"),
    "where shape": bad("logsumexp", ValueError, r"a and where: .* broadcast.*\(4, 3\).*\(5,\)", X, where=TOO_LONG),
    "axis too large": bad("logsumexp", ValueError, r"axis: expected axes in \[-2, 2\), got 2", X, axis=2),
    "axis too small": bad("logsumexp", ValueError, r"axis: expected axes in \[-2, 2\), got -3", X, axis=-3),
    "axis twice": bad("logsumexp", ValueError, r"axis: expected distinct .*got \(0, -2\)", X, axis=(0, -2)),
    "axis text": bad("logsumexp", TypeError, r"axis: expected None, an int or.*got '0'", X, axis="0"),
    "axis fraction": bad("logsumexp", TypeError, r"axis: expected None, an int or.*got 0\.5", X, axis=0.5),
    "axis boolean": bad("logsumexp", TypeError, r"axis: expected None, an int or.*got True", X, axis=True),
}
for name in ("softmax", "log_softmax"):
    PRIMITIVES |= {
        f"{name} complex": bad(name, TypeError, r"x: expected a real dtype, got complex64", COMPLEX),
        f"{name} none": bad(name, TypeError, r"x: expected an array, got NoneType", None),
        f"{name} axis": bad(name, ValueError, r"axis: expected axes in \[-2, 2\), got 2", X, 2),
        f"{name} axis of a scalar": bad(
            name, ValueError, r"axis: expected None or \(\) for a scalar, got -1", np.float32(1)
        ),
        f"{name} axis twice": bad(name, ValueError, r"axis: expected distinct axes, got \(1, 1\)", X, (1, 1)),
        f"{name} axis text": bad(name, TypeError, r"axis: expected None, an int or.*got 'x'", X, "x"),
        f"{name} where shape": bad(name, ValueError, r"x and where: .*\(4, 3\).*\(5,\)", X, where=TOO_LONG),
    }

INTEGER, FLOAT, TRAINING = "softmax_cross_entropy_with_integer_labels", "softmax_cross_entropy", "cross_entropy"
INTEGER_LOGITS = TypeError, r"logits: expected a floating dtype, got int32"
DROP_INS = {
    "integer logits": bad(INTEGER, *INTEGER_LOGITS, INTEGERS, Y),
    "integer logits of float labels": bad(FLOAT, *INTEGER_LOGITS, INTEGERS, TARGETS),
    "complex logits": bad(INTEGER, TypeError, r"logits: expected a real dtype, got complex64", COMPLEX, Y),
    "no logits": bad(FLOAT, TypeError, r"logits: expected an array, got NoneType", None, TARGETS),
    "float labels": bad(INTEGER, TypeError, r"labels: expected an integer dtype, got float32", X, TARGETS),
    "boolean labels": bad(INTEGER, TypeError, r"labels: expected an integer dtype, got bool", X, Y == 0),
    "no labels": bad(INTEGER, TypeError, r"labels: expected an array, got NoneType", X, None),
    "too many labels": bad(
        INTEGER,
        ValueError,
        r"labels: expected shape \(4,\) \(\[\*batch\] of the logits\), got \(5,\)",
        X,
        np.zeros(5, int),
    ),
    "labels of the logits' rank": bad(INTEGER, ValueError, r"labels: .*\(4,\).*got \(4, 3\)", X, INTEGERS),
    "scalar label": bad(INTEGER, ValueError, r"labels: expected shape \(4,\).*got \(\)", X, 0),
    "integer labels as weights": bad(FLOAT, ValueError, r"labels: .*\(4, 3\).*got \(4,\)", X, Y),
    "labels that do not broadcast": bad(
        FLOAT,
        ValueError,
        r"logits and labels: expected shapes that broadcast together, got logits \(4, 3\), labels \(5,\)",
        X,
        TOO_LONG,
    ),
    "complex labels": bad(FLOAT, TypeError, r"labels: expected a real dtype, got complex64", X, COMPLEX),
    "no axis": bad(INTEGER, ValueError, r"axis: expected an int or a tuple .*got None", X, Y, None),
    "axis out of range": bad(INTEGER, ValueError, r"axis: expected axes in \[-2, 2\), got 2", X, Y, 2),
    "axis twice": bad(FLOAT, ValueError, r"axis: expected distinct .*got \(1, -1\)", X, TARGETS, (1, -1)),
    "scalar logits": bad(INTEGER, ValueError, r"axis: expected None or \(\) for a scalar, got -1", np.float32(1), 0),
    "mask that does not broadcast": bad(
        INTEGER, ValueError, r"where: .* the logits' batch \(4,\), got \(5,\)", X, Y, where=np.ones(5, bool)
    ),
    "mask larger than the logits": bad(
        FLOAT,
        ValueError,
        r"where: expected a shape that broadcasts to the logits' \(4, 3\), got \(2, 4, 3\)",
        X,
        TARGETS,
        where=np.ones((2, 4, 3), bool),
    ),
    "no classes": bad(INTEGER, ValueError, r"logits: .*at least one class, got vocab = 0", X[:, :0], Y),
}


def options(argument, *values):
    """Cases of the training loss, one for each value, exception and message."""
    return {
        f"{argument}={value!r}"[:60]: bad(TRAINING, error, f"{argument}: {message}", X, Y, **{argument: value})
        for value, error, message in values
    }


SMOOTHING, PENALTY, CAP = r"expected a number in \[0, 1\]", "expected a number >= 0", "expected a number > 0"
KEYWORDS = {
    "integer logits": bad(TRAINING, *INTEGER_LOGITS, INTEGERS, Y),
    "scalar logits": bad(TRAINING, ValueError, r"logits: expected shape \[\*batch, vocab\], got \(", np.float32(1), 0),
    "no classes": bad(TRAINING, ValueError, r"logits: .*at least one class, got vocab = 0", X[:, :0], Y),
    "integer labels of the logits' rank": bad(
        TRAINING, ValueError, r"labels: expected shape \(4,\).*got \(4, 3\)", X, INTEGERS
    ),
    "float labels of the batch's rank": bad(
        TRAINING,
        ValueError,
        r"labels: expected shape \(4, 3\) \(\[\*batch, vocab\], as they are floating; .*\), got \(4,\)",
        X,
        Y.astype(np.float32),
    ),
    "boolean labels": bad(TRAINING, TypeError, r"labels: expected an integer dtype, got bool", X, Y == 0),
    "ignore_index with float labels": bad(
        TRAINING, ValueError, r"ignore_index: expected None with float labels, got -100", X, TARGETS, ignore_index=-100
    ),
    **options("reduction", ("average", ValueError, r"expected one of \('mean', 'sum', 'none'\), got 'average'")),
    **options("reduction", (None, ValueError, r"expected one of .*, got None")),
    **options(
        "label_smoothing", (-0.1, ValueError, f"{SMOOTHING}, got -0.1"), (1.1, ValueError, f"{SMOOTHING}, got 1.1")
    ),
    **options(
        "label_smoothing",
        (np.nan, ValueError, f"{SMOOTHING} and finite, got nan"),
        ("0.1", TypeError, f"{SMOOTHING}, got str"),
    ),
    **options("label_smoothing", (None, TypeError, f"{SMOOTHING}, got NoneType")),
    **options("label_smoothing", (np.zeros(2), TypeError, rf"{SMOOTHING}, got shape \(2,\)")),
    **options(
        "z_loss", (-1e-4, ValueError, f"{PENALTY}, got -0.0001"), (np.inf, ValueError, f"{PENALTY} and finite, got inf")
    ),
    **options("z_loss", ("1", TypeError, f"{PENALTY}, got str")),
    **options(
        "logit_softcap", (0.0, ValueError, f"{CAP} or None, got 0.0"), (-30, ValueError, f"{CAP} or None, got -30")
    ),
    **options(
        "logit_softcap", (np.inf, ValueError, f"{CAP} and finite, got inf"), ("30", TypeError, f"{CAP}, got str")
    ),
    **options("ignore_index", (1.0, TypeError, "expected an int or None, got float")),
    **options("ignore_index", (True, TypeError, "expected an int or None, got bool")),
    **options("ignore_index", (2**40, ValueError, "expected .*got 1099511627776")),
    **options("class_weights", (np.ones(4), ValueError, r"expected shape \(3,\) \(\[vocab\]\), got \(4,\)")),
    **options("class_weights", (np.ones((1, 3)), ValueError, r"expected shape \(3,\) \(\[vocab\]\), got \(1, 3\)")),
    **options("class_weights", (1j * np.ones(3), TypeError, "expected a real dtype, got complex")),
    **options("class_weights", ("balanced", TypeError, "expected an array, got str")),
    **options("token_weights", (np.ones(3), ValueError, r"expected shape \(4,\) \(\[\*batch\]\), got \(3,\)")),
    **options("token_weights", (2.0, ValueError, r"expected shape \(4,\) \(\[\*batch\]\), got \(\)")),
    **options("token_weights", (X, ValueError, r"expected shape \(4,\) \(\[\*batch\]\), got \(4, 3\)")),
}


PAIR = SparseLabels(np.zeros((4, 2), np.int32), np.ones((4, 2), np.float32))
HEAD, STATS, HEAD_STATS = "linear_cross_entropy", "token_stats", "linear_token_stats"
ROWS_OF, HEADS_OF, NEITHER = "distillation", "linear_distillation", np.zeros((4, 4), np.float32)
TOKENS = {
    "k of weights": bad(
        TRAINING, ValueError, r"labels\.weights: .*\(4, 2\).*\(4, 3\)", X, PAIR._replace(weights=np.ones((4, 3)))
    ),
    "batch of indices": bad(HEAD, ValueError, r"labels\.indices: .*\(4,\)", H, W, PAIR._replace(indices=Y[:3, None])),
    "float indices": bad(
        TRAINING, TypeError, r"labels\.indices: expected an int", X, PAIR._replace(indices=np.ones((4, 2)))
    ),
    "float indices of a head": bad(
        HEAD, TypeError, r"labels\.indices: expected an int", H, W, PAIR._replace(indices=H)
    ),
    "ignore_index": bad(TRAINING, ValueError, "ignore_index: expected None with SparseLabels", X, PAIR, ignore_index=0),
    "ignore_index of a head": bad(HEAD, ValueError, "ignore_index: expected None with", H, W, PAIR, ignore_index=0),
    "sparse labels of statistics": bad(STATS, (TypeError, ValueError), "labels: expected", X, PAIR),
    "has_aux": bad(TRAINING, TypeError, "has_aux: expected", X, Y, has_aux="yes"),
    "float labels of statistics": bad(STATS, TypeError, "labels: expected an integer dtype, got float32", X, X),
    "labels of another batch": bad(HEAD_STATS, ValueError, r"labels: expected shape \(4,\)", H, W, Y[:3]),
    "beta 0": bad(ROWS_OF, ValueError, r"beta: expected a number in \(0, 1\), got 0\.0", X, X, beta=0.0),
    "beta 1": bad(HEADS_OF, ValueError, r"beta: expected a number in \(0, 1\), got 1", H, W, H, W, beta=1),
    "beta text": bad(ROWS_OF, TypeError, "beta: expected a number", X, X, beta="x"),
    "unknown divergence": bad(ROWS_OF, ValueError, "divergence: expected one of .*got 'kl'", X, X, divergence="kl"),
    "no divergence": bad(HEADS_OF, ValueError, "divergence: expected one of .*None", H, W, H, W, divergence=None),
    "teacher's classes": bad(ROWS_OF, ValueError, r"teacher_logits: expected shape \(4, 3\).*\(4, 4\)", X, NEITHER),
    "teacher's vocabulary": bad(HEADS_OF, ValueError, r"teacher_kernel: .*vocab = 3, got \(2, 2\)", H, W, H, W[:, :2]),
    "teacher's batch": bad(HEADS_OF, ValueError, r"teacher_hidden: .*batch \(4,\), got \(3, 2\)", H, W, H[:3], W),
    "teacher's embed": bad(HEADS_OF, ValueError, r"teacher_kernel: .*embed = 3, got \(2, 3\)", H, W, X, W),
    "integer teacher": bad(ROWS_OF, TypeError, "teacher_logits: expected a floating dtype, got int32", X, PAIR.indices),
    "reduction": bad(ROWS_OF, ValueError, "reduction: expected one of .*got 'avg'", X, X, reduction="avg"),
    "weights of distillation": bad(ROWS_OF, ValueError, r"token_weights: .*\(4,\).*\(3,\)", X, X, token_weights=Y[:3]),
    "dtype int": bad(HEAD, TypeError, "dtype: expected a floating dtype or None, got int", H, W, Y, dtype=int),
    "dtype unknown": bad(HEAD_STATS, TypeError, "dtype: expected a floating dtype or None", H, W, Y, dtype="f33"),
    "precision": bad(HEAD, ValueError, "precision: expected .*got 'best'", H, W, Y, precision="best"),
    "precision number": bad(HEAD_STATS, TypeError, "precision: expected .*got 3", H, W, Y, precision=3),
    "kernel to be transposed": bad(HEAD, ValueError, r"kernel: .*\[vocab, embed\]", H, W, Y, transposed_kernel=True),
    "transposed_kernel": bad(HEAD, TypeError, "transposed_kernel: expected", H, W, Y, transposed_kernel="yes"),
}
TEMPERATURES = {STATS: (X, Y), HEAD_STATS: (H, W, Y), ROWS_OF: (X, X), HEADS_OF: (H, W, H, W)}
for name, given in TEMPERATURES.items():
    for value, error in (
        (-1.0, ValueError),
        (0, ValueError),
        (np.nan, ValueError),
        ("1", TypeError),
        (None, TypeError),
    ):
        call = bad(name, error, "temperature: expected a number > 0", *given, temperature=value)
        TOKENS[f"temperature {value} of {name}"] = call
HEADS = {
    "integer hidden": bad(HEAD, TypeError, "hidden: expected a floating dtype, got int", np.ones((4, 2), int), W, Y),
    "scalar hidden": bad(HEAD, ValueError, r"hidden: expected shape \[\*batch, embed\], got \(\)", np.float32(1), W, Y),
    "kernel of another embed": bad(HEAD, ValueError, r"kernel: .* got \(4, 3\)", H, X, Y),
    "kernel of one axis": bad(HEAD, ValueError, r"kernel: expected shape \[embed, vocab\]", H, W[:, 0], Y),
    "bias of another vocab": bad(HEAD, ValueError, r"bias: expected shape \(3,\)", H, W, Y, bias=TOO_LONG),
    "integer bias": bad(HEAD, TypeError, "bias: expected a floating dtype, got int", H, W, Y, bias=np.ones(3, int)),
    "float labels": bad(HEAD, TypeError, "labels: expected an integer dtype, got float", H, W, X),
    "labels of another batch": bad(HEAD, ValueError, r"labels: expected shape \(4,\)", H, W, np.ones(5, int)),
    "no class": bad(HEAD, ValueError, r"kernel: expected at least one class, got \(2, 0\)", H, W[:, :0], Y),
    "chunk_size = 0": bad(HEAD, ValueError, "chunk_size: expected an int >= 1 or None, got 0", H, W, Y, chunk_size=0),
    "chunk_size = 1.5": bad(HEAD, TypeError, "chunk_size: expected an int or None, got float", H, W, Y, chunk_size=1.5),
    "reduction": bad(HEAD, ValueError, "reduction: expected one of .* got 'avg'", H, W, Y, reduction="avg"),
}


ALL = (PRIMITIVES, DROP_INS, KEYWORDS, TOKENS, HEADS)


@pytest.mark.parametrize("library", [jaxsoftmax, forward_mode], ids=["reverse", "forward"])
@pytest.mark.parametrize(
    ("function", "error", "message", "arguments", "keywords"),
    [case for cases in ALL for case in cases.values()],
    ids=[name for cases in ALL for name in cases],
)
def test_bad_input_names_the_argument_what_it_expected_and_what_came(
    library, function, error, message, arguments, keywords
):
    with pytest.raises(error, match=message):
        getattr(library, function)(*arguments, **keywords)


def test_an_ignore_index_that_is_traced_names_itself():
    with pytest.raises(TypeError, match=r"ignore_index: expected .*, got a traced value"):
        jax.jit(lambda value: jaxsoftmax.cross_entropy(X, Y, ignore_index=value))(1)


@pytest.mark.parametrize("keyword", ["label_smoothing", "z_loss", "logit_softcap"])
def test_a_traced_constant_that_is_no_scalar_names_itself(keyword):
    with pytest.raises(ValueError, match=rf"{keyword}: expected shape \(\) \(.*or a traced scalar\), got \(2,\)"):
        jax.eval_shape(lambda value: jaxsoftmax.cross_entropy(X, Y, **{keyword: value}), jnp.ones(2))


@pytest.mark.parametrize("keyword", ["label_smoothing", "z_loss", "logit_softcap"])
def test_constant_may_be_any_number_that_is_known(keyword):
    for number in (1, np.float32(1), np.array(1.0), True):
        jax.eval_shape(lambda x, n=number: jaxsoftmax.cross_entropy(x, Y, **{keyword: n}), X)


def test_bad_input_raises_under_jit_as_well():
    with pytest.raises(ValueError, match=r"labels: expected shape \(4,\)"):
        jax.jit(jaxsoftmax.cross_entropy)(X, np.zeros(5, int))


@pytest.mark.parametrize("function", ["softmax_cross_entropy", "distillation", "token_stats"])
def test_sparse_labels_are_no_array(function):
    with pytest.raises(TypeError, match="expected an array, got SparseLabels"):
        getattr(jaxsoftmax, function)(X, SparseLabels(jnp.array([0, 1]), jnp.array([0.5, 0.5])))


@pytest.mark.parametrize("function", TEMPERATURES)
def test_a_traced_temperature_that_is_no_scalar_names_itself(function):
    call = partial(getattr(jaxsoftmax, function), *TEMPERATURES[function])
    with pytest.raises(ValueError, match=r"temperature: expected shape \(\) \(.*or a traced scalar\), got \(2,\)"):
        jax.eval_shape(lambda value: call(temperature=value), jnp.ones(2))
