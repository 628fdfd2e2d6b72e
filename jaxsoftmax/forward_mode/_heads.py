"""The fused heads for pure forward mode."""

from jaxsoftmax._head import linear_cross_entropy, linear_distillation, linear_token_stats, sharded
from jaxsoftmax._rule_binding import variant_of
from jaxsoftmax.forward_mode._rules import CUSTOM_JVP_DISTILLATION_RULES, CUSTOM_JVP_HEAD_RULES


@variant_of(linear_cross_entropy.linear_cross_entropy, CUSTOM_JVP_HEAD_RULES)
def linear_cross_entropy() -> None:
    """`jaxsoftmax.linear_cross_entropy` with a forward-mode rule: a tangent of logits, then <gradient, v> (M25).

    Args, Returns, Raises, Source: as `jaxsoftmax.linear_cross_entropy`; but a chunk has by default the size that it
    has there on a CPU, whatever the platform. `memory_budget` bounds a chunk alone, beside which kernel and bias are
    held in float32; `schedule` changes nothing.

    Differentiation: both modes in hidden, kernel, bias and the weights of tokens and labels, to any order, in the
    memory of a chunk's logits: nothing of a chunk is saved, and reverse mode forms its logits again.

    >>> import jax, jax.numpy as jnp
    >>> kernel, labels = jnp.array([[0.0, 0.0]]), jnp.array([0])
    >>> print(jax.jacfwd(linear_cross_entropy)(jnp.array([[1.0]]), kernel + jnp.array([2.0, 0.0]), labels))
    [[-0.23840584]]
    """


@variant_of(linear_token_stats.linear_token_stats, CUSTOM_JVP_HEAD_RULES)
def linear_token_stats() -> None:
    """`jaxsoftmax.linear_token_stats` with a forward-mode rule: the tangent of each logit, then <gradient, v> (M28).

    Args, Returns, Raises, Source: as `jaxsoftmax.linear_token_stats`; but a chunk has by default the size that it has
    there on a CPU, whatever the platform.

    Differentiation: both modes in hidden, kernel and bias, to any order, in the memory of a chunk's logits.

    >>> import jax, jax.numpy as jnp
    >>> kernel, labels = jnp.array([[2.0, 0.0]]), jnp.array([0])
    >>> print(jax.jacfwd(lambda h: linear_token_stats(h, kernel, labels).log_prob)(jnp.array([[1.0]])))
    [[[0.23840584]]]
    """


@variant_of(sharded.sharded_linear_cross_entropy, CUSTOM_JVP_HEAD_RULES)
def sharded_linear_cross_entropy() -> None:
    """`jaxsoftmax.sharded_linear_cross_entropy` with a forward-mode rule, as `linear_cross_entropy` has it here (M25).

    Args, Returns, Raises, Source: those of `jaxsoftmax.sharded_linear_cross_entropy`; but over Auto axes XLA has the
    choice how a gradient is sharded.

    Differentiation: both modes in hidden, kernel, bias and the weights of tokens and labels, to any order.

    >>> import jax, jax.numpy as jnp
    >>> mesh = jax.make_mesh((jax.device_count(),), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    >>> from functools import partial
    >>> head = partial(sharded_linear_cross_entropy, labels=jnp.array([0]), mesh=mesh, token_axes="data")
    >>> print(jax.jvp(lambda h: head(h, jnp.array([[2.0, 0.0]])), (jnp.ones((1, 1)),), (jnp.ones((1, 1)),))[1])
    -0.23840584
    """


@variant_of(linear_distillation.linear_distillation, CUSTOM_JVP_DISTILLATION_RULES)
def linear_distillation() -> None:
    """`jaxsoftmax.linear_distillation` with a forward-mode rule: the tangent is <gradient, v> (M29, M30).

    Args, Returns, Raises, Source: as `jaxsoftmax.linear_distillation`; but a chunk has by default the size that it has
    there on a CPU, whatever the platform, and `axis_name` needs JAX 0.11 or later (NotImplementedError).

    Differentiation: both modes in hidden, kernel and bias of either head and the token weights, to any order.

    >>> import jax, jax.numpy as jnp
    >>> kernel, teacher = jnp.array([[0.0, 1.0]]), jnp.array([[2.0]])
    >>> slope = jax.jacfwd(linear_distillation)(jnp.array([[1.0]]), kernel, teacher, kernel)
    >>> print(round(float(slope[0, 0]), 4))
    -0.1497
    """
