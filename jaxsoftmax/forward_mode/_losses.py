"""The losses and statistics over logits for pure forward mode."""

from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Bool, Float, Int, Real

from jaxsoftmax import _drop_in_losses
from jaxsoftmax._cross_entropy import cross_entropy_with
from jaxsoftmax._distillation import as_divergence, distillation_with
from jaxsoftmax._divergence import forward_divergences
from jaxsoftmax._loss_arguments import loss_options
from jaxsoftmax._row_rules import forward_row_outputs
from jaxsoftmax._row_stats import TokenStats
from jaxsoftmax._sparse_labels import SparseLabels
from jaxsoftmax._token_stats import token_stats_with
from jaxsoftmax.forward_mode._rules import CUSTOM_JVP_RULES


def softmax_cross_entropy(
    logits: Float[ArrayLike, "..."],
    labels: Real[ArrayLike, "..."],
    axis: int | tuple[int, ...] | None = -1,
    where: Bool[ArrayLike, "..."] | None = None,
) -> Float[Array, "*batch"]:
    """`jaxsoftmax.softmax_cross_entropy` with a forward-mode rule: <s sum(t) - t, v> - <log s, t_dot> (M11, M12).

    Args, Returns, Raises, Source: as `jaxsoftmax.softmax_cross_entropy`.

    Differentiation: both modes in logits and labels, to any order (`jax.custom_jvp`).

    >>> import jax, jax.numpy as jnp
    >>> print(jax.jacfwd(softmax_cross_entropy)(jnp.array([0.0, 0.0]), jnp.array([1.0, 0.0])))
    [-0.5  0.5]
    """
    return _drop_in_losses.softmax_cross_entropy_with(CUSTOM_JVP_RULES, logits, labels, axis, where)


def softmax_cross_entropy_with_integer_labels(
    logits: Float[ArrayLike, "..."],
    labels: Int[ArrayLike, "*batch"],
    axis: int | tuple[int, ...] = -1,
    where: Bool[ArrayLike, "..."] | None = None,
) -> Float[Array, "*batch"]:
    """`jaxsoftmax.softmax_cross_entropy_with_integer_labels` with a forward-mode rule: <s - e_y, v> (M11).

    Args, Returns, Raises, Source: as `jaxsoftmax.softmax_cross_entropy_with_integer_labels`.

    Differentiation: both modes in the logits, to any order (`jax.custom_jvp`).

    >>> import jax, jax.numpy as jnp
    >>> print(jax.jacfwd(softmax_cross_entropy_with_integer_labels)(jnp.array([0.0, 0.0]), 0))
    [-0.5  0.5]
    """
    return _drop_in_losses.integer_labels_with(CUSTOM_JVP_RULES, logits, labels, axis, where)


def cross_entropy(
    logits: Float[ArrayLike, "*batch vocab"],
    labels: Int[ArrayLike, "*batch"] | Float[ArrayLike, "*batch vocab"] | SparseLabels,
    *,
    class_weights: Real[ArrayLike, " vocab"] | None = None,
    token_weights: Real[ArrayLike, "*batch"] | None = None,
    ignore_index: int | None = None,
    label_smoothing: float | Float[Array, ""] = 0.0,
    z_loss: float | Float[Array, ""] = 0.0,
    logit_softcap: float | Float[Array, ""] | None = None,
    reduction: str = "mean",
    has_aux: bool = False,
    axis_name: str | tuple[str, ...] | None = None,
) -> Float[Array, "*batch"]:
    """`jaxsoftmax.cross_entropy` with a forward-mode rule: the tangent is <gradient, v> (M25-M27, M31).

    Args, Returns, Raises, Source: as `jaxsoftmax.cross_entropy`.

    Differentiation: both modes in logits, and in the weights of labels and tokens, to any order (`jax.custom_jvp`).

    >>> import jax, jax.numpy as jnp
    >>> print(jax.jacfwd(cross_entropy)(jnp.array([[0.0, 0.0]]), jnp.array([0])))
    [[-0.5  0.5]]
    """
    options = loss_options(ignore_index, label_smoothing, z_loss, logit_softcap)
    arrays = logits, labels, class_weights, token_weights
    return cross_entropy_with(CUSTOM_JVP_RULES, options, reduction, has_aux, axis_name, *arrays)


def token_stats(
    logits: Float[ArrayLike, "*batch vocab"],
    labels: Int[ArrayLike, "*batch"],
    *,
    temperature: float | Float[Array, ""] = 1.0,
    logit_softcap: float | Float[Array, ""] | None = None,
    ignore_index: int | None = None,
    axis_name: str | tuple[str, ...] | None = None,
) -> TokenStats:
    """`jaxsoftmax.token_stats` with a forward-mode rule: of each statistic the tangent is <gradient, v> (M28).

    Args, Returns, Raises, Source: as `jaxsoftmax.token_stats`.

    Differentiation: both modes in the logits, to any order (`jax.custom_jvp`).

    >>> import jax, jax.numpy as jnp
    >>> print(jax.jacfwd(lambda x: token_stats(x, 0).log_prob)(jnp.array([0.0, 0.0])))
    [ 0.5 -0.5]
    """
    options = loss_options(ignore_index, logit_softcap=logit_softcap, temperature=temperature)
    return token_stats_with(forward_row_outputs, options, axis_name, logits, labels)


def distillation(
    logits: Float[ArrayLike, "*batch vocab"],
    teacher_logits: Float[ArrayLike, "*batch vocab"],
    *,
    divergence: str = "forward_kl",
    beta: float = 0.5,
    temperature: float | Float[Array, ""] = 1.0,
    token_weights: Real[ArrayLike, "*batch"] | None = None,
    reduction: str = "mean",
    axis_name: str | tuple[str, ...] | None = None,
) -> Float[Array, "..."]:
    """`jaxsoftmax.distillation` with a forward-mode rule: the tangent is <gradient, v> (M29, M30).

    Args, Returns, Raises, Source: as `jaxsoftmax.distillation`.

    Differentiation: both modes in both logits and the token weights, to any order (`jax.custom_jvp`).

    >>> import jax, jax.numpy as jnp
    >>> print(jax.jacfwd(distillation)(jnp.array([0.0, 0.0]), jnp.array([0.0, 0.0])))
    [0. 0.]
    """
    which, options = as_divergence(divergence, beta), loss_options(temperature=temperature)
    arrays = logits, teacher_logits
    return distillation_with(forward_divergences, which, options, token_weights, reduction, axis_name, *arrays)
