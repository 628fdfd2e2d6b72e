"""Every theorem, by its number."""

from dataclasses import replace

from jaxsoftmax.verify._confident_label_theorems import CONFIDENT_LABEL_THEOREMS
from jaxsoftmax.verify._cross_entropy_theorems import CROSS_ENTROPY_THEOREMS
from jaxsoftmax.verify._differential_theorems import DIFFERENTIAL_THEOREMS
from jaxsoftmax.verify._distillation_keywords import TOKEN_KEYWORDS
from jaxsoftmax.verify._distillation_theorems import DISTILLATION_THEOREMS
from jaxsoftmax.verify._head_keywords import HEAD_KEYWORDS, MESH_KEYWORDS
from jaxsoftmax.verify._head_theorems import HEAD_THEOREMS
from jaxsoftmax.verify._keywords import KEYWORDS
from jaxsoftmax.verify._linear_theorems import LINEAR_THEOREMS
from jaxsoftmax.verify._log_softmax_theorems import LOG_SOFTMAX_THEOREMS
from jaxsoftmax.verify._log_sum_exp_theorems import LOG_SUM_EXP_THEOREMS
from jaxsoftmax.verify._loss_parts_theorems import LOSS_PARTS
from jaxsoftmax.verify._low_precision_theorems import LOW_PRECISION_THEOREMS
from jaxsoftmax.verify._mesh_theorems import MESH_THEOREMS
from jaxsoftmax.verify._second_derivatives import SECOND_DERIVATIVES
from jaxsoftmax.verify._softmax_theorems import SOFTMAX_THEOREMS
from jaxsoftmax.verify._sparse_label_theorems import SPARSE_LABELS
from jaxsoftmax.verify._temperature_theorems import TEMPERATURE
from jaxsoftmax.verify._theorem import Theorem
from jaxsoftmax.verify._token_stats_theorems import ENTROPY, STATS_CLAIMS
from jaxsoftmax.verify._training_loss_theorems import TRAINING_LOSS_THEOREMS


def _number(theorem: Theorem) -> tuple[int, str]:
    number, _, part = theorem.number.partition("-")
    return int(number[1:]), part


THEOREMS: dict[str, Theorem] = {
    theorem.number: replace(theorem, claims=theorem.claims + STATS_CLAIMS.get(theorem.number, ()))
    for theorem in sorted(
        LOW_PRECISION_THEOREMS
        + DIFFERENTIAL_THEOREMS
        + SOFTMAX_THEOREMS
        + LOG_SOFTMAX_THEOREMS
        + LOG_SUM_EXP_THEOREMS
        + CROSS_ENTROPY_THEOREMS
        + CONFIDENT_LABEL_THEOREMS
        + LINEAR_THEOREMS
        + TRAINING_LOSS_THEOREMS
        + HEAD_THEOREMS
        + MESH_THEOREMS
        + DISTILLATION_THEOREMS
        + SECOND_DERIVATIVES
        + (ENTROPY, SPARSE_LABELS, TEMPERATURE, LOSS_PARTS)
        + (KEYWORDS, HEAD_KEYWORDS, MESH_KEYWORDS, TOKEN_KEYWORDS),
        key=_number,
    )
}
"""Every theorem by its number, "M1" to "M33" and parts such as "M8-empty": what `certify` judges."""
