"""What is measured: this library, its JAX peers, and the floor, which is the bare work on the same operands.

The floor is reading the logits once, and writing as much for a gradient; or the matrix products alone, with all logits
in memory, which a loss that takes them a few tokens at a time can undercut.

torch has a process of its own: `_torch_runner`.
"""

import logging
from collections.abc import Callable, Collection
from functools import partial
from importlib.util import find_spec
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import Array, lax
from jax.sharding import Mesh

import jaxsoftmax
from jaxsoftmax.bench import _case
from jaxsoftmax.bench._case import Case
from jaxsoftmax.bench._head_functions import HEAD_FUNCTIONS, SUBJECT, nll_terms, scanned

FLOOR = "floor"
LEARNING_RATE = 1e-3
_ONLY_LINEAR = ("tokamax",)

Loss = Callable[..., Array]


def absent(peers: tuple[str, ...], kinds: Collection[str]) -> dict[str, str]:
    """Returns the peers that can't be measured on losses of these kinds, each with the reason."""
    missing = {peer: f"not installed: pip install {peer}" for peer in peers if find_spec(peer) is None}
    unfit = {} if "linear" in kinds else dict.fromkeys(_ONLY_LINEAR, "has no loss of given logits")
    return missing | {peer: reason for peer, reason in unfit.items() if peer in peers}


def subjects_of(case: Case, peers: tuple[str, ...]) -> tuple[str, ...]:
    """Returns what is measured for a case, in the order of a round."""
    own = _OWN[case.kind][case.function]
    foreign = {"linear": ("tokamax", "torch"), "plain": ("torch",)}[case.kind] if case.function == _case.INTEGER else ()
    offered = [peer for peer in peers if peer in own or peer in foreign]
    by_hand = [_case.MATERIALISED] if _case.MATERIALISED in own else []
    return tuple(dict.fromkeys([SUBJECT, case.base, *by_hand, *offered, FLOOR]))


def program(subject: str, case: Case, mesh: Mesh | None = None) -> Callable[..., Any]:
    """Returns what is compiled: a function of the case's inputs, which are on a mesh if that is given."""
    if subject == FLOOR:
        return _floor(case)
    linear = case.kind == "linear"
    if subject == "tokamax":
        function = _tokamax_linear()
    elif subject == SUBJECT and mesh is not None:
        tokens, classes = mesh.axis_names
        head = jaxsoftmax.sharded_linear_cross_entropy
        function = partial(head, mesh=mesh, token_axes=tokens, vocab_axis=classes)
    else:
        function = _OWN[case.kind][case.function][subject]
    if not case.is_loss:
        return _value_of(function) if case.quantity == _case.VALUE else _with_vjp(function)
    if case.quantity == _case.VALUE:
        return function
    if case.quantity == _case.IN_GRAPH:
        return jax.value_and_grad(_of_product(function))
    if case.function == _case.SHARDED:
        return _step_of(function)
    return jax.value_and_grad(function, argnums=(0, 1) if linear else 0, has_aux=case.function == _case.PARTS)


def _value_of(function: Callable[[Array], Array]) -> Callable[..., Any]:
    return lambda logits, cotangent: function(logits)


def _with_vjp(function: Callable[[Array], Array]) -> Callable[..., Any]:
    def value_and_product(logits: Array, cotangent: Array) -> tuple[Array, Array]:
        value, vjp = jax.vjp(function, logits)
        return value, vjp(cotangent)[0]

    return value_and_product


def _step_of(loss: Loss) -> Callable[..., Any]:
    """The loss, its gradient in the hidden states, and the kernel after a step of gradient descent."""

    def step(hidden: Array, kernel: Array, labels: Array) -> tuple[Array, Array, Array]:
        value, (by_hidden, by_kernel) = jax.value_and_grad(loss, (0, 1))(hidden, kernel, labels)
        return value, by_hidden, kernel - LEARNING_RATE * by_kernel

    return step


def _of_product(loss: Loss) -> Loss:
    return lambda hidden, kernel, labels: loss(hidden @ kernel, labels)


def _mean_of(losses: Callable[..., Array]) -> Loss:
    return lambda *arrays: losses(*arrays).mean()


def _jax(logits: Array, labels: Array) -> Array:
    return -jnp.take_along_axis(jax.nn.log_softmax(logits), labels[..., None], axis=-1).mean()


def _one_hot(log_softmax: Callable[[Array], Array]) -> Loss:
    def loss(logits: Array, labels: Array) -> Array:
        one_hot = jax.nn.one_hot(labels, logits.shape[-1], dtype=logits.dtype)
        return -jnp.sum(log_softmax(logits) * one_hot, axis=-1).mean()

    return loss


def _jax_linear(hidden: Array, kernel: Array, labels: Array) -> Array:
    return scanned(nll_terms, (hidden, labels), (kernel,))


def _tokamax_linear() -> Loss:
    import tokamax  # pyright: ignore[reportMissingImports]  # a peer may be absent

    logging.getLogger("absl").setLevel(logging.ERROR)  # it warns of every shape that it was not tuned for
    implementation = "mosaic_tpu" if jax.default_backend() == "tpu" else "chunked_xla"

    def loss(hidden: Array, kernel: Array, labels: Array) -> Array:
        return tokamax.linear_softmax_cross_entropy_loss(
            hidden, labels, kernel, reduction="mean", implementation=implementation
        )

    return loss


def _mean_logsumexp(logsumexp: Callable[..., Array]) -> Loss:
    return lambda logits, labels: logsumexp(logits, -1).mean()


_OPTAX = _mean_of(optax.softmax_cross_entropy_with_integer_labels)
_OF_INTEGERS = {SUBJECT: _mean_of(jaxsoftmax.softmax_cross_entropy_with_integer_labels), "optax": _OPTAX, "jax": _jax}
_PLAIN: dict[str, dict[str, Callable[..., Array]]] = {
    _case.INTEGER: _OF_INTEGERS,
    _case.SEQUENCES: _OF_INTEGERS,
    _case.FLOAT: {SUBJECT: _mean_of(jaxsoftmax.softmax_cross_entropy), "optax": _mean_of(optax.softmax_cross_entropy)},
    _case.ONE_HOT: {SUBJECT: _one_hot(jaxsoftmax.log_softmax), "jax": _one_hot(jax.nn.log_softmax)},
    _case.LOGSUMEXP: {SUBJECT: _mean_logsumexp(jaxsoftmax.logsumexp), "jax": _mean_logsumexp(jax.nn.logsumexp)},
    _case.SOFTMAX: {SUBJECT: jaxsoftmax.softmax, "jax": jax.nn.softmax},
    _case.LOG_SOFTMAX: {SUBJECT: jaxsoftmax.log_softmax, "jax": jax.nn.log_softmax},
}
_PEERS_LINEAR: dict[str, Loss] = {"optax": _of_product(_OPTAX), "jax": _jax_linear}
_LINEAR = HEAD_FUNCTIONS | {
    _case.INTEGER: {SUBJECT: jaxsoftmax.linear_cross_entropy, **_PEERS_LINEAR},
    _case.UNREDUCED: {SUBJECT: _mean_of(partial(jaxsoftmax.linear_cross_entropy, reduction="none")), **_PEERS_LINEAR},
    _case.LEAN: {SUBJECT: partial(jaxsoftmax.linear_cross_entropy, memory_budget=_case.LEAN_BYTES), **_PEERS_LINEAR},
    _case.SHARDED: _PEERS_LINEAR,
}
_OWN = {"plain": _PLAIN, "linear": _LINEAR}


def _floor(case: Case) -> Callable[..., Any]:
    if not case.is_loss:
        return _read_and_write if case.quantity == _case.VALUE else _read_and_write_both
    if case.width is None:
        return _read if case.quantity == _case.VALUE else _read_and_write
    if case.function == _case.DISTILLATION:
        return _of_two_heads
    return {_case.VALUE: _one_product, _case.GRADIENT: _three_products, _case.IN_GRAPH: _two_products}[case.quantity]


def _read(logits: Array, labels: Array) -> Array:
    return jnp.max(logits, axis=-1)


def _read_and_write(logits: Array, labels: Array) -> Array:
    return logits * 2


def _read_and_write_both(logits: Array, cotangent: Array) -> tuple[Array, Array]:
    return logits * 2, cotangent * 2


def _one_product(hidden: Array, kernel: Array, labels: Array) -> Array:
    return _dot(hidden, kernel)


def _two_products(hidden: Array, kernel: Array, labels: Array) -> Array:
    return _dot(_dot(hidden, kernel), kernel, axis=1)


def _of_two_heads(hidden: Array, kernel: Array, *teacher: Array) -> tuple[Array, Array, Array]:
    teacher_hidden, teacher_kernel = teacher
    return *_three_products(hidden, kernel), _dot(teacher_hidden, teacher_kernel)


def _three_products(hidden: Array, kernel: Array, *labels: Array) -> tuple[Array, Array]:
    logits = _dot(hidden, kernel)
    # In memory, as XLA CPU is slow at x.T @ g.
    return _dot(logits, kernel, axis=1), _dot(lax.optimization_barrier(hidden.T), logits)


def _dot(a: Array, b: Array, axis: int = 0) -> Array:
    """Sums of a's last axis with b's `axis`, rounded once.

    The axis is named, and b isn't transposed: XLA CPU would widen a transposed bfloat16 operand.
    """
    product = lax.dot_general(a, b, (((1,), (axis,)), ((), ())), preferred_element_type=jnp.float32)
    return product.astype(a.dtype)
