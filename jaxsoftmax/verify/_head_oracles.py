"""Exact forms and calls for: the fused head, M16 and M24-M27 of the logits hidden @ kernel + bias.

What is differentiated (hidden, kernel, bias and, if tokens are weighted, their weights) is packed into one array
theta, so that one gradient has them all. It holds small dyadic numbers: no logit rounds before the soft cap.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import mpmath
import numpy as np

from jaxsoftmax.verify._oracle import ExactRow, Expected, end_to_end, exact, itself
from jaxsoftmax.verify._training_loss_oracles import (
    IGNORED,
    Options,
    textbook_loss,
    token_gradient,
    token_hessian,
    token_loss,
)

HEAD = "linear_cross_entropy"


class Parts(NamedTuple):
    """What theta holds."""

    hidden: Any  # [tokens, embed]
    kernel: Any  # [embed, vocab]
    bias: Any  # [vocab]
    token_weights: Any  # [tokens], or [0] where tokens aren't weighted


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
        z = parts.hidden @ parts.kernel + parts.bias
        losses = jax.vmap(textbook_loss(self.options))(z, jnp.maximum(y, 0))
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
        hidden, kernel, bias, _ = self.setting.parts(self.theta)
        rows = [self._row(hidden[i] @ kernel + bias, int(self.y[i])) for i in self._kinds[0]]
        losses, gradients = zip(*rows, strict=True)
        of_kinds = [Expected(g.value[self._class_kinds[0]], g.magnitude[self._class_kinds[0]]) for g in gradients]
        return Expected.stack(losses), Expected.stack(of_kinds)

    def _row(self, z: np.ndarray, label: int) -> tuple[Expected, Expected]:
        options = self.setting.options
        if label == IGNORED and options:
            return itself(exact(0.0)), itself(exact(np.zeros(len(z))))
        if not 0 <= label < len(z):
            return itself(exact(np.nan)), itself(exact(np.full(len(z), np.nan)))
        if options:
            return token_loss(options)(z, label), token_gradient(options)(z, label)
        row = ExactRow(exact(z))
        return itself(row.nll[label]), Expected(row.label_gradient(label), np.abs(row.label_gradient(label)))

    @cached_property
    def _normalizers(self) -> np.ndarray:
        """w_y, and 0 where the token is ignored."""
        options, labels = self.setting.options, self.y[self._kinds[0]]
        if options is None:
            return exact(np.ones(len(labels)))
        return np.where(labels == IGNORED, exact(0.0), options.weights[np.maximum(labels, 0)])

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
        scale, losses = self._parts.token_weights / self._divisor, self._rows[0]
        terms = Expected(scale * losses.value, np.abs(scale) * losses.magnitude)
        if self.setting.reduction == "none":
            return Expected(terms.value[places], terms.magnitude[places])
        return Expected(np.asarray(np.dot(counts, terms.value)), np.asarray(np.dot(counts, terms.magnitude)))

    @property
    def gradient(self) -> Expected:
        """The gradient in theta of the reduced loss; of the sum if the losses are unreduced (M16, M25, M27)."""
        by_logits = self._rows[1]
        scale = (self._parts.token_weights / self._divisor)[:, None]
        return self._joined(Expected(scale * by_logits.value, np.abs(scale) * by_logits.magnitude), self._by_weights)

    @property
    def _by_weights(self) -> Expected:
        losses, divisor = self._rows[0], self._divisor
        if self.setting.reduction != "mean":
            return losses
        mean = self.value.value * self._normalizers
        return Expected((losses.value - mean) / divisor, (losses.magnitude + mean) / divisor)  # (M27)

    def _joined(self, g: Expected, by_weights: Expected) -> Expected:
        """dX = G W^T, dW = X^T G and db = sum_t G, of the weighted G of each kind (M16)."""
        x, kernel, _, _ = self._parts
        (_, places, counts), (_, of_class, classes) = self._kinds, self._class_kinds
        x_counted, kernel_counted = x.T * counts, kernel.T * classes[:, None]
        parts = [
            Expected((g.value @ kernel_counted)[places], (g.magnitude @ np.abs(kernel_counted))[places]),
            Expected((x_counted @ g.value)[:, of_class], (np.abs(x_counted) @ g.magnitude)[:, of_class]),
            Expected((counts @ g.value)[of_class], (counts @ g.magnitude)[of_class]),
        ]
        if self.setting.weighted:
            parts.append(Expected(by_weights.value[places], by_weights.magnitude[places]))
        return end_to_end(*parts)

    def hessian_product(self, v: np.ndarray) -> Expected:
        """Of the weighted sum of losses, along v in theta, where no two tokens are alike (M15, M25)."""
        x, kernel, _, u = self._parts
        places, g = self._kinds[1], self._rows[1]
        x_dot, kernel_dot, bias_dot, u_dot = (exact(part) for part in self.setting.parts(v))
        x_dot, u_dot = x_dot[self._kinds[0]], u_dot[self._kinds[0], None]
        z_dot = x_dot @ kernel + x @ kernel_dot + bias_dot
        z_size = np.abs(x_dot) @ np.abs(kernel) + np.abs(x) @ np.abs(kernel_dot) + np.abs(bias_dot)
        curved = self._curvature(z_dot, z_size)
        u = u[:, None]
        g_dot = Expected(u * curved.value + u_dot * g.value, u * curved.magnitude + np.abs(u_dot) * g.magnitude)
        moving = self._joined(g_dot, Expected(np.sum(g.value * z_dot, -1), np.sum(g.magnitude * z_size, -1)))
        weighted = Expected(u * g.value, u * g.magnitude)
        still = end_to_end(
            Expected((weighted.value @ kernel_dot.T)[places], (weighted.magnitude @ np.abs(kernel_dot).T)[places]),
            Expected(x_dot.T @ weighted.value, np.abs(x_dot).T @ weighted.magnitude),
        )
        rest = exact(np.zeros(len(moving.value) - len(still.value)))
        return Expected(
            moving.value + np.concatenate([still.value, rest]),
            moving.magnitude + np.concatenate([still.magnitude, rest]),
        )

    def _curvature(self, z_dot: np.ndarray, z_size: np.ndarray) -> Expected:
        """Each token's Hessian in its logits, times z_dot."""
        options = self.setting.options
        if options is None:
            raise ValueError("second derivatives are those of the loss with options")
        hidden, kernel, bias, _ = self.setting.parts(self.theta)
        rows = []
        for i, dot, size in zip(self._kinds[0], z_dot, z_size, strict=True):
            if self.y[i] == IGNORED:
                rows.append(itself(exact(np.zeros(len(dot)))))
                continue
            hessian = capped_hessian(options, hidden[i] @ kernel + bias, self.y[i])
            rows.append(Expected(hessian.value @ dot, hessian.magnitude @ size))
        return Expected.stack(rows)


def _distinct(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A row of each kind, each row's place among them, and how often each occurs."""
    _, first, places, counts = np.unique(rows, return_index=True, return_inverse=True, return_counts=True, axis=0)
    return first, places.reshape(-1), counts


def capped_hessian(options: Options, x: np.ndarray, y: np.ndarray) -> Expected:
    """z' H z' + diag((dl/dx) z'' / z') with z = c tanh(x / c) and H the Hessian in z, or H without a cap (M23, M25)."""
    if options.cap is None:
        return token_hessian(options)(x, y)
    hessian, gradient, slope = token_hessian(options)(x, y), token_gradient(options)(x, y), options.slope(x)
    bend = np.array([-2 * mpmath.tanh(v / options.cap) / options.cap for v in exact(x)], object)
    outer, rounding = slope[:, None] * slope[None, :], options.rounding(options.row(x))
    return Expected(
        outer * hessian.value + np.diag(gradient.value * bend),
        outer * hessian.magnitude * rounding + np.diag(gradient.magnitude * np.abs(bend)),
    )
