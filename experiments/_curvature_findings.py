"""What the curvature experiment measures, part by part."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from experiments._confident_curvature import (
    CONFIDENT,
    PEER_HESSIANS,
    PRODUCTS,
    ROW_HESSIANS,
    ConfidentRows,
    product_errors,
    row_errors,
    with_exact_differences,
)
from experiments._curvature_agreement import Agreement, Split, agreement, split, unit_directions
from experiments._curvature_products import (
    HESSIAN_PRODUCTS,
    Logits,
    Model,
    Pixels,
    forward_over_reverse,
    gauss_newton,
    gauss_newton_matrix,
    hessian_matrix,
    model_of,
)
from experiments._curvature_spectrum import FewRows, Spectrum, along_the_null_directions, few_rows, spectrum
from experiments._curvature_times import Times, logits_alone, times
from experiments._digits_mlp import Mlp, hidden_of, logits_of, trained_mlp
from experiments._digits_training import Digits
from experiments._experiment import MeasurementError
from experiments._kronecker_block import Blocks, blocks
from experiments._label_gaps import label_gaps

PARTS = 7
_HIDDEN, _RATE, _EARLY = 16, 0.03, 40
_DIRECTIONS, _FEW = 3, 8


class Size(NamedTuple):
    """How much a run measures."""

    digits: int  # of the batch whose curvature is looked at
    late: int  # steps, after which many digits are confident
    stride: int  # of the digits judged with 50 digits
    eigenvalues: int
    logits: tuple[tuple[int, int], ...]  # of the losses that are timed without a network
    rounds: int


@dataclass(frozen=True)
class Findings:
    """Everything that is judged, printed and drawn."""

    size: Size
    parameters: int
    agreement: Agreement
    split: Split
    spectra: dict[str, Spectrum]
    null: float  # the longest product along a null direction, relative to the largest eigenvalue
    few: FewRows
    blocks: dict[int, Blocks]  # by steps of training
    rows: ConfidentRows
    products: dict[str, float]  # errors in float32, of the confident digits alone
    times: dict[str, dict[str, Times]]


def find(digits: Digits, size: Size, seed: int, advance: Callable[[], None]) -> Findings:
    """Trains the network and measures; ``advance`` is called after each of the `PARTS`."""
    digits = digits._replace(train_x=digits.train_x.astype(np.float32))
    x, y = digits.train_x[: size.digits], digits.train_y[: size.digits]
    networks = {steps: trained_mlp(digits, _HIDDEN, steps, _RATE, seed) for steps in (0, _EARLY, size.late)}
    early, late = networks[_EARLY], networks[size.late]
    advance()
    with jax.enable_x64(True):
        model = model_of(logits_of, early, x, y, "float64")
        directions = unit_directions(model.point.size, _DIRECTIONS, seed)
        hessian, matrix = jax.jit(hessian_matrix)(model), jax.jit(gauss_newton_matrix)(model)
        agreed = agreement(HESSIAN_PRODUCTS, model, hessian, directions)
        parted = split(forward_over_reverse, _head_alone(early, x, y), model, seed)
        advance()
        spectra = {
            "Hessian": spectrum(hessian, forward_over_reverse, model, size.eigenvalues, seed),
            "Gauss–Newton": spectrum(matrix, gauss_newton, model, size.eigenvalues, seed),
        }
        null = along_the_null_directions(model, early, seed) / float(spectra["Hessian"].dense[-1])
        advance()
        few = few_rows(model_of(logits_of, early, x[:_FEW], y[:_FEW], "float64"))
        advance()
        head = {steps: blocks(network, x, y) for steps, network in networks.items()}
        advance()
        rows, products = _confident(late, digits, size.stride, directions[0].astype(np.float32))
        advance()
    timed = _times(model_of(logits_of, early, x, y, "float32"), size, seed)
    advance()
    return Findings(size, model.point.size, agreed, parted, spectra, null, few, head, rows, products, timed)


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


def _times(model: Model, size: Size, seed: int) -> dict[str, dict[str, Times]]:
    models = {f"{model.point.size} parameters, {size.digits} digits": model}
    models |= {f"{rows} × {classes} logits alone": logits_alone(rows, classes, seed) for rows, classes in size.logits}
    rounds = size.rounds
    return {name: times(each, unit_directions(each.point.size, 1, seed)[0], rounds) for name, each in models.items()}
