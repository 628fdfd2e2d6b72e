"""The benchmark behind `jaxsoftmax bench`: time, memory and accuracy of the losses beside other libraries.

`interleaved` times calls of your own the same way, round after round, and `ratios` compares them within each round.
`target` has the devices of a machine that isn't here, to compile for.
"""

from jaxsoftmax.bench._targets import Target, target
from jaxsoftmax.bench._timing import Spread, interleaved, ratios, seconds_of

__all__ = ["Spread", "Target", "interleaved", "ratios", "seconds_of", "target"]
