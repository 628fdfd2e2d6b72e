"""JAX can be set to refuse implicit promotion of dtypes and ranks; the functions work there as jax.nn's do."""

from functools import partial
from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxsoftmax
from jaxsoftmax import forward_mode
from tests.tiers import in_tiers

LABELS = np.array([0, 2], np.int32)
MASK = np.array([True, True, False])
OPTIONS = {"class_weights": np.ones(3, np.float32), "token_weights": np.ones(2, np.float32), "label_smoothing": 0.125}
HEATED = {"temperature": 2.5, "logit_softcap": 4.0}
SPARSE = jaxsoftmax.SparseLabels(np.array([[0, 1], [2, 2]], np.int32), np.ones((2, 2), np.float32))
OPTIONS |= {"z_loss": 1e-3, "logit_softcap": 4.0}

CALLS = {
    "logsumexp": lambda f, x: f.logsumexp(x, -1, where=MASK),
    "weighted logsumexp": lambda f, x: f.logsumexp(x, -1, b=jnp.ones_like(x)),
    "softmax": lambda f, x: f.softmax(x, where=MASK)[:, 0],
    "log_softmax": lambda f, x: f.log_softmax(x)[:, 0],
    "integer labels": lambda f, x: f.softmax_cross_entropy_with_integer_labels(x, LABELS),
    "float labels": lambda f, x: f.softmax_cross_entropy(x, jnp.full_like(x, 1 / 4)),
    "training, integer": lambda f, x: f.cross_entropy(x, LABELS, ignore_index=2, **OPTIONS),
    "fused": lambda f, x: f.linear_cross_entropy(
        x, jnp.ones((3, 3), x.dtype), LABELS, bias=x[0], ignore_index=2, **OPTIONS
    ),
    "fused, in chunks": lambda f, x: f.linear_cross_entropy(
        x, jnp.ones((3, 3), x.dtype), LABELS, reduction="none", chunk_size=1, ignore_index=2, **OPTIONS
    ),
    "fused, in blocks of classes": lambda f, x: f.linear_cross_entropy(
        x, jnp.ones((3, 300), x.dtype), LABELS, memory_budget=1, **OPTIONS | {"class_weights": jnp.ones(300)}
    ),
    "training, float": lambda f, x: f.cross_entropy(x, jnp.full_like(x, 1 / 4), **OPTIONS),
    "sparse labels": lambda f, x: f.cross_entropy(x, SPARSE, has_aux=True, **OPTIONS)[0],
    "fused, sparse labels": lambda f, x: f.linear_cross_entropy(
        x, jnp.ones((3, 3), x.dtype), SPARSE, has_aux=True, **OPTIONS
    )[0],
    "token statistics": lambda f, x: sum(f.token_stats(x, LABELS, ignore_index=2, **HEATED)[:3]),
    "fused token statistics": lambda f, x: sum(
        f.linear_token_stats(x, jnp.ones((3, 3), x.dtype), LABELS, bias=x[0], chunk_size=1, **HEATED)[:3]
    ),
    "distillation": lambda f, x: f.distillation(x, 2 * x, divergence="jensen_shannon", temperature=2.5),
    "fused distillation": lambda f, x: f.linear_distillation(
        x, jnp.ones((3, 3), x.dtype), x, jnp.ones((3, 3), x.dtype), chunk_size=1, reduction="none"
    ),
}


MODULES = {"reverse mode": jaxsoftmax, "both modes": forward_mode}
CASES = [
    *product(MODULES, CALLS, ["bfloat16"]),
    *product(["reverse mode"], CALLS, ["float32"]),
    *product(MODULES, [name for name in CALLS if name.startswith("fused")], ["float16"]),  # whose losses are scaled
]
FIRST = ("logsumexp", "softmax", "training, integer", "fused, sparse labels", "token statistics", "distillation")


@in_tiers(("mode", "name", "dtype"), CASES, first=[("reverse mode", name, "bfloat16") for name in FIRST])
def test_value_gradient_and_hessian_need_no_implicit_promotion(mode, name, dtype):
    """Tracing is what refuses to promote: nothing has to be compiled."""
    call, x = partial(CALLS[name], MODULES[mode]), jax.ShapeDtypeStruct((2, 3), dtype)

    def gradient(x):
        value, vjp = jax.vjp(call, x)
        return vjp(jnp.ones_like(value))[0]

    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        assert jax.eval_shape(gradient, x).dtype == x.dtype
        jax.eval_shape(jax.hessian(lambda x: jnp.sum(call(x))), x)


@in_tiers("mode", MODULES, first=["reverse mode"])
@pytest.mark.parametrize("x64", [False, True], ids=["32 bits", "64 bits"])
@pytest.mark.parametrize("name", ["softmax", "log_softmax", "integer labels", "training, float"])
def test_long_rows_need_no_implicit_promotion(mode, name, x64):
    def gradient(x):
        return jax.grad(lambda x: jnp.sum(call(x)))(x)

    call = {**CALLS, "softmax": lambda f, x: f.softmax(x), "training, float": lambda f, x: f.cross_entropy(x, x)}[name]
    call = partial(call, MODULES[mode])
    with jax.enable_x64(x64), jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        jax.eval_shape(gradient, jax.ShapeDtypeStruct((2, 640), "float32"))


def test_tracing_refuses_an_implicit_promotion():
    def of_dtypes(x):
        return x * np.float32(2) + jnp.ones((1, 3), "bfloat16")

    def of_ranks(x):
        return x + jnp.ones(3)

    x = jax.ShapeDtypeStruct((2, 3), "float32")
    with jax.numpy_dtype_promotion("strict"), pytest.raises(jax.dtypes.TypePromotionError):
        jax.eval_shape(of_dtypes, x)
    with jax.numpy_rank_promotion("raise"), pytest.raises(ValueError, match="rank_promotion"):
        jax.eval_shape(of_ranks, x)
