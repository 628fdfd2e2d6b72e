"""The certificate's figures: one formula seen three ways, and what is left of a loss as confidence grows.

Each panel is drawn twice, for a light and a dark page, as an SVG in a data URI.
"""

import base64
import io
from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import optax
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import FixedFormatter, FixedLocator, MaxNLocator

import jaxsoftmax
from jaxsoftmax.analytic import softmax_jacobian

LOGITS = (1.3, 0.9, 0.7, 0.4, 0.2, -0.1, -0.3, -0.6, -0.8)
GAPS = np.arange(1, 81)
_OTHERS = 9  # classes that trail the label by the gap
_EPS = float(np.finfo(np.float32).eps)
_FLOOR = 1e-10  # where an error of exactly zero is drawn
_SQUARE, _WIDE = (4.6, 3.8), (5.2, 3.8)  # inches


@dataclass(frozen=True)
class Panel:
    """One drawing, as data URIs for a light and a dark page."""

    title: str
    description: str
    light: str
    dark: str
    width: int  # pixels
    height: int


@dataclass(frozen=True)
class _Colours:
    ink: str
    faint: str
    lines: tuple[str, str, str]
    diverging: str


_LIGHT = _Colours("#1f2328", "#8c959f", ("#0b5fd0", "#f08c00", "#1f2328"), "RdBu_r")
_DARK = _Colours("#e6edf3", "#7d8590", ("#58a6ff", "#f08c00", "#e6edf3"), "berlin")


def jacobian_panels() -> tuple[Panel, Panel, Panel]:
    """Draws the Jacobian of softmax as a closed form, as autodiff has it, and their difference in ulps."""
    logits = jnp.array(LOGITS, jnp.float32)
    closed = np.asarray(softmax_jacobian(logits))  # (M5)
    derived = np.asarray(jax.jacfwd(jaxsoftmax.softmax)(logits))
    apart = (derived.astype(np.float64) - closed) / np.spacing(np.abs(closed)).astype(np.float64)
    largest = float(np.abs(apart).max())
    peak = float(np.abs(closed).max())

    def heat_map(matrix: np.ndarray, scale: float) -> Callable[[Axes, _Colours], None]:
        return lambda axes, colours: _draw_heat_map(axes, colours, matrix, scale)

    def panel(title: str, description: str, draw: Callable[[Axes, _Colours], None]) -> Panel:
        return _panel(title, f"{classes}: {description}", draw, _SQUARE)

    classes = f"{len(LOGITS)} by {len(LOGITS)} heat map"
    return (
        panel("diag(s) − s sᵀ, the closed form", "positive diagonal, negative elsewhere", heat_map(closed, peak)),
        panel("jax.jacfwd(jaxsoftmax.softmax)", "the same matrix from autodiff", heat_map(derived, peak)),
        panel(
            f"their difference, in ulps of the entry (largest: {largest:.2g})",
            f"the difference, at most {largest:.2g} ulps",
            heat_map(apart, max(largest, 1.0)),
        ),
    )


def confidence_panels() -> tuple[Panel, Panel]:
    """Draws the relative error of the integer-label loss and of its label gradient against the confidence gap."""
    curves = confidence_errors()
    panels = [
        _panel(
            title,
            f"{title}: " + "; ".join(f"{name} at most {errors.max():.1e}" for name, errors in by_name.items()),
            lambda axes, colours, by_name=by_name: _draw_curves(axes, colours, by_name),
            _WIDE,
        )
        for title, by_name in zip(
            ("relative error of the loss", "relative error of ∂loss/∂(label’s logit)"), curves, strict=True
        )
    ]
    return panels[0], panels[1]


def confidence_errors() -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Returns the relative errors of loss and label gradient, by library, in float32 at each of `GAPS`."""
    logits = jnp.zeros((len(GAPS), 1 + _OTHERS), jnp.float32).at[:, 1:].set(-jnp.asarray(GAPS, jnp.float32)[:, None])
    label = jnp.array(0)
    libraries: dict[str, Callable[[jax.Array], jax.Array]] = {
        "jaxsoftmax": lambda row: jaxsoftmax.softmax_cross_entropy_with_integer_labels(row, label),
        "jax.nn": lambda row: -jax.nn.log_softmax(row)[0],
        "optax": lambda row: optax.softmax_cross_entropy_with_integer_labels(row, label),
    }
    losses, gradients = {}, {}
    with mpmath.workdps(50):
        exact = [_exact(int(gap)) for gap in GAPS]
        for name, loss in libraries.items():
            values, slopes = jax.jit(jax.vmap(jax.value_and_grad(loss)))(logits)
            losses[name] = _relative_errors(values, [pair[0] for pair in exact])
            gradients[name] = _relative_errors(slopes[:, 0], [pair[1] for pair in exact])
    return losses, gradients


def _exact(gap: int) -> tuple[mpmath.mpf, mpmath.mpf]:
    r = _OTHERS * mpmath.exp(-gap)
    return mpmath.log1p(r), -r / (1 + r)  # (M19), (M20)


def _relative_errors(values: jax.Array, exact: list[mpmath.mpf]) -> np.ndarray:
    pairs = zip(np.asarray(values, np.float64), exact, strict=True)
    return np.array([float(abs((mpmath.mpf(float(value)) - truth) / truth)) for value, truth in pairs])


def _draw_heat_map(axes: Axes, colours: _Colours, matrix: np.ndarray, scale: float) -> None:
    image = axes.imshow(matrix, cmap=colours.diverging, vmin=-scale, vmax=scale)
    axes.set_xticks(range(len(matrix)))
    axes.set_yticks(range(len(matrix)))
    axes.set_xlabel("∂ logit")
    axes.set_ylabel("probability")
    figure = axes.figure
    bar = figure.colorbar(image, ax=axes, fraction=0.046, pad=0.04, ticks=MaxNLocator(5))
    _paint(bar.ax, colours)


def _draw_curves(axes: Axes, colours: _Colours, by_name: dict[str, np.ndarray]) -> None:
    styles = (("-", 2.0), ("-", 3.6), ("--", 1.4))
    for (name, errors), colour, (style, width) in zip(by_name.items(), colours.lines, styles, strict=True):
        axes.semilogy(GAPS, np.maximum(errors, _FLOOR), style, color=colour, linewidth=width, label=name)
    for level, text in ((1.0, "everything lost"), (_EPS, "1 ulp"), (_FLOOR, "exact")):
        axes.axhline(level, color=colours.faint, linewidth=0.8, linestyle=":", zorder=0)
        axes.annotate(
            text, (GAPS[-1], level), xytext=(0, 5), textcoords="offset points", ha="right", color=colours.faint
        )
    axes.set_ylim(_FLOOR / 3, 30.0)
    axes.yaxis.set_major_locator(FixedLocator([1e-8, 1e-6, 1e-4, 1e-2, 1.0]))
    axes.yaxis.set_major_formatter(FixedFormatter(["10⁻⁸", "10⁻⁶", "10⁻⁴", "10⁻²", "1"]))
    axes.yaxis.set_minor_locator(FixedLocator([]))
    axes.set_xlabel("gap between the label’s logit and the nine others (nats)")
    axes.legend(loc="center right", frameon=False, labelcolor=colours.ink)


def _panel(title: str, description: str, draw: Callable[[Axes, _Colours], None], inches: tuple[float, float]) -> Panel:
    width, height = (round(72 * length) for length in inches)
    return Panel(title, description, _svg(draw, _LIGHT, inches), _svg(draw, _DARK, inches), width, height)


def _svg(draw: Callable[[Axes, _Colours], None], colours: _Colours, inches: tuple[float, float]) -> str:
    figure = Figure(figsize=inches, layout="compressed")
    FigureCanvasSVG(figure)
    axes = figure.add_subplot()
    draw(axes, colours)
    _paint(axes, colours)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return "data:image/svg+xml;base64," + base64.b64encode(buffer.getvalue()).decode()


def _paint(axes: Axes, colours: _Colours) -> None:
    axes.tick_params(colors=colours.ink, which="both")
    for spine in axes.spines.values():
        spine.set_color(colours.faint)
    axes.xaxis.label.set_color(colours.ink)
    axes.yaxis.label.set_color(colours.ink)
