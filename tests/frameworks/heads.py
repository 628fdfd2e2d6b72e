"""Other libraries' fused heads under the name and with the arguments of `jaxsoftmax.linear_cross_entropy`.

For `jaxsoftmax verify --against heads:TOKAMAX` in this folder; what a library doesn't have is not offered.
"""

from types import SimpleNamespace


def _of_tokamax(hidden, kernel, labels, **keywords):
    import tokamax

    for name in keywords:
        if name != "reduction" or keywords[name] == "none":
            raise TypeError(f"linear_softmax_cross_entropy_loss() got an unexpected keyword argument '{name}'")
    return tokamax.linear_softmax_cross_entropy_loss(hidden, labels, kernel, **{"reduction": "mean"} | keywords)


TOKAMAX = SimpleNamespace(__name__="tokamax", linear_cross_entropy=_of_tokamax)


def _of_levanter(hidden, kernel, labels, *, reduction="mean", token_weights=None, logit_softcap=None):
    from levanter.kernels.pallas.fused_cross_entropy_loss.api import fused_cross_entropy_loss_and_logsumexp_penalty

    return fused_cross_entropy_loss_and_logsumexp_penalty(
        hidden,
        labels,
        kernel,
        reduction=None if reduction == "none" else reduction,
        weight=token_weights,
        logit_soft_cap=logit_softcap,
        implementation="xla",
    )


LEVANTER = SimpleNamespace(__name__="levanter", linear_cross_entropy=_of_levanter)
