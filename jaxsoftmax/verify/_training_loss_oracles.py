"""Exact forms and calls for: the training loss: M23-M27."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import mpmath
import numpy as np

from jaxsoftmax.verify import _regimes
from jaxsoftmax.verify._oracle import ExactRow, Expected, exact, itself
from jaxsoftmax.verify._theorem import Claim, Inputs, derivative

LOSS = "cross_entropy"
CAP = 4.0
IGNORED = -100
WEIGHTS = np.array([1.0, 0.5, 2.0, 0.25, 1.0, 0.0, 1.5])
TOKEN_WEIGHTS = np.array([1.0, 0.5, 0.0, 2.0, 1.0, 3.0])


@dataclass(frozen=True)
class Options:
    """Options of the loss; the defaults give the plain NLL."""

    name: str
    smoothing: float = 0.0
    z_loss: float = 0.0
    weighted: bool = False
    cap: float | None = None

    def keywords(self, dtype):
        """Keyword arguments of these options."""
        given = {"label_smoothing": self.smoothing, "z_loss": self.z_loss, "logit_softcap": self.cap}
        given["class_weights"] = jnp.asarray(WEIGHTS, dtype) if self.weighted else None
        return {name: value for name, value in given.items() if isinstance(value, jax.Array) or value}

    def call(self, f, x, y, **keywords):
        """The loss, with this setting's keywords and others."""
        return f(x, y, **self.keywords(x.dtype), **keywords)

    def per_token(self, f, x, y):
        """The losses, unreduced."""
        return self.call(f, x, y, reduction="none")

    @property
    def weights(self) -> np.ndarray:
        """w, at 50 digits."""
        return exact(WEIGHTS if self.weighted else np.ones_like(WEIGHTS))

    def row(self, x) -> ExactRow:
        """The row of z = c tanh(x / c)."""
        return ExactRow(
            exact(x) if self.cap is None else np.array([self.cap * mpmath.tanh(v / self.cap) for v in exact(x)], object)
        )

    def slope(self, x) -> np.ndarray:
        """dz/dx = sech^2(x / c) (M23)."""
        one = np.full(len(x), mpmath.mpf(1), object)
        return one if self.cap is None else np.array([mpmath.sech(v / self.cap) ** 2 for v in exact(x)], object)

    def rounding(self, row: ExactRow) -> mpmath.mpf:
        """The factor on the error bound from rounding z = c tanh(x / c); 1 without a cap."""
        return mpmath.mpf(1) if self.cap is None else 1 + 2 * max(np.abs(row.x))


SETTINGS = (
    Options("smoothing", smoothing=0.125),
    Options("z-loss", z_loss=0.0625),
    Options("class weights", weighted=True),
    Options("softcap", cap=CAP),
    Options("smoothing, z-loss, class weights and softcap", 0.125, 0.0625, True, CAP),
)
SMOOTHING, Z_LOSS, CLASS_WEIGHTS, SOFTCAP, TOGETHER = SETTINGS


def targets(options: Options, y) -> np.ndarray:
    """t with l = sum_j t_j (L - z_j) + z-loss: (1 - eps) w_y [j = y] + eps w_j / V, or w_j p'_j for float labels."""
    size = len(WEIGHTS)
    if np.ndim(y) == 0:
        one_hot = exact(np.eye(size)[int(y)])
        return options.weights * ((1 - exact(options.smoothing)) * one_hot + exact(options.smoothing) / size)
    return options.weights * ((1 - exact(options.smoothing)) * exact(y) + exact(options.smoothing) / size)


def penalty(options: Options, y) -> mpmath.mpf:
    """zeta w_y for integer labels, zeta for float labels."""
    return mpmath.mpf(options.z_loss) * (options.weights[int(y)] if np.ndim(y) == 0 else 1)


def token_loss(options: Options):
    """sum_j t_j (L - z_j) + zeta L^2 (M24, M26)."""

    def loss(x, y):
        row, t = options.row(x), targets(options, y)
        value = np.dot(t, row.nll) + penalty(options, y) * row.lse**2
        size = np.dot(np.abs(t), row.nll) + penalty(options, y) * row.lse**2
        extra = (options.rounding(row) - 1) * sum(np.abs(t)) * (1 + 2 * penalty(options, y) * abs(row.lse))
        return Expected(np.asarray(value), np.asarray(size + extra))

    return loss


def token_gradient(options: Options):
    """((sum_k t_k + 2 zeta L) s_j - t_j) dz_j/dx_j (M25, M26)."""

    def gradient(x, y):
        row, t, zeta = options.row(x), targets(options, y), penalty(options, y)
        slope = options.slope(x)
        value = ((sum(t) + 2 * zeta * row.lse) * row.probs - t) * slope
        size = (sum(np.abs(t)) + 2 * zeta * abs(row.lse)) * row.probs + np.abs(t)
        return Expected(value, size * slope * options.rounding(row))

    return gradient


def token_hessian(options: Options):
    """(sum t + 2 zeta L) (diag(s) - s s^T) + 2 zeta s s^T, where there is no cap (M15, M25)."""

    def hessian(x, y):
        row, t, zeta = options.row(x), targets(options, y), penalty(options, y)
        outer = 2 * zeta * np.outer(row.probs, row.probs)
        factor = sum(t) + 2 * zeta * row.lse
        size = (sum(np.abs(t)) + 2 * zeta * abs(row.lse)) * np.abs(row.jacobian) + outer
        return Expected(factor * row.jacobian + outer, size)

    return hessian


def capped_hessian(x, y):
    """z' (diag(s) - s s^T) z' + diag((s - e_y) z''), z'' = -(2 / c) tanh(x / c) sech^2(x / c) (M15, M23)."""
    row, slope = SOFTCAP.row(x), SOFTCAP.slope(x)
    bend = np.array([-2 * mpmath.tanh(v / CAP) / CAP for v in exact(x)], object) * slope
    gradient = row.label_gradient(int(y)) * bend
    outer = slope[:, None] * row.jacobian * slope[None, :]
    size = np.abs(outer) + np.diag(np.abs(gradient)) + np.diag(np.abs(bend) * row.probs)
    return Expected(outer + np.diag(gradient), size * SOFTCAP.rounding(row))


def label_gradient(options: Options):
    """(1 - eps) w_j (L - z_j) (M12, M26)."""

    def gradient(p, x):
        del p
        row = options.row(x)
        value = (1 - exact(options.smoothing)) * options.weights * row.nll
        return Expected(value, value + (options.rounding(row) - 1) * options.weights)

    return gradient


def capped_gradient(x, y):
    """(s_j - [j = y]) sech^2(x_j / c), each entry to its own ulp however flat the cap (M23)."""
    row = SOFTCAP.row(x)
    value = row.label_gradient(int(y)) * SOFTCAP.slope(x)
    return Expected(value, np.abs(value) * SOFTCAP.rounding(row))


def textbook_loss(options: Options):
    """The formulas as printed (M24, M26)."""

    def loss(x, y):
        z = x if options.cap is None else options.cap * jnp.tanh(x / options.cap)
        lse = jnp.log(jnp.sum(jnp.exp(z)))
        w = jnp.asarray(WEIGHTS if options.weighted else np.ones_like(WEIGHTS))
        p = jax.nn.one_hot(y, len(WEIGHTS)) if jnp.ndim(y) == 0 else y
        scale = w[y] if jnp.ndim(y) == 0 else 1.0
        smoothed = (1 - options.smoothing) * p + options.smoothing / len(WEIGHTS)
        return jnp.sum(w * smoothed * (lse - z)) + options.z_loss * scale * lse**2

    return loss


def mean_of(x, y, u):
    """sum_t u_t l_t / sum_t u_t w_{y_t} over the tokens not ignored (M27), and the parts it is made of."""
    losses = [
        mpmath.mpf(0) if label == IGNORED else token_loss(CLASS_WEIGHTS)(row, label).value.item()
        for row, label in zip(x, y, strict=True)
    ]
    weights = [mpmath.mpf(0) if label == IGNORED else CLASS_WEIGHTS.weights[label] for label in y]
    u, losses, weights = exact(u), np.array(losses, object), np.array(weights, object)
    below = np.dot(u, weights)
    return (np.dot(u, losses) / below if below else mpmath.mpf(0)), losses, weights, below


def mean_value(x, y, u):
    """The mean over the weights (M27)."""
    return itself(np.asarray(mean_of(x, y, u)[0]))


def mean_gradient(x, y, u):
    """u_t / sum u w times each token's gradient, 0 where ignored (M27)."""
    below = mean_of(x, y, u)[3]
    rows = Expected.stack(
        [
            itself(exact(np.zeros(row.shape))) if label == IGNORED else token_gradient(CLASS_WEIGHTS)(row, label)
            for row, label in zip(x, y, strict=True)
        ]
    )
    scale = exact(u)[:, None] / (below if below else 1)
    return Expected(rows.value * scale, rows.magnitude * scale)


def weights_gradient(u, x, y):
    """dl/du_t = (l_t - mean w_t) / sum u w (M27)."""
    mean, losses, weights, below = mean_of(x, y, u)
    if not below:
        return itself(exact(np.zeros(len(u))))
    return Expected((losses - mean * weights) / below, (losses + mean * weights) / below)


def reduced(reduction: str):
    """The loss over tokens with weights, some ignored."""

    def call(f, x, y, u):
        return CLASS_WEIGHTS.call(f, x, y, token_weights=u, ignore_index=IGNORED, reduction=reduction)

    return call


def tokens(order: str):
    def inputs(dtype: str) -> list[Inputs]:
        x = _regimes.ordinary(dtype, rows=24).reshape(4, 6, _regimes.VOCAB)
        y = np.array([[0, IGNORED, 2, 3, 5, 6], [IGNORED] * 6, [1, 1, 4, IGNORED, 0, 2], [0, 1, 2, 3, 4, 6]], np.int32)
        u = np.stack([TOKEN_WEIGHTS, TOKEN_WEIGHTS, np.ones(6), np.zeros(6)])
        arrays = {"x": x, "y": y, "u": u}
        return [Inputs("weighted, some or all ignored", tuple(arrays[name] for name in order))]

    return inputs


def rows(dtype: str) -> list[Inputs]:
    regimes = {"ordinary": _regimes.ordinary(dtype), "ties": _regimes.ties(dtype)}
    return [Inputs(name, (x, np.array([0, 3, 4, 6], np.int32))) for name, x in regimes.items()]


def float_rows(dtype: str) -> list[Inputs]:
    x = _regimes.ordinary(dtype)
    return [Inputs(f"{kind} targets", (x, _regimes.targets_of(x, kind))) for kind in ("distribution", "unnormalised")]


def flat(dtype: str) -> list[Inputs]:
    del dtype
    x = np.array([[40.0, -8.0, 0.5, 1, 2, -60, 3], [0.25, 20.0, -20.0, 16, -1, 0, 8]])
    return [Inputs("far past the cap", (x, np.array([0, 2], np.int32)))]


def settings(order: int, oracle, inputs, bound: float, quantity: str, settings=SETTINGS) -> tuple[Claim, ...]:
    return tuple(
        Claim(
            LOSS,
            f"{quantity}, {options.name}",
            order,
            options.per_token,
            oracle(options),
            inputs,
            bound,
            textbook=textbook_loss(options) if order else None,
        )
        for options in settings
    )


def label_claim(options: Options) -> Claim:
    return derivative(
        LOSS,
        f"gradient in the labels, {options.name}",
        label_gradient(options),
        lambda d: [Inputs(i.regime, i.arrays[::-1]) for i in float_rows(d)],
        6,
        call=lambda f, p, x: options.per_token(f, x, p),
        textbook=lambda p, x: textbook_loss(options)(x, p),
    )
