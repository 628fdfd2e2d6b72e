"""Statistics of tokens over hidden @ kernel + bias, with the logits of some tokens at a time (M28, M32, M33)."""

import math
from functools import partial

import jax
from jax import Array
from jax.typing import ArrayLike, DTypeLike
from jaxtyping import Float, Int

from jaxsoftmax._head.arguments import HeadArguments, PrecisionLike, as_settings, validate
from jaxsoftmax._head.chunk_sizes import Settings
from jaxsoftmax._head.problem import HeadInputs
from jaxsoftmax._head.products import as_operands
from jaxsoftmax._head.rules import CUSTOM_VJP_RULES, HeadRules
from jaxsoftmax._loss_arguments import loss_options
from jaxsoftmax._math.loss_options import LossOptions
from jaxsoftmax._objective import Objective
from jaxsoftmax._row_stats import STATS, TokenStats
from jaxsoftmax._rule_binding import with_rules
from jaxsoftmax._sharding import Shards, match_vma, require_sharded, require_unsharded, shards_of_axis
from jaxsoftmax._token_labels import token_labels


@with_rules(CUSTOM_VJP_RULES)
def linear_token_stats(
    _rules: HeadRules,
    /,
    hidden: Float[ArrayLike, "*batch embed"],
    kernel: Float[ArrayLike, "embed vocab"] | Float[ArrayLike, "vocab embed"],
    labels: Int[ArrayLike, "*batch"],
    *,
    bias: Float[ArrayLike, " vocab"] | None = None,
    temperature: float | Float[Array, ""] = 1.0,
    logit_softcap: float | Float[Array, ""] | None = None,
    ignore_index: int | None = None,
    transposed_kernel: bool = False,
    dtype: DTypeLike | None = None,
    precision: PrecisionLike = None,
    chunk_size: int | None = None,
    memory_budget: int | None = None,
    axis_name: str | tuple[str, ...] | None = None,
) -> TokenStats:
    """`token_stats(hidden @ kernel + bias, labels, ...)` in the memory of a few tokens' logits (M28, M32, M33).

    Per token with hidden state x and label y, z = c tanh((x W + b) / c) / T and s = softmax(z):

        log s_y = z_y - L,    H = -Σ_j s_j log s_j,    L = log Σ_j exp(z_j),    argmax_j z_j

    Args:
      hidden: x, floating, [*batch, embed].
      kernel: W, floating, [embed, vocab]; or [vocab, embed] with `transposed_kernel`.
      labels: y, integers in [0, vocab), [*batch]: the tokens whose log-probability is wanted.
      bias: b, floating, [vocab]; 0 if None.
      temperature: T > 0, or a traced scalar.
      logit_softcap: c > 0, or a traced scalar; None for no cap.
      ignore_index: an integer label whose tokens have log-probability and entropy 0, with gradient 0, even if their
        hidden states are NaN or infinite. Their log-sum-exp, with its gradient, and prediction are as
        of others.
      transposed_kernel: whether the kernel is [vocab, embed], as an embedding table is; so is its gradient then.
      dtype: that of hidden and kernel in the products; None for their own. Gradients have their arguments' dtypes.
      precision: of the products: a `jax.lax.Precision` or `DotAlgorithmPreset`, or a name that
        `jax.default_matmul_precision` takes.
      chunk_size: tokens whose logits are held at a time, at least 1; None for what `linear_cross_entropy` takes.
      memory_budget: bytes that a chunk's arrays should take, at least 1, in place of those of `chunk_size=None`.
      axis_name: mesh axis, or several, of the `jax.shard_map` around, over which the classes are sharded: kernel and
        bias are this device's contiguous shard, labels count the classes of all, and tokens are the same on all.

    Returns:
      `TokenStats` of arrays [*batch], as of `token_stats`. Values cost one matrix product. A backward pass costs three
      more, however many of log-probability, entropy and log-sum-exp are used. Under jit, what isn't used isn't
      computed.

    Raises:
      TypeError: an argument of the wrong dtype; a constant that isn't a number.
      ValueError: an argument of the wrong shape or out of range, or sharded over Explicit axes of a mesh; `axis_name`
        isn't an axis of a `jax.shard_map` with `check_vma=True`.

    Differentiation: log-probability, entropy and log-sum-exp in hidden, kernel and bias, in reverse mode to any order
    and forward over reverse (`jax.custom_vjp`); saved are the arguments. Prediction, temperature and soft cap are
    constants. For pure forward mode use `jaxsoftmax.forward_mode.linear_token_stats`.

    Source: M16, M19, M20, M28, M32, M33.

    >>> import jax.numpy as jnp
    >>> hidden, kernel = jnp.array([[1.0, 0.0]]), jnp.array([[0.0, -20.0], [0.0, 0.0]])
    >>> stats = linear_token_stats(hidden, kernel, jnp.array([0]))
    >>> print(stats.log_prob, stats.entropy, stats.prediction)
    [-2.0611537e-09] [4.3284228e-08] [0]
    """
    options = loss_options(ignore_index, logit_softcap=logit_softcap, temperature=temperature)
    settings = as_settings(chunk_size, memory_budget, None, dtype, precision, transposed_kernel)
    arguments = validate(settings, options, hidden, kernel, labels, bias, sparse=False)
    shards = shards_of_axis(axis_name)
    require_unsharded(arguments, "jax.shard_map, and axis_name in it")
    require_sharded(shards, "kernel", arguments.kernel)
    return _of_tokens(_rules, settings, shards, options, arguments)


@partial(jax.jit, static_argnums=(0, 1, 2))
def _of_tokens(
    rules: HeadRules, settings: Settings, shards: Shards, options: LossOptions, arguments: HeadArguments
) -> TokenStats:
    batch = arguments.batch
    hidden, labels, _, kernel, bias, _ = arguments.with_embed_first(settings)
    tokens = math.prod(batch)
    inputs = HeadInputs(hidden.reshape(tokens, kernel.shape[0]), kernel, bias)
    _, labels = match_vma(shards, inputs, labels.reshape(tokens))
    labels = token_labels(options, shards, labels, kernel.shape[1])
    objective = Objective(STATS, options.astype(as_operands(settings, inputs).dtype), labels)
    outputs, prediction = rules.outputs(shards, settings, inputs, objective)
    return TokenStats(*(array.reshape(batch) for array in (*outputs, prediction)))
