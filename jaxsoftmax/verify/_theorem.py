"""A theorem as a named object, and the claims it makes about functions."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Theorem:
    """One line of the mathematics, and how a wrong implementation usually breaks it."""

    number: str  # "M5", or "M8-mask" for a named part of one
    name: str  # "Jacobian of softmax"
    statement: str
    reason: str  # why the bound in ulps is what it is
    typical_failure: str  # what an implementation that fails most likely does, and the issue it is known by
    claims: tuple["Claim", ...]

    @property
    def functions(self) -> tuple[str, ...]:
        """The public functions that the theorem speaks of, in order."""
        return tuple(dict.fromkeys(claim.function for claim in self.claims))


@dataclass(frozen=True)
class Claim:
    """What one theorem says of one function: a call, differentiated `order` times, and what must come out.

    A keyword that the call passes, and that a function doesn't have, leaves the claim unjudged.
    """

    function: str  # a dotted name on the implementation
    quantity: str
    order: int  # 0: the call's value; 1: its derivative in the first input; 2: its Hessian
    call: Callable[..., Any]  # (function, x, *constants) -> scalar per row or array per row, over the last axis
    oracle: Callable[..., Any]  # (x, *constants) of one row, in mpmath -> Expected
    inputs: Callable[..., Any]  # (dtype) -> list of Inputs
    bound: float  # ulps of the expected magnitude
    dtypes: tuple[str, ...] = ("float32", "float64")
    rowwise: bool = True  # whether `call` accepts a batch of rows; else it is mapped over rows
    devices: int = 0  # that its mesh has at least; 0 without a mesh
    requires: str = ""  # what else an implementation has to offer: the type of an argument
    may_refuse: str = ""  # what a function need not take: an exception then leaves the claim unjudged
    textbook: Callable[..., Any] | None = None  # (x, *constants): the naive formula, for autodiff in float64
    only_in_full: bool = False  # whether quick certificates and forward-mode variants go without it
    narrowed: Callable[..., Any] | None = None  # (keywords that a function has) -> the claim with these, or None
    through: tuple[str, ...] = ()  # the transformations that it is seen through; if empty, the main ones or all
    mistakes: Callable[..., Any] | None = None  # (x, *constants) -> [(what is wrong, the first numbers that come then)]


FLOAT_LABELS = "float labels"  # a loss need not take them: see `Claim.may_refuse`


@dataclass(frozen=True)
class Inputs:
    """A batch of rows of one regime; the first array is what is differentiated."""

    regime: str
    arrays: tuple[np.ndarray, ...]


FLOAT32 = ("float32",)  # the dtypes of a claim where precision isn't the question


def applied(function: Callable[..., Any], *row: Any) -> Any:
    """The call of a function with nothing but the row's arrays."""
    return function(*row)


def _claim(
    order: int,
    function: str,
    quantity: str,
    oracle: Callable[..., Any],
    inputs: Callable[..., Any],
    bound: float,
    *,
    call: Callable[..., Any] = applied,
    **options: Any,
) -> Claim:
    """A claim about a call, of the row's arrays alone unless `call` says otherwise."""
    return Claim(function, quantity, order, call, oracle, inputs, bound, **options)


value = partial(_claim, 0)  # the claim that the call has a value
derivative = partial(_claim, 1)  # a claim about the call's derivative in the first array
hessian = partial(_claim, 2)  # a claim about the call's Hessian in the first array
