"""A divergence between the logits of two fused heads: what M29 and M30 claim of it (M16).

What is differentiated, both heads and the token weights, is packed into one array theta of small dyadic numbers: no
logit rounds.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxsoftmax.verify import _regimes
from jaxsoftmax.verify._exact_divergence import FORWARD, Divergence, ExactPair, divergence_of, gradient_of, textbook
from jaxsoftmax.verify._exact_head import Setting, through_product
from jaxsoftmax.verify._head_inputs import drawn, packed
from jaxsoftmax.verify._oracle import Expected, end_to_end, exact, itself
from jaxsoftmax.verify._theorem import FLOAT32, Claim, Inputs, derivative

LINEAR_DISTILLATION = "linear_distillation"
STUDENT, TEACHER = Setting(5, 3, _regimes.VOCAB), Setting(5, 2, _regimes.VOCAB)
CHUNK = 2  # the last chunk is ragged


def unpacked(theta: Any) -> tuple[Any, Any, Any]:
    """The student's parts, the teacher's, and the token weights."""
    of_student = STUDENT.parts(theta)
    of_teacher = TEACHER.parts(of_student.token_weights)  # what lies behind the student's
    return of_student, of_teacher, of_teacher.token_weights


def weighted_sum(divergence: Divergence) -> Any:
    """sum_t w_t D_t."""

    def call(f, theta):
        student, teacher, weights = unpacked(theta)
        return f(
            student.hidden,
            student.kernel,
            teacher.hidden,
            teacher.kernel,
            bias=student.bias,
            teacher_bias=teacher.bias,
            token_weights=weights,
            reduction="sum",
            chunk_size=CHUNK,
            **divergence.keywords(),
        )

    return call


def gradients(divergence: Divergence) -> Any:
    """The gradients of the sum in theta; in a token's weight it is that token's divergence (M16, M29, M30)."""

    def expected(theta):
        student, teacher, weights = unpacked(theta)
        logits = [head.logits for head in (student, teacher)]
        pairs = [ExactPair.of(np.stack(rows)) for rows in zip(*logits, strict=True)]
        losses = itself([divergence_of(divergence, pair) for pair in pairs])
        g = exact(weights)[:, None, None] * Expected.stack([gradient_of(divergence, pair) for pair in pairs])
        of_student = through_product(student.hidden, student.kernel, g[:, 0])
        of_teacher = through_product(teacher.hidden, teacher.kernel, g[:, 1], "teacher_")
        return end_to_end(of_student | of_teacher | {"gradient in token_weights": losses})

    return expected


def textbook_sum(divergence: Divergence) -> Any:
    """The formulas as printed, of all logits at once (M29, M30)."""

    def total(theta):
        student, teacher, weights = unpacked(theta)
        logits = [head.logits for head in (student, teacher)]
        return jnp.dot(weights, jax.vmap(textbook(divergence))(jnp.stack(logits, 1)))

    return total


def head_tokens(dtype: str) -> list[Inputs]:
    """Five tokens; the third has weight 0."""
    weights = np.array([1.0, 0.5, 0.0, 2.0, 0.25])
    theta = packed(*drawn(STUDENT, 51), *drawn(TEACHER, 52), weights)
    return [Inputs("5 tokens in chunks of 2", (theta[None],))]


def of_two_heads(divergence: Divergence) -> Claim:
    """Gradients of the weighted sum, in which that in a token's weight is its loss."""
    return derivative(
        LINEAR_DISTILLATION,
        f"gradients of {divergence.name}, and losses as those in the token weights",
        gradients(divergence),
        head_tokens,
        6,
        call=weighted_sum(divergence),
        dtypes=("float32", "float64") if divergence == FORWARD else FLOAT32,
        rowwise=False,
        textbook=textbook_sum(divergence),
    )
