"""The training loss of one token with its options, its derivatives, and the formula as printed: M24-M26."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import mpmath
import numpy as np

from jaxsoftmax.verify._oracle import ExactRow, Expected, exact

CAP = 4.0
IGNORED = -100
WEIGHTS = np.array([1.0, 0.5, 2.0, 0.25, 1.0, 0.0, 1.5])  # of classes
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
        return Expected(value, size + extra)

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


def gradient_in_labels(options: Options):
    """(1 - eps) w_j (L - z_j) (M12, M26)."""

    def gradient(p, x):
        row = options.row(x)
        value = (1 - exact(options.smoothing)) * options.weights * row.nll
        return Expected(value, value + (options.rounding(row) - 1) * options.weights)

    return gradient


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
