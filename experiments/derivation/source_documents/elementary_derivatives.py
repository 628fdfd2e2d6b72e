"""The table of elementary derivatives in https://blog.csdn.net/zt_1995/article/details/62227603, every row executed.

The copy prints the last row as "(u/)'=(u'v-uv')/^2" and (csc x)′ as "-csxcotx"; both are executed as meant.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from experiments.derivation.equalities import Derivation, Document, Line

Scalar = Float[Array, ""]
Function = Callable[[Array], Array]


def _sec(x: Scalar) -> Scalar:
    return 1.0 / jnp.cos(x)


def _csc(x: Scalar) -> Scalar:
    return 1.0 / jnp.sin(x)


def _cot(x: Scalar) -> Scalar:
    return jnp.cos(x) / jnp.sin(x)


def _arccot(x: Scalar) -> Scalar:
    return jnp.arctan(1.0 / x)


def _row(left: str, right: str, function: Function, derivative: Function) -> Derivation:
    """Returns the equality f′ = derivative at x = u in (0.2, 0.8), where every function of the table is smooth."""
    return Derivation(
        "M1",
        f"{left} = {right}",
        Line(left, lambda p: jax.grad(lambda x: jnp.asarray(function(x)))(p.u)),
        Line(f"= {right}", lambda p: jnp.asarray(derivative(p.u))),
    )


_TABLE = (
    _row("c′", "0", lambda x: 3.0 * jnp.ones_like(x), jnp.zeros_like),
    _row("(xᵃ)′, a = 2.5", "a xᵃ⁻¹", lambda x: x**2.5, lambda x: 2.5 * x**1.5),
    _row("(aˣ)′, a = 3", "aˣ ln a", lambda x: jnp.power(3.0, x), lambda x: 3.0**x * jnp.log(3.0)),
    _row("(eˣ)′", "eˣ", jnp.exp, jnp.exp),
    _row("(log_a x)′, a = 3", "1/(x ln a)", lambda x: jnp.log(x) / jnp.log(3.0), lambda x: 1.0 / (x * jnp.log(3.0))),
    _row("(ln x)′", "1/x", jnp.log, lambda x: 1.0 / x),
    _row("(sin x)′", "cos x", jnp.sin, jnp.cos),
    _row("(cos x)′", "−sin x", jnp.cos, lambda x: -jnp.sin(x)),
    _row("(tan x)′", "(sec x)²", jnp.tan, lambda x: _sec(x) ** 2),
    _row("(sec x)′", "sec x tan x", _sec, lambda x: _sec(x) * jnp.tan(x)),
    _row("(cot x)′", "−(csc x)²", _cot, lambda x: -(_csc(x) ** 2)),
    _row("(csc x)′", "−csc x cot x", _csc, lambda x: -_csc(x) * _cot(x)),
    _row("(arcsin x)′", "1/√(1 − x²)", jnp.arcsin, lambda x: 1.0 / jnp.sqrt(1.0 - x**2)),
    _row("(arccos x)′", "−1/√(1 − x²)", jnp.arccos, lambda x: -1.0 / jnp.sqrt(1.0 - x**2)),
    _row("(arctan x)′", "1/(1 + x²)", jnp.arctan, lambda x: 1.0 / (1.0 + x**2)),
    _row("(arccot x)′", "−1/(1 + x²)", _arccot, lambda x: -1.0 / (1.0 + x**2)),
    _row("(sh x)′", "ch x", jnp.sinh, jnp.cosh),
    _row("(ch x)′", "sh x", jnp.cosh, jnp.sinh),
    _row(
        "(uv)′, u = sin x, v = eˣ",
        "uv′ + u′v",
        lambda x: jnp.sin(x) * jnp.exp(x),
        lambda x: jnp.sin(x) * jnp.exp(x) + jnp.cos(x) * jnp.exp(x),
    ),
    _row(
        "(u + v)′, u = sin x, v = eˣ", "u′ + v′", lambda x: jnp.sin(x) + jnp.exp(x), lambda x: jnp.cos(x) + jnp.exp(x)
    ),
    _row(
        "(u/v)′, u = sin x, v = eˣ",
        "(u′v − uv′)/v²",
        lambda x: jnp.sin(x) / jnp.exp(x),
        lambda x: (jnp.cos(x) * jnp.exp(x) - jnp.sin(x) * jnp.exp(x)) / jnp.exp(x) ** 2,
    ),
)

_PLANTED = (_row("(cos x)′", "sin x", jnp.cos, jnp.sin),)

DOCUMENT = Document(
    name="CSDN 62227603, its table of derivatives",
    source="https://blog.csdn.net/zt_1995/article/details/62227603",
    derivations=_TABLE,
    planted=_PLANTED,
)
