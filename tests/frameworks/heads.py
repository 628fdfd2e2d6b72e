"""Other libraries' fused heads under the name and with the arguments of `jaxsoftmax.linear_cross_entropy`.

For `jaxsoftmax verify --against tests.frameworks.heads:TOKAMAX`; what a library doesn't have is not offered.
"""

from types import SimpleNamespace


def _of_tokamax(hidden, kernel, labels, **keywords):
    import tokamax

    for name in keywords:
        if name != "reduction" or keywords[name] == "none":
            raise TypeError(f"linear_softmax_cross_entropy_loss() got an unexpected keyword argument '{name}'")
    return tokamax.linear_softmax_cross_entropy_loss(hidden, labels, kernel, **{"reduction": "mean"} | keywords)


TOKAMAX = SimpleNamespace(__name__="tokamax", linear_cross_entropy=_of_tokamax)
