"""Bad input raises TypeError for a wrong type, ValueError for a wrong shape or range: argument, expected, received."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxsoftmax
from jaxsoftmax import forward_mode

LOGITS = np.zeros((4, 3), np.float32)
INTEGERS = np.zeros((4, 3), np.int32)
LABELS = np.zeros(4, np.int32)
TARGETS = np.zeros((4, 3), np.float32)
COMPLEX = np.zeros((4, 3), np.complex64)
TOO_LONG = np.zeros(5, np.float32)

PRIMITIVES = {
    "a complex": ("logsumexp", (COMPLEX,), {}, TypeError, r"a: expected a real dtype, got complex64"),
    "a text": ("logsumexp", ("1.0",), {}, TypeError, r"a: expected an array, got str"),
    "a none": ("logsumexp", (None,), {}, TypeError, r"a: expected an array, got NoneType"),
    "a objects": ("logsumexp", ([object()],), {}, TypeError, r"a: expected an array, got list"),
    "b text": ("logsumexp", (LOGITS,), {"b": "1"}, TypeError, r"b: expected an array, got str"),
    "b complex": ("logsumexp", (LOGITS,), {"b": 1j}, TypeError, r"b: expected a real dtype, got complex64"),
    "b shape": ("logsumexp", (LOGITS,), {"b": TOO_LONG}, ValueError, r"a and b: .* broadcast.*\(4, 3\).*\(5,\)"),
    "where text": ("logsumexp", (LOGITS,), {"where": "x"}, TypeError, r"where: expected an array, got str"),
    "where shape": (
        "logsumexp",
        (LOGITS,),
        {"where": TOO_LONG},
        ValueError,
        r"a and where: .* broadcast.*\(4, 3\).*\(5,\)",
    ),
    "axis too large": ("logsumexp", (LOGITS,), {"axis": 2}, ValueError, r"axis: expected axes in \[-2, 2\), got 2"),
    "axis too small": ("logsumexp", (LOGITS,), {"axis": -3}, ValueError, r"axis: expected axes in \[-2, 2\), got -3"),
    "axis twice": ("logsumexp", (LOGITS,), {"axis": (0, -2)}, ValueError, r"axis: expected distinct .*got \(0, -2\)"),
    "axis text": ("logsumexp", (LOGITS,), {"axis": "0"}, TypeError, r"axis: expected None, an int or.*got '0'"),
    "axis fraction": ("logsumexp", (LOGITS,), {"axis": 0.5}, TypeError, r"axis: expected None, an int or.*got 0\.5"),
    "axis boolean": ("logsumexp", (LOGITS,), {"axis": True}, TypeError, r"axis: expected None, an int or.*got True"),
}
PRIMITIVES |= {
    f"{function} {name}": (function, *case)
    for function in ("softmax", "log_softmax")
    for name, case in {
        "complex": ((COMPLEX,), {}, TypeError, r"x: expected a real dtype, got complex64"),
        "none": ((None,), {}, TypeError, r"x: expected an array, got NoneType"),
        "axis": ((LOGITS, 2), {}, ValueError, r"axis: expected axes in \[-2, 2\), got 2"),
        "axis of a scalar": ((np.float32(1),), {}, ValueError, r"axis: expected None or \(\) for a scalar, got -1"),
        "axis twice": ((LOGITS, (1, 1)), {}, ValueError, r"axis: expected distinct axes, got \(1, 1\)"),
        "axis text": ((LOGITS, "x"), {}, TypeError, r"axis: expected None, an int or.*got 'x'"),
        "where shape": ((LOGITS,), {"where": TOO_LONG}, ValueError, r"x and where: .*\(4, 3\).*\(5,\)"),
    }.items()
}

INTEGER, FLOAT, TRAINING = "softmax_cross_entropy_with_integer_labels", "softmax_cross_entropy", "cross_entropy"
INTEGER_LOGITS = TypeError, r"logits: expected a floating dtype, got int32"
DROP_INS = {
    "integer logits": (INTEGER, (INTEGERS, LABELS), {}, *INTEGER_LOGITS),
    "integer logits of float labels": (FLOAT, (INTEGERS, TARGETS), {}, *INTEGER_LOGITS),
    "complex logits": (INTEGER, (COMPLEX, LABELS), {}, TypeError, r"logits: expected a real dtype, got complex64"),
    "no logits": (FLOAT, (None, TARGETS), {}, TypeError, r"logits: expected an array, got NoneType"),
    "float labels": (INTEGER, (LOGITS, TARGETS), {}, TypeError, r"labels: expected an integer dtype, got float32"),
    "boolean labels": (INTEGER, (LOGITS, LABELS == 0), {}, TypeError, r"labels: expected an integer dtype, got bool"),
    "no labels": (INTEGER, (LOGITS, None), {}, TypeError, r"labels: expected an array, got NoneType"),
    "too many labels": (
        INTEGER,
        (LOGITS, np.zeros(5, int)),
        {},
        ValueError,
        r"labels: expected shape \(4,\) \(\[\*batch\] of the logits\), got \(5,\)",
    ),
    "labels of the logits' rank": (INTEGER, (LOGITS, INTEGERS), {}, ValueError, r"labels: .*\(4,\).*got \(4, 3\)"),
    "scalar label": (INTEGER, (LOGITS, 0), {}, ValueError, r"labels: expected shape \(4,\).*got \(\)"),
    "integer labels as weights": (FLOAT, (LOGITS, LABELS), {}, ValueError, r"labels: .*\(4, 3\).*got \(4,\)"),
    "labels that do not broadcast": (
        FLOAT,
        (LOGITS, TOO_LONG),
        {},
        ValueError,
        r"logits and labels: expected shapes that broadcast together, got logits \(4, 3\), labels \(5,\)",
    ),
    "complex labels": (FLOAT, (LOGITS, COMPLEX), {}, TypeError, r"labels: expected a real dtype, got complex64"),
    "no axis": (INTEGER, (LOGITS, LABELS, None), {}, ValueError, r"axis: expected an int or a tuple .*got None"),
    "axis out of range": (INTEGER, (LOGITS, LABELS, 2), {}, ValueError, r"axis: expected axes in \[-2, 2\), got 2"),
    "axis twice": (FLOAT, (LOGITS, TARGETS, (1, -1)), {}, ValueError, r"axis: expected distinct .*got \(1, -1\)"),
    "scalar logits": (INTEGER, (np.float32(1), 0), {}, ValueError, r"axis: expected None or \(\) for a scalar, got -1"),
    "mask that does not broadcast": (
        INTEGER,
        (LOGITS, LABELS),
        {"where": np.ones(5, bool)},
        ValueError,
        r"where: .* the logits' batch \(4,\), got \(5,\)",
    ),
    "mask larger than the logits": (
        FLOAT,
        (LOGITS, TARGETS),
        {"where": np.ones((2, 4, 3), bool)},
        ValueError,
        r"where: expected a shape that broadcasts to the logits' \(4, 3\), got \(2, 4, 3\)",
    ),
    "no classes": (INTEGER, (LOGITS[:, :0], LABELS), {}, ValueError, r"logits: .*at least one class, got vocab = 0"),
}


def options(argument, *values):
    """Cases of the training loss, one for each value, exception and message."""
    return {
        f"{argument}={value!r}"[:60]: (TRAINING, (LOGITS, LABELS), {argument: value}, error, f"{argument}: {message}")
        for value, error, message in values
    }


SMOOTHING, PENALTY, CAP = r"expected a number in \[0, 1\]", "expected a number >= 0", "expected a number > 0"
KEYWORDS = {
    "integer logits": (TRAINING, (INTEGERS, LABELS), {}, *INTEGER_LOGITS),
    "scalar logits": (
        TRAINING,
        (np.float32(1), 0),
        {},
        ValueError,
        r"logits: expected shape \[\*batch, vocab\], got \(",
    ),
    "no classes": (TRAINING, (LOGITS[:, :0], LABELS), {}, ValueError, r"logits: .*at least one class, got vocab = 0"),
    "integer labels of the logits' rank": (
        TRAINING,
        (LOGITS, INTEGERS),
        {},
        ValueError,
        r"labels: expected shape \(4,\).*got \(4, 3\)",
    ),
    "float labels of the batch's rank": (
        TRAINING,
        (LOGITS, LABELS.astype(np.float32)),
        {},
        ValueError,
        r"labels: expected shape \(4, 3\) \(\[\*batch, vocab\], as they are floating; .*\), got \(4,\)",
    ),
    "boolean labels": (TRAINING, (LOGITS, LABELS == 0), {}, TypeError, r"labels: expected an integer dtype, got bool"),
    "ignore_index with float labels": (
        TRAINING,
        (LOGITS, TARGETS),
        {"ignore_index": -100},
        ValueError,
        r"ignore_index: expected None with float labels, got -100",
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
    **options("token_weights", (LOGITS, ValueError, r"expected shape \(4,\) \(\[\*batch\]\), got \(4, 3\)")),
}


def each(cases):
    return pytest.mark.parametrize(("function", "arguments", "keywords", "error", "message"), cases.values(), ids=cases)


in_either_mode = pytest.mark.parametrize("library", [jaxsoftmax, forward_mode], ids=["reverse", "forward"])


@in_either_mode
@each(PRIMITIVES)
def test_primitive_names_the_argument_what_it_expected_and_what_came(
    library, function, arguments, keywords, error, message
):
    with pytest.raises(error, match=message):
        getattr(library, function)(*arguments, **keywords)


@in_either_mode
@each(DROP_INS)
def test_drop_in_names_the_argument_what_it_expected_and_what_came(
    library, function, arguments, keywords, error, message
):
    with pytest.raises(error, match=message):
        getattr(library, function)(*arguments, **keywords)


@in_either_mode
@each(KEYWORDS)
def test_training_loss_names_the_argument_what_it_expected_and_what_came(
    library, function, arguments, keywords, error, message
):
    with pytest.raises(error, match=message):
        getattr(library, function)(*arguments, **keywords)


def test_an_ignore_index_that_is_traced_names_itself():
    with pytest.raises(TypeError, match=r"ignore_index: expected .*, got a traced value"):
        jax.jit(lambda value: jaxsoftmax.cross_entropy(LOGITS, LABELS, ignore_index=value))(1)


@pytest.mark.parametrize("keyword", ["label_smoothing", "z_loss", "logit_softcap"])
def test_a_traced_constant_that_is_no_scalar_names_itself(keyword):
    with pytest.raises(ValueError, match=rf"{keyword}: expected shape \(\) \(.*or a traced scalar\), got \(2,\)"):
        jax.eval_shape(lambda value: jaxsoftmax.cross_entropy(LOGITS, LABELS, **{keyword: value}), jnp.ones(2))


@pytest.mark.parametrize("keyword", ["label_smoothing", "z_loss", "logit_softcap"])
def test_constant_may_be_any_number_that_is_known(keyword):
    for number in (1, np.float32(1), np.array(1.0), True):
        jax.eval_shape(lambda x, n=number: jaxsoftmax.cross_entropy(x, LABELS, **{keyword: n}), LOGITS)


def test_bad_input_raises_under_jit_as_well():
    with pytest.raises(ValueError, match=r"labels: expected shape \(4,\)"):
        jax.jit(jaxsoftmax.cross_entropy)(LOGITS, np.zeros(5, int))
