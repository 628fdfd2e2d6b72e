"""Other libraries' fused heads under the name and with the arguments of `jaxsoftmax.linear_cross_entropy`.

For `jaxsoftmax verify --against tests.frameworks.heads:TOKAMAX`; what a library doesn't have is not offered.
"""

import functools
from types import SimpleNamespace


def _of_tokamax(hidden, kernel, labels, *, reduction="mean"):
    import tokamax

    if reduction == "none":
        raise TypeError("_of_tokamax() got an unexpected keyword argument 'reduction'")
    head = functools.partial(tokamax.linear_softmax_cross_entropy_loss, implementation="chunked_xla")
    return head(hidden, labels, kernel, reduction=reduction)


TOKAMAX = SimpleNamespace(__name__="tokamax", linear_cross_entropy=_of_tokamax)
