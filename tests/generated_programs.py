"""Generated programs of the functions over rows and heads, and numbers for them, with what they give by the textbook.

A program has one set of keywords and sizes, so that many draws of numbers need one compilation. It gives the value, the
gradients in every argument, and the Hessian's product with a direction in all of them.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import jaxsoftmax
from jaxsoftmax import SparseLabels
from tests import textbook
from tests.head_cases import TOLERANCE
from tests.row_textbook import TEXTBOOKS, OfRows
from tests.tolerances import precision

FUNCTIONS = {
    ("stats", "rows"): "token_stats",
    ("stats", "head"): "linear_token_stats",
    ("sparse", "rows"): "cross_entropy",
    ("sparse", "head"): "linear_cross_entropy",
    ("integer", "rows"): "cross_entropy",
    ("integer", "head"): "linear_cross_entropy",
    ("distillation", "rows"): "distillation",
    ("distillation", "head"): "linear_distillation",
}
PROGRAMS, DRAWS = range(12), range(18)  # of each function
FEW = (1, 5, 6, 7, 8, 9)  # of the programs: show each trait of all
VOCABS = (1, 2, 7, 13, 53)
EMBED = {"": 3, "teacher_": 2}
CONSTANTS = {"temperature": 2.5, "logit_softcap": 2.0, "label_smoothing": 0.125, "z_loss": 0.0625}
OF_FAMILY = {  # constants, and arrays that may be given
    "stats": (("temperature", "logit_softcap"), ()),
    "sparse": (("logit_softcap", "label_smoothing", "z_loss"), ("class_weights", "token_weights")),
    "integer": (("logit_softcap", "label_smoothing", "z_loss"), ("class_weights", "token_weights")),
    "distillation": (("temperature",), ("token_weights",)),
}


class Program(NamedTuple):
    """Keywords and sizes."""

    family: str
    level: str
    batch: tuple[int, ...]
    vocab: int
    classes: int  # k of sparse labels
    keywords: dict[str, Any]
    constants: dict[str, float]
    traced: bool  # whether the constants are
    arrays: tuple[str, ...]  # optional ones that are given

    @property
    def prefixes(self):
        return ("", "teacher_") if self.family == "distillation" else ("",)


class Numbers(NamedTuple):
    """A draw."""

    arrays: dict[str, np.ndarray]  # differentiated
    directions: dict[str, np.ndarray]
    fixed: dict[str, np.ndarray]  # labels, class weights and cotangents


def generated(family, level, number, vocab=None):
    """Program `number` of a function."""
    rng = np.random.default_rng([number, len(family), len(level)])
    constants, arrays = OF_FAMILY[family]
    batch = [(6,), (2, 3), (6,)][number % 3]
    vocab = vocab or VOCABS[number % len(VOCABS)]
    keywords: dict[str, Any] = {}
    if family != "stats":
        keywords["reduction"] = ("mean", "sum", "none")[number % 3]
    if family in ("stats", "integer") and rng.random() < 0.5:
        keywords["ignore_index"] = int(rng.choice([-100, 0]))
    if family == "integer" or (family == "sparse" and rng.random() < 0.5):
        keywords["has_aux"] = True
    if family == "distillation":
        keywords["divergence"] = ("forward_kl", "reverse_kl", "jensen_shannon")[number // 3 % 3]
        keywords |= {"beta": 0.25} if rng.random() < 0.5 else {}
    if level == "head":
        keywords["chunk_size"] = (None, 1, 4, 6, 5)[number % 5]
        if family != "distillation":
            keywords["transposed_kernel"] = number % 2 == 1
        arrays += ("bias", "teacher_bias") if family == "distillation" else ("bias",)
    given = tuple(name for name in arrays if rng.random() < 0.5)
    chosen = {name: CONSTANTS[name] for at, name in enumerate(constants) if (number + at) % 3}
    return Program(family, level, batch, vocab, 1 + number % 3, keywords, chosen, number // 2 % 2 == 0, given)


def traits(program):
    """What few programs have to show for many."""
    sizes = {("batch", program.batch), ("vocab", program.vocab), ("classes", program.classes)}
    constants = {(name, program.traced) for name in program.constants}
    return set(program.keywords.items()) | constants | set(program.arrays) | sizes


def drawn(program, seed, dtype):
    """Numbers that arrays of `dtype` hold; weights are at least float32."""
    rng = np.random.default_rng([seed, program.vocab, len(program.keywords)])
    shapes = {}
    for prefix in program.prefixes:
        embed = EMBED[prefix]
        if program.level == "rows":
            shapes[f"{prefix}logits"] = (*program.batch, program.vocab)
            continue
        kernel = (program.vocab, embed) if program.keywords.get("transposed_kernel") else (embed, program.vocab)
        shapes |= {f"{prefix}hidden": (*program.batch, embed), f"{prefix}kernel": kernel}
        if f"{prefix}bias" in program.arrays:
            shapes[f"{prefix}bias"] = (program.vocab,)
    weights = {name: program.batch for name in ("token_weights",) if name in program.arrays}
    labels = rng.integers(0, program.vocab, program.batch).astype(np.int32)
    if program.family == "sparse":
        labels = rng.integers(0, program.vocab, (*program.batch, program.classes)).astype(np.int32)
        weights["label_weights"] = labels.shape
    elif "ignore_index" in program.keywords:
        labels = np.where(rng.random(program.batch) < 0.3, np.int32(program.keywords["ignore_index"]), labels)
    wide = np.float64 if dtype == "float64" else np.float32
    arrays = {name: (1.5 * rng.normal(size=shape)).astype(jnp.dtype(dtype)) for name, shape in shapes.items()}
    arrays |= {name: rng.uniform(0.25, 1.5, shape).astype(wide) for name, shape in weights.items()}
    directions = {name: rng.normal(size=each.shape).astype(each.dtype) for name, each in arrays.items()}
    lead = {"stats": (3, *program.batch)}.get(
        program.family, program.batch if program.keywords.get("reduction") == "none" else ()
    )
    fixed = {"cotangents": np.asarray(rng.normal(size=lead), wide)}
    if program.family != "distillation":
        fixed["labels"] = labels
    if "class_weights" in program.arrays:
        fixed["class_weights"] = rng.uniform(0.25, 1.5, program.vocab).astype(wide)
    return Numbers(arrays, directions, fixed)


def total_of(program, arrays, fixed, constants, call=None):
    """The outputs times their cotangents, summed up; and the results that have no gradient."""
    call = call or getattr(jaxsoftmax, FUNCTIONS[program.family, program.level])
    arrays, fixed = dict(arrays), dict(fixed)
    cotangents = fixed.pop("cotangents")
    if program.family == "sparse":
        fixed["labels"] = SparseLabels(fixed["labels"], arrays.pop("label_weights"))
    got = call(**arrays, **fixed, **constants, **program.keywords)
    if program.family == "stats":
        *outputs, prediction = got
        return jnp.sum(cotangents * jnp.stack(outputs)), {"prediction": prediction}
    loss, parts = got if program.keywords.get("has_aux") else (got, None)
    return jnp.sum(cotangents * loss), {} if parts is None else parts._asdict()


def derivatives_of(program, numbers, constants, call=None):
    """The value, extras, gradients and Hessian's product."""
    total = partial(total_of, program, call=call, constants=program.constants | constants)

    def gradients(arrays):
        return jax.value_and_grad(total, has_aux=True)(arrays, numbers.fixed)

    (value, extras), by_arrays = gradients(numbers.arrays)
    _, product = jax.jvp(lambda arrays: gradients(arrays)[1], (numbers.arrays,), (numbers.directions,))
    return value, extras, by_arrays, product


def traced_constants(program, dtype):
    wide = np.float64 if dtype == "float64" else np.float32
    return {name: wide(value) for name, value in program.constants.items()} if program.traced else {}


def assert_is_textbook(program, dtype, draws=DRAWS, vmapped=False, call=None):
    """Value, extras, gradients and Hessian product are the textbook's, of every draw; the program is compiled once."""
    with precision(dtype):
        run = partial(derivatives_of, program, call=call)
        numbers = [drawn(program, seed, dtype) for seed in draws]
        constants = traced_constants(program, dtype)
        if vmapped:
            stacked = jax.jit(jax.vmap(run, (0, None)))(jax.tree.map(lambda *each: np.stack(each), *numbers), constants)
            got = [
                jax.tree.map(lambda each, at=at: each[at], jax.tree.map(np.asarray, stacked))
                for at in range(len(numbers))
            ]
        else:
            compiled = jax.jit(run)
            got = [jax.tree.map(np.asarray, compiled(each, constants)) for each in numbers]
    for each, of_draw in zip(numbers, got, strict=True):
        _assert_draw_is_textbook(program, each, dtype, of_draw)


def _assert_draw_is_textbook(program, numbers, dtype, got):
    value, extras, gradients, products = got
    expected, sizes, expected_products, product_sizes = reference(program, numbers)
    tolerance = TOLERANCE[dtype]
    np.testing.assert_allclose(value, expected.value, rtol=10 * tolerance, atol=4 * tolerance)
    assert extras.keys() == expected.extras.keys()
    for name, extra in extras.items():
        np.testing.assert_allclose(extra, expected.extras[name], rtol=10 * tolerance, atol=tolerance, err_msg=name)
    for what, those, right, size in (
        ("gradient", gradients, pulled_back(program, numbers.arrays, expected), sizes),
        ("product", products, expected_products, product_sizes),
    ):
        assert those.keys() == numbers.arrays.keys()
        for name, array in those.items():
            assert array.dtype == numbers.arrays[name].dtype
            error = np.linalg.norm(np.float64(array) - right[name])
            allowed = np.linalg.norm(size[name])
            if program.vocab == 1:  # nothing depends on the logits: terms of about 1 cancel
                allowed = max(allowed, 1.0)
            assert error <= tolerance * allowed, (what, name, error / tolerance / allowed)


def _wide(numbers):
    return {name: np.float64(array) for name, array in numbers.items()}


def reference(program, numbers):
    """What the rows give, the sizes of the gradients' terms, the Hessian's product and the sizes of its terms."""
    arrays, directions = _wide(numbers.arrays), _wide(numbers.directions)
    expected = of_arrays(program, numbers.fixed, arrays)

    def with_gradients(given):
        formed = of_arrays(program, numbers.fixed, dict(zip(arrays, given, strict=True)))
        return pulled_back(program, dict(zip(arrays, given, strict=True)), formed), formed.by_logits

    products, dots = textbook.derivatives(with_gradients, list(arrays.values()), list(directions.values()))
    by_logits = expected.by_logits
    sizes = _sizes(program, arrays, by_logits) | expected.terms
    both = {of: abs(dots[of]) + abs(by_logits[of]) for of in by_logits}
    product_sizes = _sizes(program, arrays, both)
    for name, size in _sizes(program, directions, by_logits).items():
        product_sizes[name] = product_sizes[name] + size
    product_sizes |= {name: abs(products[name]) + size for name, size in expected.terms.items() if name in products}
    return expected, sizes, products, product_sizes


def of_arrays(program, fixed, arrays):
    rows = {}
    for prefix in program.prefixes:
        if program.level == "rows":
            rows[prefix] = arrays[f"{prefix}logits"]
        else:
            rows[prefix] = arrays[f"{prefix}hidden"] @ _kernel(program, arrays, prefix) + arrays.get(
                f"{prefix}bias", 0.0
            )
    keywords = {
        name: value for name, value in program.keywords.items() if name not in ("chunk_size", "transposed_kernel")
    }
    fixed = {name: np.float64(each) if each.dtype.kind == "f" else each for name, each in fixed.items()}
    return TEXTBOOKS[program.family](rows, arrays, **fixed, **keywords, **program.constants)


def _kernel(program, arrays, prefix):
    kernel = arrays[f"{prefix}kernel"]
    return kernel.T if program.keywords.get("transposed_kernel") else kernel


def pulled_back(program, arrays, formed):
    """The gradients by name, from those in the logits (M16)."""
    gradients = {name: each for name, each in formed.others.items() if name in arrays}
    batch = tuple(range(len(program.batch)))
    for prefix, g in formed.by_logits.items():
        if program.level == "rows":
            gradients[f"{prefix}logits"] = g
            continue
        hidden, kernel = arrays[f"{prefix}hidden"], _kernel(program, arrays, prefix)
        by_kernel = np.tensordot(hidden, g, (batch, batch))
        gradients[f"{prefix}hidden"] = g @ kernel.T
        gradients[f"{prefix}kernel"] = by_kernel.T if program.keywords.get("transposed_kernel") else by_kernel
        if f"{prefix}bias" in arrays:
            gradients[f"{prefix}bias"] = g.sum(batch)
    return gradients


def _sizes(program, arrays, by_logits):
    absolute = OfRows(None, {of: abs(g) for of, g in by_logits.items()}, {}, {}, {})
    return pulled_back(program, {name: abs(each) for name, each in arrays.items()}, absolute)
