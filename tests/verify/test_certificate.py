"""What `certify` judges, refuses and records; and which theorems the functions of jax and optax don't satisfy."""

import sys
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import optax
import pytest

import jaxsoftmax
from jaxsoftmax.verify import THEOREMS, certify

JAX = SimpleNamespace(
    __name__="jax.nn", logsumexp=jax.nn.logsumexp, softmax=jax.nn.softmax, log_softmax=jax.nn.log_softmax
)
OPTAX = SimpleNamespace(
    __name__="optax",
    softmax_cross_entropy=optax.softmax_cross_entropy,
    softmax_cross_entropy_with_integer_labels=optax.softmax_cross_entropy_with_integer_labels,
)
PEERS = {"dtypes": ("float32", "bfloat16"), "quick": True}
QUICK = {"dtypes": ("float32",), "quick": True}


def _failed(report, **columns):
    """The failed theorems, among rows with these columns."""
    return {row.theorem for row in report.failed if all(getattr(row, c) == v for c, v in columns.items())}


def _judged(report):
    return {row.theorem for row in report.rows}


def _wrong_softmax(x, axis=-1, where=None):
    return 2 * jax.nn.softmax(x, axis, where)


def _raising_softmax(x, axis=-1, where=None):
    raise RuntimeError("no softmax today")


def _raise(error):
    raise error


class Unspeakable(BaseException):
    def __str__(self):
        raise Unspeakable


class UnspeakableTypeError(TypeError):
    def __str__(self):
        raise UnspeakableTypeError


@pytest.fixture(scope="module")
def of_jax():
    return certify(JAX, theorems=[n for n in THEOREMS if n not in ("M1", "M2", "M3")], **PEERS)


@pytest.fixture(scope="module")
def of_optax():
    return certify(OPTAX, theorems=[n for n in THEOREMS if n not in ("M1", "M2", "M3")], **PEERS)


def test_every_line_of_the_mathematics_is_a_theorem():
    assert {number.partition("-")[0] for number in THEOREMS} == {f"M{i}" for i in range(1, 34)}


def test_every_theorem_is_stated_in_full_and_makes_claims():
    for number, theorem in THEOREMS.items():
        assert theorem.number == number
        assert all((theorem.statement, theorem.reason, theorem.typical_failure, theorem.claims, theorem.functions))
        assert all(claim.bound >= 0 and claim.order in (0, 1, 2) and claim.dtypes for claim in theorem.claims)


@pytest.mark.parametrize("unknown", ["M34", "M0", "M8-full", "5", ""])
def test_an_unknown_theorem_is_refused_by_name(unknown):
    with pytest.raises(ValueError, match=f"theorems: expected some of M1, .*, got {unknown}"):
        certify(theorems=["M5", unknown])


def test_what_is_no_list_of_names_is_refused():
    with pytest.raises(ValueError, match=r"theorems: expected a sequence of names, got 'M5'; write \['M5'\]"):
        certify(theorems="M5")
    with pytest.raises(ValueError, match=r"dtypes: expected some of float32, .*, got .*float32"):
        certify(theorems=["M5"], dtypes=[jnp.float32])


@pytest.mark.parametrize("unknown", ["float8", "int32", ""])
def test_an_unknown_dtype_is_refused_by_name(unknown):
    with pytest.raises(ValueError, match=f"dtypes: expected some of float32, .*, got {unknown}"):
        certify(theorems=["M5"], dtypes=["float32", unknown])


def test_a_number_stands_for_its_named_parts_and_a_part_for_itself():
    offered = SimpleNamespace(softmax_cross_entropy_with_integer_labels=OPTAX.softmax_cross_entropy_with_integer_labels)
    assert _judged(certify(offered, theorems=["M19-low"], **PEERS)) == {"M19-low"}
    assert _judged(certify(offered, theorems=["M19"], **PEERS)) == {"M19", "M19-low"}


def test_a_function_that_is_missing_is_skipped_and_listed_once():
    only_softmax = SimpleNamespace(softmax=jaxsoftmax.softmax)
    report = certify(only_softmax, theorems=["M7", "M13", "M18", "M19"], **QUICK)
    assert report.passed
    assert report.offered == ("softmax",)
    assert {row.function for row in report.rows} == {"softmax"}
    assert report.missing == (
        "logsumexp",
        "token_stats",
        "softmax_cross_entropy_with_integer_labels",
        "softmax_cross_entropy",
        "cross_entropy",
    )


@pytest.mark.parametrize("theorems", [["M7"], ["M1"], None])
@pytest.mark.parametrize(
    ("nothing", "said"),
    [
        (SimpleNamespace(cros_entropy=jax.nn.softmax), r"got namespace\(cros_entropy="),
        (lambda logits, labels: logits, "got the function <function <lambda>"),
    ],
    ids=["misnamed", "bare"],
)
def test_what_offers_no_function_is_refused(nothing, said, theorems):
    with pytest.raises(ValueError, match=f"implementation: expected an object with some of softmax, .*{said}"):
        certify(nothing, theorems=theorems, **QUICK)


def test_a_certificate_of_nothing_does_not_pass():
    report = certify(JAX, theorems=["M20"], **QUICK)
    assert report.rows == ()
    assert not report.passed


def test_progress_counts_every_step_once_up_to_the_total():
    steps, offered = [], SimpleNamespace(softmax=jax.nn.softmax)
    certify(offered, theorems=["M7", "M4-low"], progress=lambda *step: steps.append(step), quick=True)
    done, totals, labels = zip(*steps, strict=True)
    assert done == tuple(range(1, len(steps) + 1))
    assert set(totals) == {len(steps)}
    assert labels[0] == "M4-low softmax, bfloat16"
    assert len(set(labels)) == len(labels)


def test_a_row_that_fails_says_what_came_and_one_that_holds_is_silent():
    report = certify(SimpleNamespace(softmax=_wrong_softmax), theorems=["M4", "M7"], **QUICK)
    assert _failed(report) == {"M4"}
    assert all(row.detail.startswith("got ") and ", expected " in row.detail for row in report.failed)
    assert all(row.detail == "" for row in report.rows if row.passed)


def test_a_call_that_raises_fails_its_row_with_the_exception():
    report = certify(SimpleNamespace(softmax=_raising_softmax), theorems=["M7"], **QUICK)
    assert not report.passed
    assert {(row.error, row.detail) for row in report.rows} == {(float("inf"), "RuntimeError: no softmax today")}


@pytest.mark.parametrize(
    ("dtype", "narrow"),
    [
        ("float32", jnp.bfloat16),
        pytest.param("float32", jnp.float16, marks=pytest.mark.slow),
        pytest.param("float64", jnp.float32, marks=pytest.mark.slow),
    ],
)
def test_a_result_of_a_narrower_dtype_fails(dtype, narrow):
    offered = SimpleNamespace(softmax=lambda x, axis=-1, where=None: jaxsoftmax.softmax(x, axis, where).astype(narrow))
    report = certify(offered, theorems=["M4"], dtypes=[dtype], quick=True)
    assert {row.error for row in report.rows} == {float("inf")}
    assert {row.detail for row in report.rows} == {f"dtype {jnp.dtype(narrow)}, expected at least {dtype}"}


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (jnp.mean, "shape ()"),
        pytest.param(lambda value: value[..., None], "shape (9, 1), expected (9,)", marks=pytest.mark.slow),
        pytest.param(lambda value: (value, value), "tuple, expected an array", marks=pytest.mark.slow),
        (lambda _: None, "NoneType, expected an array"),
        (lambda _: sys.exit("no"), "SystemExit: no"),
        (lambda _: _raise(Unspeakable), "Unspeakable: <exception str() failed>"),
        (lambda _: _raise(UnspeakableTypeError), "UnspeakableTypeError: <exception str() failed>"),
    ],
)
def test_whatever_a_rule_returns_fails_its_rows_and_no_more(spoil, said):
    def loss(logits, labels, axis=-1, where=None):
        return spoil(jaxsoftmax.softmax_cross_entropy_with_integer_labels(logits, labels, axis, where))

    offered = SimpleNamespace(softmax_cross_entropy_with_integer_labels=loss)
    report = certify(offered, theorems=["M19"], **QUICK)
    assert not report.passed
    assert any(said in row.detail for row in report.failed), {row.detail for row in report.failed}


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (jnp.sum, "shape (7,), expected (7, 7)"),
        pytest.param(lambda probs: (probs, probs), "tuple, expected an array", marks=pytest.mark.slow),
    ],
)
def test_a_derivative_of_another_shape_fails_beside_the_textbook_too(spoil, said):
    offered = SimpleNamespace(softmax=lambda x, axis=-1, where=None: spoil(jaxsoftmax.softmax(x, axis, where)))
    report = certify(offered, theorems=["M5"], dtypes=["float64"], quick=True)
    assert said in {row.detail for row in report.failed if row.judge == "textbook autodiff, float64"}
    assert "finite differences, float64" in {row.judge for row in report.failed}


@pytest.mark.parametrize("name", ["softmax", "forward_mode", "__name__"])
def test_an_attribute_that_cannot_be_read_is_refused(name):
    attributes = {"logsumexp": staticmethod(jaxsoftmax.logsumexp), name: property(lambda self: _raise(Unspeakable))}
    with pytest.raises(ValueError, match=rf"^cannot read '{name}': Unspeakable: <exception str\(\) failed>$"):
        certify(type("Implementation", (), attributes)(), theorems=["M8-empty"], **QUICK)


def test_a_variant_is_judged_under_its_own_name():
    offered = SimpleNamespace(forward_mode=SimpleNamespace(logsumexp=jaxsoftmax.forward_mode.logsumexp))
    report = certify(offered, theorems=["M8-empty"], **QUICK)
    assert report.passed
    assert {row.function for row in report.rows} == {"forward_mode.logsumexp"}
    assert "jacfwd" in {row.transformation for row in report.rows}


def test_a_nan_where_a_number_is_expected_is_an_infinite_error():
    offered = SimpleNamespace(softmax=lambda x, axis=-1, where=None: jnp.nan * x)
    report = certify(offered, theorems=["M4"], **QUICK)
    assert {row.error for row in report.rows} == {float("inf")}
    document = report.as_dict()
    assert document["rows"][0][document["columns"].index("error")] == "inf"


def test_a_report_names_what_it_was_made_on():
    report = certify(JAX, theorems=["M7"], **QUICK)
    assert report.implementation == "jax.nn"
    assert report.versions["jax"] == jax.__version__
    assert report.device
    assert report.seconds > 0


@pytest.mark.slow
def test_jax_fails_at_tails_empty_rows_and_low_precision_and_nowhere_else(of_jax):
    # jax#40344: the tail is lost from values (M18, M21) and gradients; jax#6811: nan gradient of a row of -inf alone.
    assert _failed(of_jax) == {"M18", "M21", "M8-empty", "M4-low", "M8-low"}
    assert _judged(of_jax) - _failed(of_jax) == {"M4", "M5", "M6", "M6-second", "M7", "M8", "M9", "M10", "M13", "M22"}


@pytest.mark.slow
def test_jax_fails_m18_and_m21_on_confident_and_shifted_rows_and_along_nearly_constant_directions_alone(of_jax):
    regimes = {row.regime for row in of_jax.failed if row.theorem in ("M18", "M21")}
    rows = {"confident gap 1-80", "[40, 0, ...]", "[1e4, 9990, 9980, ...]", "a nearly constant direction"}
    assert regimes == rows | {"[0] + [-17] * 4095", "[0] + [-17] * 69631"}


@pytest.mark.slow
def test_jax_fails_m8_on_a_row_of_minus_infinity_and_on_a_weight_0(of_jax):
    failed = {(row.regime, row.quantity) for row in of_jax.failed if row.theorem == "M8-empty"}
    assert failed == {("-inf alone", "gradient"), ("-inf alone", "value"), ("weights 0", "gradient in a weight 0")}


@pytest.mark.slow
def test_optax_fails_at_tails_masks_labels_out_of_range_and_low_precision_and_nowhere_else(of_optax):
    assert _failed(of_optax) == {"M19", "M20", "M11-mask", "M11-range", "M19-low"}
    assert _judged(of_optax) - _failed(of_optax) == {"M11", "M12", "M14", "M15", "M16", "M17"}


@pytest.mark.slow
def test_optax_with_one_hot_labels_loses_a_loss_to_0_times_infinity(of_optax):
    failed = [row for row in of_optax.failed if row.theorem == "M11-mask"]
    failed = [row for row in failed if row.regime != "-inf alone"]  # there both are nan
    assert {row.function for row in failed} == {"softmax_cross_entropy"}
    assert all("got nan" in row.detail for row in failed)


@pytest.mark.slow
def test_optax_with_integer_labels_wraps_minus_1_to_the_last_class(of_optax):
    failed = [row for row in of_optax.failed if row.theorem == "M11-range"]
    assert {row.function for row in failed} == {"softmax_cross_entropy_with_integer_labels"}
    assert {row.quantity for row in failed} == {"value", "gradient"}
