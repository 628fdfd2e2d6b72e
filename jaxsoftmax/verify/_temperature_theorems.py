"""Temperature, in the statistics of tokens and in distillation: M32."""

from jaxsoftmax.verify import _distillation_theorems, _token_stats_theorems
from jaxsoftmax.verify._theorem import Theorem

TEMPERATURE = Theorem(
    "M32",
    "temperature",
    "at a temperature T statistics and divergences are those of z / T, and their gradients 1 / T times those at z / T; "
    "a divergence isn't multiplied by T^2",
    "as M28 and M29: logits divided by a power of 2 don't round",
    "the gradient without its 1 / T; T^2 times the divergence, as in some recipes; T in place of 1 / T; a temperature "
    "that one of the two rows lacks",
    (*_token_stats_theorems.TEMPERATURE_CLAIMS, *_distillation_theorems.TEMPERATURE_CLAIMS),
)
