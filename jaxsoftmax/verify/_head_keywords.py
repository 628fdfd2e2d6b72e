"""Each keyword of the fused head by itself, then all together, on one device and on a mesh: M16, M24-M27."""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import numpy as np

from jaxsoftmax.verify import _keywords, _regimes
from jaxsoftmax.verify._exact_head import HEAD, Setting, gradients_of, logits_of
from jaxsoftmax.verify._head_inputs import drawn
from jaxsoftmax.verify._keyword_cases import (
    ALONE,
    INTEGER,
    OF_INTEGERS,
    OF_PRODUCTS,
    OF_SCHEDULE,
    REDUCTIONS,
    SENTINEL,
    SPARSE,
    Case,
    cases,
)
from jaxsoftmax.verify._keywords import narrowed, of_tokens
from jaxsoftmax.verify._mesh_theorems import MESH_HEAD, on_mesh, over_devices
from jaxsoftmax.verify._oracle import Expected
from jaxsoftmax.verify._theorem import Claim, Inputs, Theorem

TOKENS = Setting(6, 3, _regimes.VOCAB)
OF_HEAD = ("bias", *OF_SCHEDULE, *OF_PRODUCTS)
ON_MESH = ("bias", *ALONE, SENTINEL(-100), SENTINEL(3))


def of_hidden(case: Case, f: Any, hidden: Any, kernel: Any, bias: Any, y: Any, u: Any, classes: Any) -> jax.Array:
    """The call over hidden states and a kernel."""
    given = {"hidden": hidden, "kernel": kernel.T if "transposed_kernel" in case.given else kernel}
    given |= {"bias": bias} if "bias" in case.given else {}
    given |= _keywords.differentiable(case, y, u)
    settings = {name: value for name, value in (OF_SCHEDULE | OF_PRODUCTS).items() if name in case.given}

    def loss(*values):
        named = dict(zip(given, values, strict=True))
        labels = _keywords.as_labels(case, named.get("labels", y), classes)
        keywords = case.keywords(hidden.dtype, named.get("token_weights")) | settings
        keywords |= {"bias": named["bias"]} if "bias" in named else {}
        return f(named["hidden"], named["kernel"], labels, **keywords)

    return _keywords.loss_and_gradients(case, loss, *given.values())


def of_hidden_exactly(
    case: Case, hidden: np.ndarray, kernel: np.ndarray, bias: np.ndarray, y: np.ndarray, u: np.ndarray, classes: Any
) -> Expected:
    """What the call over hidden states gives, in mpmath: no logit rounds."""
    z = logits_of(case.given, hidden, kernel, bias)
    loss = _keywords.exact_loss(case, z, _keywords.dense(case, y, classes), u)
    of_product = gradients_of(case.given, hidden, kernel, loss.by_logits)
    return _keywords.flattened(case, loss, of_product, classes)


def mistakes(case: Case, hidden: Any, kernel: Any, bias: Any, y: Any, u: Any, classes: Any) -> Iterator[Any]:
    """What the loss comes to if a keyword changes nothing, or if a mean is taken over all tokens."""
    labels = _keywords.dense(case, y, classes)
    if "bias" in case.given:
        without = _keywords.exact_loss(case, hidden @ kernel, labels, u)
        yield "bias changes nothing: the loss without it came", without.value
    of_loss = replace(case, given=case.given - {"bias"})
    yield from _keywords.mistakes(of_loss, logits_of(case.given, hidden, kernel, bias), labels, u)


def inputs(case: Case, dtype: str) -> list[Inputs]:
    """Six tokens."""
    arrays = [array[None] for array in drawn(TOKENS, 35)]
    return [Inputs(regime, (*arrays, *labels)) for regime, labels in _keywords.labels_of(case).items()]


def _claim(case: Case) -> Claim:
    return of_tokens(
        HEAD,
        case.name,
        call=partial(of_hidden, case),
        oracle=partial(of_hidden_exactly, case),
        inputs=partial(inputs, case),
        mistakes=partial(mistakes, case),
        requires="SparseLabels" if case.labels == SPARSE else "",
        only_in_full=case.only_in_full,
        narrowed=partial(narrowed, _claim, case) if len(case.given) > 1 else None,
    )


def _mesh_claim(case: Case) -> Claim:
    return replace(
        _claim(case),
        function=MESH_HEAD,
        call=lambda f, *row: of_hidden(case, on_mesh(f), *row),
        inputs=over_devices(partial(inputs, case)),
        devices=1,
        narrowed=partial(narrowed, _mesh_claim, case) if len(case.given) > 1 else None,
    )


def _on_mesh() -> Iterator[Case]:
    for reduction in REDUCTIONS:
        yield Case(INTEGER, reduction)
    for keyword in ON_MESH:
        yield Case(INTEGER, "mean", frozenset({keyword}))
    for reduction in REDUCTIONS:
        yield Case(INTEGER, reduction, frozenset(ON_MESH) - {SENTINEL(-100)})


HEAD_KEYWORDS = Theorem(
    "M27-head-keywords",
    "each keyword of the fused head by itself",
    "each keyword of the fused head by itself, and all together, in each reduction: loss and gradients are those of "
    "M16 and M24-M27; but for schedule",
    "as M16-head",
    "as M27-keywords; the cotangent dropped; a bias left out; a ragged last chunk dropped",
    tuple(
        _claim(case)
        for kind, alone in ((INTEGER, ALONE + OF_INTEGERS + OF_HEAD), (SPARSE, ("token_weights", "bias")))
        for case in cases(kind, alone)
    ),
)

MESH_KEYWORDS = Theorem(
    "M27-mesh-keywords",
    "each keyword by itself on a mesh",
    "each keyword of the fused head by itself, and several together, where tokens and classes are on several devices",
    "as M27-mesh",
    "a smoothing over a shard's classes alone; a mean of means; ignored tokens counted on one device",
    tuple(map(_mesh_claim, _on_mesh())),
)
