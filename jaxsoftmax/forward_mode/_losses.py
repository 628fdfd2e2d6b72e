"""The losses and statistics over logits for pure forward mode."""

from jaxsoftmax import _cross_entropy, _distillation, _drop_in_losses, _token_stats
from jaxsoftmax._divergence import forward_divergences
from jaxsoftmax._row_rules import forward_row_outputs
from jaxsoftmax._rule_binding import variant_of
from jaxsoftmax.forward_mode._rules import CUSTOM_JVP_RULES


@variant_of(_drop_in_losses.softmax_cross_entropy, CUSTOM_JVP_RULES)
def softmax_cross_entropy() -> None:
    """`jaxsoftmax.softmax_cross_entropy` with a forward-mode rule: <s sum(t) - t, v> - <log s, t_dot> (M11, M12).

    Args, Returns, Raises, Source: as `jaxsoftmax.softmax_cross_entropy`.

    Differentiation: both modes in logits and labels, to any order (`jax.custom_jvp`).

    >>> import jax, jax.numpy as jnp
    >>> print(jax.jacfwd(softmax_cross_entropy)(jnp.array([0.0, 0.0]), jnp.array([1.0, 0.0])))
    [-0.5  0.5]
    """


@variant_of(_drop_in_losses.softmax_cross_entropy_with_integer_labels, CUSTOM_JVP_RULES)
def softmax_cross_entropy_with_integer_labels() -> None:
    """`jaxsoftmax.softmax_cross_entropy_with_integer_labels` with a forward-mode rule: <s - e_y, v> (M11).

    Args, Returns, Raises, Source: as `jaxsoftmax.softmax_cross_entropy_with_integer_labels`.

    Differentiation: both modes in the logits, to any order (`jax.custom_jvp`).

    >>> import jax, jax.numpy as jnp
    >>> print(jax.jacfwd(softmax_cross_entropy_with_integer_labels)(jnp.array([0.0, 0.0]), 0))
    [-0.5  0.5]
    """


@variant_of(_cross_entropy.cross_entropy, CUSTOM_JVP_RULES)
def cross_entropy() -> None:
    """`jaxsoftmax.cross_entropy` with a forward-mode rule: the tangent is <gradient, v> (M25-M27, M31).

    Args, Returns, Raises, Source: as `jaxsoftmax.cross_entropy`.

    Differentiation: both modes in logits, and in the weights of labels and tokens, to any order (`jax.custom_jvp`).

    >>> import jax, jax.numpy as jnp
    >>> print(jax.jacfwd(cross_entropy)(jnp.array([[0.0, 0.0]]), jnp.array([0])))
    [[-0.5  0.5]]
    """


@variant_of(_token_stats.token_stats, forward_row_outputs)
def token_stats() -> None:
    """`jaxsoftmax.token_stats` with a forward-mode rule: of each statistic the tangent is <gradient, v> (M28).

    Args, Returns, Raises, Source: as `jaxsoftmax.token_stats`.

    Differentiation: both modes in the logits, to any order (`jax.custom_jvp`).

    >>> import jax, jax.numpy as jnp
    >>> print(jax.jacfwd(lambda x: token_stats(x, 0).log_prob)(jnp.array([0.0, 0.0])))
    [ 0.5 -0.5]
    """


@variant_of(_distillation.distillation, forward_divergences)
def distillation() -> None:
    """`jaxsoftmax.distillation` with a forward-mode rule: the tangent is <gradient, v> (M29, M30).

    Args, Returns, Raises, Source: as `jaxsoftmax.distillation`.

    Differentiation: both modes in both logits and the token weights, to any order (`jax.custom_jvp`).

    >>> import jax, jax.numpy as jnp
    >>> print(jax.jacfwd(distillation)(jnp.array([0.0, 0.0]), jnp.array([0.0, 0.0])))
    [0. 0.]
    """
