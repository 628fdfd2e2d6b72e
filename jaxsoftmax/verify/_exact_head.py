"""The fused head with its arguments in one array, and its exact loss and derivatives: M16, M24-M27.

What is differentiated (hidden, kernel, bias and, if tokens are weighted, their weights) is packed into one array
theta, so that one gradient has them all. It holds small dyadic numbers: no logit rounds before the soft cap.
"""

from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import mpmath
import numpy as np

from jaxsoftmax.verify._oracle import ExactRow, Expected, end_to_end, exact, itself
from jaxsoftmax.verify._token_loss import IGNORED, Options, capped_hessian, textbook_loss, token_gradient, token_loss

HEAD = "linear_cross_entropy"


class Parts(NamedTuple):
    """What theta holds."""

    hidden: Any  # [tokens, embed]
    kernel: Any  # [embed, vocab]
    bias: Any  # [vocab]
    token_weights: Any  # [tokens], or [0] where tokens aren't weighted

    @property
    def logits(self) -> Any:
        """The logits, [tokens, vocab]."""
        return self.hidden @ self.kernel + self.bias


@dataclass(frozen=True)
class Setting:
    """A head: its sizes, its loss, and how many tokens' logits it may hold."""

    tokens: int
    embed: int
    vocab: int
    chunk: int | None = None
    reduction: str = "mean"
    options: Options | None = None  # None: the plain NLL, without ignore_index
    weighted: bool = False  # whether tokens are

    def parts(self, theta: Any) -> Parts:
        """Theta unpacked."""
        kernel = self.tokens * self.embed
        bias = kernel + self.embed * self.vocab
        weights = bias + self.vocab
        hidden = theta[:kernel].reshape(self.tokens, self.embed)
        return Parts(hidden, theta[kernel:bias].reshape(self.embed, self.vocab), theta[bias:weights], theta[weights:])

    def loss(self, f: Any, theta: Any, y: Any) -> Any:
        """The head's loss."""
        parts = self.parts(theta)
        given = {"bias": parts.bias} | ({"token_weights": parts.token_weights} if self.weighted else {})
        given |= {} if self.chunk is None else {"chunk_size": self.chunk}
        given |= {} if self.reduction == "mean" else {"reduction": self.reduction}

        def of_hidden(x, y, **keywords):
            return f(x, parts.kernel, y, **given, **keywords)

        if self.options is None:
            return of_hidden(parts.hidden, y)
        return self.options.call(of_hidden, parts.hidden, y, ignore_index=IGNORED)

    def loss_and_gradient(self, f: Any, theta: Any, y: Any) -> Any:
        """The loss and its gradient, end to end."""
        loss, gradient = jax.value_and_grad(lambda theta: self.loss(f, theta, y))(theta)
        return jnp.concatenate([loss[None], gradient])

    def hessian_product(self, f: Any, theta: Any, v: Any, y: Any) -> Any:
        """The Hessian times v, forward over reverse."""
        return jax.jvp(jax.grad(lambda theta: self.loss(f, theta, y)), (theta,), (v,))[1]

    def textbook(self, theta: Any, y: Any) -> Any:
        """The weighted losses by the formulas as printed, of all logits at once (M24)."""
        assert self.options is not None
        parts = self.parts(theta)
        losses = jax.vmap(textbook_loss(self.options))(parts.logits, jnp.maximum(y, 0))
        return jnp.where(y == IGNORED, 0, parts.token_weights * losses)


@dataclass(frozen=True)
class ExactHead:
    """A head's loss and derivatives, in mpmath. Equal tokens are computed once, and so are equal classes."""

    setting: Setting
    theta: np.ndarray
    y: np.ndarray

    @cached_property
    def _kinds(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Distinct tokens, each token's index among them, and counts."""
        hidden, _, _, weights = self.setting.parts(self.theta)
        columns = [hidden, self.y, weights] if self.setting.weighted else [hidden, self.y]
        return _distinct(np.column_stack(columns))

    @cached_property
    def _class_kinds(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Distinct classes, each class's index among them, and counts; labelled or weighted classes stay distinct."""
        _, kernel, bias, _ = self.setting.parts(self.theta)
        classes = np.arange(self.setting.vocab)
        own = classes if self.setting.options else np.where(np.isin(classes, self.y), classes, self.setting.vocab)
        return _distinct(np.column_stack([own, bias, kernel.T]))

    @cached_property
    def _parts(self) -> Parts:
        """Theta at 50 digits, of one token and one class of each kind."""
        first, classes = self._kinds[0], self._class_kinds[0]
        hidden, kernel, bias, weights = self.setting.parts(self.theta)
        weights = weights if self.setting.weighted else np.ones(len(self.y))
        return Parts(exact(hidden[first]), exact(kernel[:, classes]), exact(bias[classes]), exact(weights[first]))

    @cached_property
    def _rows(self) -> tuple[Expected, Expected]:
        """l and dl/dz, unweighted."""
        logits = self.setting.parts(self.theta).logits
        rows = [self._row(logits[i], int(self.y[i])) for i in self._kinds[0]]
        losses, gradients = zip(*rows, strict=True)
        return Expected.stack(losses), Expected.stack([g[self._class_kinds[0]] for g in gradients])

    def _row(self, z: np.ndarray, label: int) -> tuple[Expected, Expected]:
        options = self.setting.options
        if label == IGNORED and options:
            return itself(exact(0.0)), itself(exact(np.zeros(len(z))))
        if not 0 <= label < len(z):
            return itself(exact(np.nan)), itself(exact(np.full(len(z), np.nan)))
        if options:
            return token_loss(options)(z, label), token_gradient(options)(z, label)
        row = ExactRow(exact(z))
        return itself(row.nll[label]), itself(row.label_gradient(label))

    @cached_property
    def _normalizers(self) -> np.ndarray:
        """w_y, and 0 where the token is ignored."""
        options, labels = self.setting.options, self.y[self._kinds[0]]
        if options is None:
            return exact(np.ones(len(labels)))
        return np.where(labels == IGNORED, exact(0.0), options.weights[np.maximum(labels, 0)])

    @cached_property
    def _scale(self) -> np.ndarray:
        """What the losses are multiplied by (M27)."""
        return self._parts.token_weights / self._divisor

    @cached_property
    def _divisor(self) -> mpmath.mpf:
        """What the weighted losses are divided by (M27); infinity where that is 0."""
        if self.setting.reduction != "mean":
            return mpmath.mpf(1)
        return np.dot(self._parts.token_weights * self._kinds[2], self._normalizers) or mpmath.mpf("inf")

    @cached_property
    def value(self) -> Expected:
        """The loss (M24, M27)."""
        _, places, counts = self._kinds
        terms = self._scale * self._rows[0]
        return terms[places] if self.setting.reduction == "none" else counts @ terms

    @property
    def gradient(self) -> Expected:
        """The gradient in theta of the reduced loss; of the sum if the losses are unreduced (M16, M25, M27)."""
        return end_to_end(self.gradients)

    @cached_property
    def gradients(self) -> dict[str, Expected]:
        """The gradient by the parts of theta."""
        by_parts = self._by_parts(self._scale[:, None] * self._rows[1], self._by_weights)
        return {f"gradient in {name}": part for name, part in by_parts.items()}

    @property
    def _by_weights(self) -> Expected:
        losses = self._rows[0]
        if self.setting.reduction != "mean":
            return losses
        return (losses - self.value.value * self._normalizers) / self._divisor  # (M27)

    def _by_parts(self, g: Expected, by_weights: Expected) -> dict[str, Expected]:
        """dX = G W^T, dW = X^T G and db = sum_t G, of the weighted G of each kind (M16)."""
        x, kernel, _, _ = self._parts
        (_, places, counts), (_, of_class, classes) = self._kinds, self._class_kinds
        by_hidden, by_kernel, by_bias = g @ (kernel.T * classes[:, None]), (x.T * counts) @ g, counts @ g
        parts = {"hidden": by_hidden[places], "kernel": by_kernel[:, of_class], "bias": by_bias[of_class]}
        return parts | ({"token_weights": by_weights[places]} if self.setting.weighted else {})

    def hessian_product(self, v: np.ndarray) -> Expected:
        """The Hessian of the weighted sum of losses times v in theta, where no two tokens are alike (M15, M25)."""
        return end_to_end(self.hessian_products(v))

    def hessian_products(self, v: np.ndarray) -> dict[str, Expected]:
        """The Hessian-vector product by the parts of theta."""
        x, kernel, _, u = self._parts
        first, places, _ = self._kinds
        x_dot, kernel_dot, bias_dot, u_dot = (exact(part) for part in self.setting.parts(v))
        x_dot, u_dot, u = x_dot[first], u_dot[first, None], u[:, None]
        z_dot = itself(x_dot) @ kernel + itself(x) @ kernel_dot + bias_dot
        g = self._rows[1]
        products = self._by_parts(u * self._curvature(z_dot) + u_dot * g, (g * z_dot).sum(-1))
        products["hidden"] += ((u * g) @ kernel_dot.T)[places]
        products["kernel"] += x_dot.T @ (u * g)
        return {f"Hessian-vector product in {name}": part for name, part in products.items()}

    def _curvature(self, z_dot: Expected) -> Expected:
        """Each token's Hessian in its logits, times z_dot."""
        options = self.setting.options
        if options is None:
            raise ValueError("second derivatives are those of the loss with options")
        logits, rows = self.setting.parts(self.theta).logits, []
        for place, i in enumerate(self._kinds[0]):
            if self.y[i] == IGNORED:
                rows.append(itself(exact(np.zeros(self.setting.vocab))))
            else:
                rows.append(capped_hessian(options, logits[i], self.y[i]) @ z_dot[place])
        return Expected.stack(rows)


def through_product(hidden: np.ndarray, kernel: np.ndarray, g: Expected, prefix: str = "") -> dict[str, Expected]:
    """dX = G W^T, dW = X^T G and db = sum_t G, by the arguments' names, which have a prefix (M16)."""
    by_parts = {"hidden": g @ exact(kernel).T, "kernel": exact(hidden).T @ g, "bias": g.sum(0)}
    return {f"gradient in {prefix}{name}": by_part for name, by_part in by_parts.items()}


def logits_of(given: Collection[str], hidden: np.ndarray, kernel: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """hidden @ kernel, with a bias if it is given."""
    return hidden @ kernel + (bias if "bias" in given else 0)


def gradients_of(given: Collection[str], hidden: np.ndarray, kernel: np.ndarray, g: Expected) -> dict[str, Expected]:
    """The gradients in hidden states, the kernel as it is given, and the bias if it is, by that in the logits (M16)."""
    gradients = through_product(hidden, kernel, g)
    if "transposed_kernel" in given:
        gradients["gradient in kernel"] = gradients["gradient in kernel"].T
    if "bias" not in given:
        del gradients["gradient in bias"]
    return gradients


def _distinct(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A row of each kind, each row's place among them, and how often each occurs."""
    _, first, places, counts = np.unique(rows, return_index=True, return_inverse=True, return_counts=True, axis=0)
    return first, places.reshape(-1), counts
