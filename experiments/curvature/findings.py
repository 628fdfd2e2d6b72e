"""What the curvature experiment measures, part by part."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from experiments.curvature.agreement import Agreement, Split, agreement, split, unit_directions
from experiments.curvature.confident_rows import (
    CONFIDENT,
    PEER_HESSIANS,
    PRODUCTS,
    ROW_HESSIANS,
    ConfidentRows,
    product_errors,
    row_errors,
    with_exact_differences,
)
from experiments.curvature.products import (
    HESSIAN_PRODUCTS,
    Logits,
    Model,
    Pixels,
    forward_over_reverse,
    hessian_matrix,
    model_of,
)
from experiments.data.digits import Digits
from experiments.judges.label_gaps import label_gaps
from experiments.models.digits_mlp import Mlp, hidden_of, logits_of, trained_mlp
from experiments.runner.experiment import MeasurementError

PARTS = 3
_HIDDEN, _RATE, _EARLY = 16, 0.03, 40
_DIRECTIONS = 3


class Size(NamedTuple):
    """How much a run measures."""

    digits: int  # of the batch whose curvature is looked at
    late: int  # steps, after which many digits are confident
    stride: int  # of the digits judged with 50 digits


@dataclass(frozen=True)
class Findings:
    """Everything that is judged, printed and drawn."""

    size: Size
    parameters: int
    agreement: Agreement
    split: Split
    rows: ConfidentRows
    products: dict[str, float]  # errors in float32, of the confident digits alone


def find(digits: Digits, size: Size, seed: int, advance: Callable[[], None]) -> Findings:
    """Trains the network and measures; ``advance`` is called after each of the `PARTS`."""
    digits = digits._replace(train_x=digits.train_x.astype(np.float32))
    x, y = digits.train_x[: size.digits], digits.train_y[: size.digits]
    early, late = (trained_mlp(digits, _HIDDEN, steps, _RATE, seed) for steps in (_EARLY, size.late))
    advance()
    with jax.enable_x64(True):
        model = model_of(logits_of, early, x, y, "float64")
        directions = unit_directions(model.point.size, _DIRECTIONS, seed)
        agreed = agreement(HESSIAN_PRODUCTS, model, jax.jit(hessian_matrix)(model), directions)
        parted = split(forward_over_reverse, _head_alone(early, x, y), model, seed)
        advance()
        rows, products = _confident(late, digits, size.stride, directions[0].astype(np.float32))
        advance()
    return Findings(size, model.point.size, agreed, parted, rows, products)


def _head_alone(mlp: Mlp, x: np.ndarray, y: np.ndarray) -> Model:
    """Returns the softmax regression that the head is on the hidden states."""
    return model_of(_linear_logits, (mlp.W2, mlp.b2), np.asarray(hidden_of(mlp, jnp.asarray(x))), y, "float64")


def _linear_logits(head: tuple[Array, Array], hidden: Pixels) -> Logits:
    kernel, bias = head
    return hidden @ kernel + bias


def _confident(late: Mlp, digits: Digits, stride: int, v: np.ndarray) -> tuple[ConfidentRows, dict[str, float]]:
    """Returns the matrices of some digits, and the products with those of all that are confident."""
    x, y = digits.train_x, digits.train_y
    logits = with_exact_differences(np.asarray(logits_of(late, jnp.asarray(x))))
    gaps = np.asarray(label_gaps(logits, y))
    sure = gaps > CONFIDENT
    if not sure[::stride].any():
        raise MeasurementError(f"no digit is {CONFIDENT:g} nats ahead: the largest gap is {gaps.max():.1f}")
    methods = ROW_HESSIANS | PEER_HESSIANS
    found = [
        each
        for dtype in ("float32", "float64")
        for each in row_errors(methods, logits[::stride].astype(dtype), y[::stride])
    ]
    narrow, wide = (model_of(logits_of, late, x[sure], y[sure], dtype) for dtype in ("float32", "float64"))
    return ConfidentRows(gaps[::stride], int(sure.sum()), found), product_errors(PRODUCTS, narrow, wide, v)
