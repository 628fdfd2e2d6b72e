"""What a report says of each function: judged, not judged and why, and by which keywords."""

import functools
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import pytest

import jaxsoftmax
from jaxsoftmax.verify import Gap, certify
from tests.tiers import in_tiers

JAX = SimpleNamespace(
    __name__="jax.nn", logsumexp=jax.nn.logsumexp, softmax=jax.nn.softmax, log_softmax=jax.nn.log_softmax
)
QUICK = {"dtypes": ("float32",), "quick": True}


def test_a_refusal_of_forward_mode_is_listed_and_fails_nothing():
    report = certify(SimpleNamespace(logsumexp=jaxsoftmax.logsumexp), theorems=["M8-empty"], **QUICK)
    assert report.passed
    assert report.gaps == (Gap("logsumexp", "forward mode is refused", ("jacfwd",)),)


def test_a_variant_that_refuses_forward_mode_fails():
    offered = SimpleNamespace(forward_mode=SimpleNamespace(logsumexp=jaxsoftmax.logsumexp))
    report = certify(offered, theorems=["M8-empty"], **QUICK)
    assert {row.transformation for row in report.failed} == {"jacfwd"}


def test_an_argument_that_is_not_offered_is_named_once_with_what_was_not_judged():
    offered = SimpleNamespace(logsumexp=lambda a, axis=None: jaxsoftmax.logsumexp(a, axis))
    report = certify(offered, theorems=["M18"], **QUICK)
    assert report.passed
    of_weights, *_ = (gap for gap in report.gaps if gap.reason == "no argument b")
    assert [gap.reason for gap in report.gaps].count("no argument where") == 1
    assert of_weights.unjudged == ("value, weighted (M18)", "sign (M18)")


def test_an_argument_of_the_functions_own_is_named_as_not_judged():
    def cross_entropy(logits, labels, where=None):
        return jnp.mean(jaxsoftmax.cross_entropy(logits, labels, reduction="none"))

    report = certify(SimpleNamespace(cross_entropy=cross_entropy), theorems=["M14"], **QUICK)
    assert Gap("cross_entropy", "no theorem knows the argument", ("where",)) in report.gaps
    assert "Not judged: where of cross_entropy, which no theorem knows;" in str(report)


def test_a_loss_that_refuses_float_labels_is_judged_by_integer_ones():
    def cross_entropy(logits, labels):
        losses = -jnp.take_along_axis(jax.nn.log_softmax(logits), labels[..., None], -1)[..., 0]
        return jnp.mean(losses)

    report = certify(SimpleNamespace(cross_entropy=cross_entropy), theorems=["M27-keywords"], **QUICK)
    assert report.passed
    assert "float labels are refused (cross_entropy)" in str(report)


def test_a_theorem_of_which_nothing_could_be_judged_is_listed_with_the_reason():
    report = certify(SimpleNamespace(logsumexp=lambda a: jaxsoftmax.logsumexp(a, -1)), theorems=["M18", "M8"], **QUICK)
    lines = [line.split() for line in str(report).splitlines() if line.startswith("–")]
    assert "M18" in {line[1] for line in lines}
    assert "no argument axis" in str(report)


@pytest.mark.slow
def test_a_gradient_that_ignores_its_cotangent_is_told_apart():
    @jax.custom_vjp
    def loss(logits, labels):
        return jaxsoftmax.softmax_cross_entropy_with_integer_labels(logits, labels)

    def backward(saved, bar):
        return jax.vmap(jax.grad(jaxsoftmax.softmax_cross_entropy_with_integer_labels))(*saved), None

    loss.defvjp(lambda logits, labels: (loss(logits, labels), (logits, labels)), backward)
    by_row = jnp.vectorize(lambda x, y: loss(x[None], y[None])[0], signature="(n),()->()")
    report = certify(SimpleNamespace(softmax_cross_entropy_with_integer_labels=by_row), theorems=["M11"], **QUICK)
    assert "the gradient doesn't follow its cotangent, and is right where that is 1 (M11)" in str(report)
    assert repr(report.verdicts[0]).startswith("Verdict(softmax_cross_entropy_with_integer_labels fails: ")


def test_a_function_whose_every_claim_needs_an_argument_it_lacks_is_not_judged():
    offered = SimpleNamespace(logsumexp=lambda a: jaxsoftmax.logsumexp(a, axis=-1), softmax=jaxsoftmax.softmax)
    report = certify(offered, theorems=["M7", "M8-empty"], **QUICK)
    assert not report.passed
    assert not report.failed
    assert {verdict.function: verdict.verdict for verdict in report.verdicts} == {
        "softmax": "holds",
        "logsumexp": "not judged",
    }


def test_what_takes_any_keyword_offers_those_that_it_does_not_refuse():
    def logsumexp(a, **keywords):
        return jaxsoftmax.logsumexp(a, axis=keywords.pop("axis"), **_known(keywords))

    def _known(keywords):
        if "b" in keywords:
            raise TypeError("logsumexp() got an unexpected keyword argument 'b'")
        return keywords

    report = certify(SimpleNamespace(logsumexp=logsumexp), theorems=["M18"], **QUICK)
    assert report.passed
    assert "no argument b" in [gap.reason for gap in report.gaps]


def test_a_head_of_three_arguments_that_always_returns_0_fails():
    def head(hidden, kernel, labels):
        return jnp.zeros(()) * jnp.sum(hidden) * jnp.sum(kernel)

    report = certify(SimpleNamespace(linear_cross_entropy=head), theorems=["M1", "M27-head-keywords"], **QUICK)
    (verdict,) = report.verdicts
    assert verdict.verdict == "fails"
    assert all(row.detail.startswith("got 0.0, expected ") for row in verdict.failed)
    assert {gap.reason for gap in verdict.gaps} >= {"no argument bias", "no argument token_weights"}


def test_a_wrong_gradient_of_a_head_is_said_to_be_in_its_argument():
    def head(hidden, kernel, labels):
        doubled_gradient = 2 * kernel - jax.lax.stop_gradient(kernel)
        return jaxsoftmax.linear_cross_entropy(hidden, doubled_gradient, labels)

    report = certify(SimpleNamespace(linear_cross_entropy=head), theorems=["M20-head"], **QUICK)
    assert report.failed
    assert all(" at gradient in kernel [" in row.detail for row in report.failed)


def test_rows_about_jax_itself_do_not_make_a_certificate():
    report = certify(JAX, theorems=["M1"], **QUICK)
    assert report.rows
    assert not report.passed
    assert not report.judged


def test_keywords_that_change_nothing_are_named():
    def ignoring_all(logits, labels, *, token_weights=None, ignore_index=None, label_smoothing=0.0, z_loss=0.0):
        return jaxsoftmax.cross_entropy(logits, labels)

    report = certify(SimpleNamespace(cross_entropy=ignoring_all), theorems=["M27-keywords"], **QUICK)
    failing = {row.quantity: row.detail for row in report.failed}
    for keyword in ("token_weights", "ignore_index=0", "label_smoothing", "z_loss"):
        said = f"{keyword} changes nothing: the loss without it came"
        assert said in failing[f"mean, integer labels, {keyword}"]
    assert not any("no keyword" in quantity for quantity in failing)


@pytest.mark.slow
def test_a_mean_over_all_tokens_is_named_without_class_weights_too():
    def over_all(logits, labels, *, ignore_index=None):
        return jnp.mean(jaxsoftmax.cross_entropy(logits, labels, ignore_index=ignore_index, reduction="none"))

    report = certify(SimpleNamespace(cross_entropy=over_all), theorems=["M27-keywords"], **QUICK)
    failing = {row.quantity: row.detail for row in report.failed}
    assert "the mean is over all tokens" in failing["mean, integer labels, ignore_index=-100"]
    assert "the mean is over all tokens" in failing["mean, integer labels, ignore_index=3"]


def test_a_failing_row_has_the_smallest_input_that_fails_and_the_gap_up_to_which_it_holds():
    report = certify(JAX, theorems=["M18"], **QUICK)
    row = next(row for row in report.failed if row.regime == "confident gap 1-80" and row.quantity == "value")
    assert (row.gap, row.holds_to, row.lost_from) == (5.0, 1.0, 20.0)
    assert row.case == "[-5. , 0. , -5. , -8. , -5.5, -7. , -6. ]"
    assert "at [1]" in row.detail


def test_a_keyword_that_crashes_inside_is_a_failure_and_no_gap():
    def crashing(logits, labels, *, ignore_index=None):
        return jaxsoftmax.cross_entropy(logits, labels, **({} if ignore_index is None else {"wrong": 1}))

    report = certify(SimpleNamespace(cross_entropy=crashing), theorems=["M27-keywords"], **QUICK)
    assert any("unexpected keyword argument 'wrong'" in row.detail for row in report.failed)
    assert not any("wrong" in gap.reason for gap in report.gaps)


def test_a_gradient_that_cannot_be_taken_is_a_failure_though_it_is_forward_mode_that_is_refused():
    @jax.custom_vjp
    def softmax(x):
        return jaxsoftmax.softmax(x)

    def backward(x, bar):
        return (jax.jvp(jaxsoftmax.logsumexp, (x,), (bar,))[1] * x,)  # forward mode through a `custom_vjp`

    softmax.defvjp(lambda x: (softmax(x), x), backward)
    report = certify(SimpleNamespace(softmax=softmax), theorems=["M5"], **QUICK)
    assert {"jit", "jacrev"} <= {row.transformation for row in report.failed}


def test_a_wrapper_offers_what_it_takes_and_not_what_the_function_inside_takes():
    @functools.wraps(jax.nn.softmax)
    def softmax(x, **keywords):
        return jaxsoftmax.softmax(x, **keywords)

    report = certify(SimpleNamespace(softmax=softmax), theorems=["M4"], **QUICK)
    assert report.passed
    assert not report.gaps


@pytest.mark.slow
def test_several_keywords_are_judged_together_though_others_are_lacking():
    def smoothing_off_where_tokens_are_ignored(logits, labels, *, ignore_index=None, label_smoothing=0.0):
        smoothing = label_smoothing if ignore_index is None else 0.0
        return jaxsoftmax.cross_entropy(logits, labels, ignore_index=ignore_index, label_smoothing=smoothing)

    offered = SimpleNamespace(cross_entropy=smoothing_off_where_tokens_are_ignored)
    report = certify(offered, theorems=["M27-keywords"], **QUICK)
    assert {row.quantity for row in report.failed} == {"mean, integer labels, ignore_index=0 and label_smoothing"}


@in_tiers("dtype", ["float64", "bfloat16"], first=["bfloat16"])
def test_a_quick_certificate_in_one_dtype_judges_every_function(dtype):
    report = certify(theorems=["M8", "M18"], dtypes=[dtype], quick=True)
    assert report.passed, [verdict.function for verdict in report.verdicts if verdict.verdict != "holds"]


def test_a_mesh_of_one_device_is_said_to_have_one_shard(monkeypatch):
    gaps = _gaps_on(1, monkeypatch)
    assert gaps["sharded_linear_cross_entropy"] == "one device is a mesh of one shard"
    assert "sharded_linear_cross_entropy" not in _gaps_on(8, monkeypatch)


def _gaps_on(devices, monkeypatch):
    from jaxsoftmax.verify import THEOREMS
    from jaxsoftmax.verify._certificate import _tasks

    monkeypatch.setattr(jax, "device_count", lambda: devices)
    plan = _tasks(jaxsoftmax, [THEOREMS["M27-mesh"]], ("float32",), quick=True)
    return {gap.function: gap.reason for gap in plan.gaps}
