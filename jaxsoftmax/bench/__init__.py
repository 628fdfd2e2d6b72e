"""The benchmark behind `jaxsoftmax bench`: time, memory and accuracy of the losses beside other libraries.

`interleaved` times calls of your own the same way, round after round, and `ratios` compares them within each round.
`target` has the devices of a machine that isn't here, to compile for; `device_work` reads from a compiled program over
a mesh what a device multiplies and says.
"""

from jaxsoftmax.bench._collectives import Collective, DeviceWork, UnreadableProgramError, device_work
from jaxsoftmax.bench._targets import Target, target
from jaxsoftmax.bench._timing import Spread, interleaved, ratios, seconds_of

__all__ = [
    "Collective",
    "DeviceWork",
    "Spread",
    "Target",
    "UnreadableProgramError",
    "device_work",
    "interleaved",
    "ratios",
    "seconds_of",
    "target",
]
