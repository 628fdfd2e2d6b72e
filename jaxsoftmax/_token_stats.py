"""Statistics of tokens over logits: log-probability, entropy, log-sum-exp and prediction (M28, M32, M33)."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Float, Int

from jaxsoftmax import _checks
from jaxsoftmax._loss_arguments import class_indices, loss_options
from jaxsoftmax._math.loss_options import LossOptions
from jaxsoftmax._math.precision import accumulation_dtype
from jaxsoftmax._objective import Objective
from jaxsoftmax._row_rules import row_outputs
from jaxsoftmax._row_stats import STATS, TokenStats
from jaxsoftmax._rule_binding import with_rules
from jaxsoftmax._sharding import Shards, match_vma, require_sharded, shards_of_axis
from jaxsoftmax._token_labels import token_labels


@with_rules(row_outputs)
def token_stats(
    _rule: Callable[..., Any],
    /,
    logits: Float[ArrayLike, "*batch vocab"],
    labels: Int[ArrayLike, "*batch"],
    *,
    temperature: float | Float[Array, ""] = 1.0,
    logit_softcap: float | Float[Array, ""] | None = None,
    ignore_index: int | None = None,
    axis_name: str | tuple[str, ...] | None = None,
) -> TokenStats:
    """Log-probability, entropy, log-sum-exp and prediction of each token, from its logits (M28, M32, M33).

    With z = c tanh(x / c) / T, m = max z, L = log Σ_j exp(z_j) and s = softmax(z):

        log s_y = z_y - L,    H = log1p(r) + Σ_j s_j (m - z_j),    L = m + log1p(r)

    No term of the entropy H is negative, so that it keeps its digits however confident a row is, and so do its
    gradient, -s_j (log s_j + H), and that of log s_y, 1 - s_y at the label.

    Args:
      logits: x, floating, [*batch, vocab], in nats.
      labels: y, integers in [0, vocab), [*batch]: the tokens whose log-probability is wanted.
      temperature: T > 0, or a traced scalar.
      logit_softcap: c > 0, or a traced scalar; None for no cap.
      ignore_index: an integer label whose tokens have log-probability and entropy 0, with gradient 0, even if their
        logits are NaN or infinite. Their log-sum-exp, with its gradient, and prediction
        are as of others.
      axis_name: mesh axis, or several, of the `jax.shard_map` around, over which the classes are sharded: logits are
        this device's contiguous shard, labels count the classes of all, and tokens are the same on all.

    Returns:
      `TokenStats` of arrays [*batch]: log-probability, entropy and log-sum-exp of z in nats, at least float32; the
      prediction is the first class of the maximum, int32. A label that is neither in [0, vocab) nor `ignore_index` has
      log-probability NaN, and a NaN gradient unless that log-probability is masked (itself: a mask behind exp is too
      late). A row of -inf alone has log-probability -inf, entropy 0 and log-sum-exp -inf, with gradient 0. A row with
      +inf or NaN has NaN entropy and gradient. Under jit what isn't used isn't computed.

    Raises:
      TypeError: logits that aren't floating, labels that aren't integers, a constant that isn't a number.
      ValueError: a wrong shape; a constant out of range, which of a traced one isn't known; `axis_name` isn't an axis
        of a `jax.shard_map` with `check_vma=True`.

    Differentiation: log-probability, entropy and log-sum-exp in the logits, in reverse mode to any order and forward
    over reverse (`jax.custom_vjp`); saved are the arguments and four numbers a row. Prediction, temperature and soft
    cap are constants. For pure forward mode use `jaxsoftmax.forward_mode.token_stats`.

    Source: M19, M20, M28, M32, M33.

    >>> import jax, jax.numpy as jnp
    >>> logits, labels = jnp.array([[0.0, -20.0], [0.0, 1.0]]), jnp.array([0, 0])
    >>> stats = token_stats(logits, labels)
    >>> print(stats.log_prob, stats.prediction)
    [-2.0611537e-09 -1.3132617e+00] [0 1]
    >>> print(jax.grad(lambda x: token_stats(x, labels).entropy[0])(logits)[0])
    [-4.1223075e-08  4.1223075e-08]
    """
    options = loss_options(ignore_index, logit_softcap=logit_softcap, temperature=temperature)
    shards = shards_of_axis(axis_name)
    logits = _checks.as_floating("logits", logits)
    if logits.ndim == 0:
        raise ValueError("logits: expected shape [*batch, vocab], got ()")
    require_sharded(shards, "logits", logits)
    labels = class_indices(labels, logits.shape[:-1], logits.shape[-1])
    return _of_rows(_rule, shards, options, logits, labels)


@partial(jax.jit, static_argnums=(0, 1))
def _of_rows(
    rule: Callable[..., Any], shards: Shards, options: LossOptions, logits: Array, labels: Array
) -> TokenStats:
    logits, labels = match_vma(shards, logits, labels)
    tokens = token_labels(options, shards, labels, logits.shape[-1])
    options = options.astype(accumulation_dtype(logits.dtype))
    outputs, prediction = rule(shards, logits, Objective(STATS, options, tokens))
    return TokenStats(outputs.log_prob, outputs.entropy, outputs.log_sum_exp, prediction)
