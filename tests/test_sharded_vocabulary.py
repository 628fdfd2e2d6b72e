"""Rows whose classes are spread over devices: exact tails across shards, every keyword, and what is refused."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from jaxsoftmax import cross_entropy, forward_mode, linear_cross_entropy, logsumexp
from tests.tolerances import ULPS, assert_close, exact, exact_softmax, exp, log, precision

MESH = jax.make_mesh((2, 4), ("data", "vocab"), axis_types=(AxisType.Auto,) * 2)
LOGITS, CLASSES, TOKENS, ALONE = P("data", "vocab"), P("vocab"), P("data"), P()
INF = np.inf
# Two classes a device. The maximum is on the label's shard or on another, alone or in a tie.
ROWS = np.array(
    [
        [0.5, -1.25, 2.0, 0.125, -0.5, 1.0, 0.0, -3.0],
        [40.0, 0.0, -0.5, 1.0, 0.25, 0.0, -2.0, 0.0],  # label and maximum on the first shard
        [0.0, 0.25, 80.0, 1.0, 0.0, -0.5, 2.0, 0.0],
        [20.0, 0.0, 0.0, 20.0, 0.0, 0.0, 20.0, 0.0],  # ties across shards
        [1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0],
        [10000.5, 9998.75, 10002.0, 10000.125, 9999.5, 9999.0, 10001.0, 9999.25],
        [-INF, -INF, 2.0, -INF, -INF, -INF, 1.0, 0.0],  # shards of -inf alone
        [-INF, -INF, -INF, -INF, 1.5, -INF, -INF, -INF],
    ]
)
LABELS = np.array([2, 0, 2, 3, 7, 0, 6, 4], np.int32)

rng = np.random.default_rng(0)
BATCH, VOCAB = 8, 16
X, TARGETS = rng.normal(size=(BATCH, VOCAB)).astype(np.float32), rng.uniform(size=(BATCH, VOCAB)).astype(np.float32)
INTEGERS = rng.integers(0, VOCAB, BATCH).astype(np.int32)
CLASS_WEIGHTS, TOKEN_WEIGHTS = rng.uniform(size=VOCAB).astype(np.float32), rng.uniform(size=BATCH).astype(np.float32)
KEYWORDS = {
    "plain": {},
    "smoothing and penalty": {"label_smoothing": 0.125, "z_loss": 0.0625},
    "cap": {"logit_softcap": 2.0},
}
LABEL_KINDS = {"integer": (INTEGERS, TOKENS), "float": (TARGETS, LOGITS)}


def spread(function, *specs, out=ALONE):
    return jax.jit(jax.shard_map(function, mesh=MESH, in_specs=specs, out_specs=out))


def assert_near(got, expected, tolerance=1e-6):
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        assert np.linalg.norm(a - b) <= tolerance * np.linalg.norm(b)


@pytest.mark.parametrize("loss", [cross_entropy, forward_mode.cross_entropy], ids=["reverse", "twin"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_losses_and_gradients_are_exact_whatever_shard_the_maximum_is_on(dtype, loss):  # (M18-M22)
    with precision(dtype):
        local = partial(loss, reduction="none", axis_name="vocab")
        head = spread(local, LOGITS, TOKENS, out=TOKENS)
        losses, transpose = jax.vjp(lambda x: head(x, LABELS), jnp.asarray(ROWS, dtype))
        (gradient,) = transpose(jnp.ones_like(losses))
        x = exact(ROWS)
        picked = np.take_along_axis(x, LABELS[:, None], 1)
        one_hot = np.eye(ROWS.shape[1])[LABELS]
        assert_close(losses, log(exp(x - picked).sum(1)), dtype)
        assert_close(gradient, exact_softmax(ROWS) - exact(one_hot), dtype, 2 * ULPS[dtype])


@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16"])
def test_log_sum_exp_and_its_gradient_are_exact_across_shards(dtype):  # (M8, M18, M22)
    with precision(dtype):
        rows = jnp.asarray(ROWS, dtype)
        local = partial(logsumexp, axis=-1, axis_name="vocab")
        values, transpose = jax.vjp(spread(local, LOGITS, out=TOKENS), rows)
        exact_rows = np.asarray(rows, np.float64)
        assert_close(values, log(exp(exact(exact_rows)).sum(1)), dtype)
        assert_close(transpose(jnp.ones_like(values))[0], exact_softmax(exact_rows), dtype)


@pytest.mark.parametrize("function", [logsumexp, forward_mode.logsumexp])
def test_log_sum_exp_over_local_axes_and_shards_takes_any_axis_mask_and_both_ranks(function):
    where = X > -0.5

    def local(a, mask):
        return function(a, axis=0, keepdims=True, where=mask, axis_name="vocab")

    got = jax.jit(jax.value_and_grad(lambda a: jnp.sum(spread(local, CLASSES, CLASSES)(a, where.T) ** 2)))(X.T)
    expected = jax.value_and_grad(lambda a: jnp.sum(logsumexp(a, axis=0, where=where.T) ** 2))(X.T)
    assert_near(got, expected)


PLACES = {"first shard": [0], "second shard": [5], "every shard": [1, 4, 9, 13], "all": range(VOCAB)}
ROW_LOSSES = {  # of a row, with other arrays and how they are spread
    "integer": (partial(cross_entropy, reduction="none"), [(INTEGERS, TOKENS)]),
    "float": (partial(cross_entropy, reduction="none"), [(TARGETS, LOGITS)]),
    "twin": (partial(forward_mode.cross_entropy, reduction="none"), [(INTEGERS, TOKENS)]),
    "log-sum-exp": (partial(logsumexp, axis=-1), []),
    "its twin": (partial(forward_mode.logsumexp, axis=-1), []),
}


@pytest.mark.parametrize("value", [INF, np.nan])
@pytest.mark.parametrize("places", PLACES.values(), ids=PLACES)
@pytest.mark.parametrize("function", ROW_LOSSES)
def test_infinite_or_nan_logits_on_any_shard_show_in_all_of_their_row_alone(function, places, value):
    whole, others = ROW_LOSSES[function]
    arrays, specs = [array for array, _ in others], [spec for _, spec in others]
    x = X.copy()
    x[3, list(places)] = value
    head = spread(partial(whole, axis_name="vocab"), LOGITS, *specs, out=TOKENS)
    losses, transpose = jax.vjp(lambda a: head(a, *arrays), x)
    expected, expected_transpose = jax.vjp(lambda a: whole(a, *arrays), x)
    np.testing.assert_array_equal(np.isnan(losses), np.isnan(expected))
    gradient, right = transpose(jnp.ones(BATCH))[0], expected_transpose(jnp.ones(BATCH))[0]
    np.testing.assert_array_equal(np.isnan(gradient), np.isnan(right))


def test_a_row_of_minus_infinity_on_all_shards_is_infinite_with_gradient_zero():
    x = X.copy()
    x[3] = -INF
    local = partial(cross_entropy, reduction="none", axis_name="vocab")
    losses, transpose = jax.vjp(lambda a: spread(local, LOGITS, TOKENS, out=TOKENS)(a, INTEGERS), x)
    assert losses[3] == INF
    assert not np.any(transpose(jnp.ones(BATCH))[0][3])


@pytest.mark.parametrize("labels", LABEL_KINDS)
@pytest.mark.parametrize("keywords", KEYWORDS.values(), ids=KEYWORDS)
@pytest.mark.parametrize("weighted", [False, True])
def test_cross_entropy_of_sharded_logits_is_that_of_whole_ones(weighted, keywords, labels):  # (M24-M26)
    labels, spec = LABEL_KINDS[labels]
    weights = CLASS_WEIGHTS if weighted else np.ones_like(CLASS_WEIGHTS)

    def loss(x, labels, u, w):
        given = {"class_weights": w} if weighted else {}
        return cross_entropy(x, labels, token_weights=u, reduction="none", axis_name="vocab", **given, **keywords)

    def whole(x, labels, u):
        return jnp.sum(
            cross_entropy(x, labels, token_weights=u, class_weights=weights, reduction="none", **keywords) ** 2
        )

    head = spread(loss, LOGITS, spec, TOKENS, CLASSES, out=TOKENS)
    differentiated = (0, 1, 2) if labels.dtype == np.float32 else (0, 2)
    got = jax.jit(jax.value_and_grad(lambda x, y, u: jnp.sum(head(x, y, u, weights) ** 2), differentiated))
    expected = jax.value_and_grad(whole, differentiated)(X, labels, TOKEN_WEIGHTS)
    assert_near(got(X, labels, TOKEN_WEIGHTS), expected)


@pytest.mark.parametrize("labels", LABEL_KINDS)
def test_products_with_the_hessian_are_those_of_whole_rows(labels):
    labels, spec = LABEL_KINDS[labels]
    keywords = {"label_smoothing": 0.125, "z_loss": 0.0625, "reduction": "none"}

    def product(loss):
        return jax.jit(lambda x: jax.jvp(jax.grad(lambda x: jnp.sum(loss(x) ** 2)), (x,), (jnp.cos(x),))[1])

    with precision("float64"):
        x, labels = X.astype(np.float64), labels.astype(np.int32 if labels.ndim == 1 else np.float64)
        local = spread(partial(cross_entropy, axis_name="vocab", **keywords), LOGITS, spec, out=TOKENS)
        twin = spread(partial(forward_mode.cross_entropy, axis_name="vocab", **keywords), LOGITS, spec, out=TOKENS)
        expected = product(partial(cross_entropy, labels=labels, **keywords))(x)
        assert_near(product(lambda x: local(x, labels))(x), expected, 1e-13)
        assert_near(product(lambda x: twin(x, labels))(x), expected, 1e-13)


HIDDEN, KERNEL = rng.normal(size=(BATCH, 4)).astype(np.float32), rng.normal(size=(4, VOCAB)).astype(np.float32)


def test_gradients_taken_inside_of_a_shard_map_are_whole():
    mesh = jax.make_mesh((4,), ("vocab",), axis_types=(AxisType.Auto,))
    gradients = jax.grad(partial(linear_cross_entropy, axis_name="vocab"), (0, 1))
    specs = {"in_specs": (P(), P(None, "vocab"), P()), "out_specs": (P(), P(None, "vocab"))}
    got = jax.jit(jax.shard_map(gradients, mesh=mesh, **specs))(HIDDEN, KERNEL, INTEGERS)
    assert_near(got, jax.grad(linear_cross_entropy, (0, 1))(HIDDEN, KERNEL, INTEGERS))


def test_hidden_gathered_from_shards_of_tokens_gets_its_gradient_scattered_back():  # sequence parallelism
    mesh = jax.make_mesh((4,), ("vocab",), axis_types=(AxisType.Auto,))

    def local(hidden, kernel, labels):
        hidden = jax.lax.all_gather(hidden, "vocab", tiled=True)
        return linear_cross_entropy(hidden, kernel, labels, axis_name="vocab")

    head = jax.shard_map(local, mesh=mesh, in_specs=(P("vocab"), P(None, "vocab"), P()), out_specs=P())
    got = jax.jit(jax.value_and_grad(head, (0, 1)))(HIDDEN, KERNEL, INTEGERS)
    assert_near(got, jax.value_and_grad(linear_cross_entropy, (0, 1))(HIDDEN, KERNEL, INTEGERS))


def test_an_axis_outside_of_any_shard_map_is_refused():
    with pytest.raises(ValueError, match="axis_name: expected an axis of the jax"):
        linear_cross_entropy(HIDDEN, KERNEL, INTEGERS, axis_name="vocab")


@pytest.mark.parametrize("loss", [cross_entropy, forward_mode.cross_entropy])
def test_without_tracking_of_what_varies_an_axis_is_refused(loss):  # it would be silently wrong
    specs = {"in_specs": (LOGITS, TOKENS), "out_specs": P()}
    head = jax.shard_map(partial(loss, axis_name="vocab"), mesh=MESH, check_vma=False, **specs)
    with pytest.raises(ValueError, match="check_vma=True"):
        head(X, INTEGERS)


def test_labels_that_differ_along_the_axis_are_refused():
    head = spread(partial(cross_entropy, axis_name="vocab"), P(None, "vocab"), P("vocab"))
    with pytest.raises(ValueError, match="labels and token_weights: expected the same on all devices"):
        head(X[:2], INTEGERS)


def test_logits_that_are_not_spread_over_the_axis_are_refused():  # every class would count four times
    with pytest.raises(ValueError, match="logits: expected this device's shard along axis_name"):
        spread(partial(cross_entropy, axis_name="vocab"), TOKENS, TOKENS, out=TOKENS)(X, INTEGERS)
    with pytest.raises(ValueError, match="kernel: expected this device's shard along axis_name"):
        spread(partial(linear_cross_entropy, axis_name="vocab"), TOKENS, ALONE, TOKENS)(HIDDEN, KERNEL, INTEGERS)
    with pytest.raises(ValueError, match="a: expected this device's shard along axis_name"):
        spread(partial(logsumexp, axis=-1, axis_name="vocab"), TOKENS, out=TOKENS)(X)


def test_an_axis_named_twice_is_refused():
    with pytest.raises(ValueError, match="axis_name: expected distinct axes"):
        spread(partial(cross_entropy, axis_name=("vocab", "vocab")), LOGITS, TOKENS)(X, INTEGERS)


@pytest.mark.parametrize("loss", [cross_entropy, forward_mode.cross_entropy])
def test_wide_labels_work_where_jax_refuses_to_promote_them(loss):
    with precision("float64"), jax.numpy_dtype_promotion("strict"):
        head = spread(partial(loss, axis_name="vocab", reduction="none"), LOGITS, TOKENS, out=TOKENS)
        by_logits = jax.grad(lambda x: jnp.sum(head(x, INTEGERS.astype(np.int64))))(X)
        assert_near(by_logits, jax.grad(lambda x: jnp.sum(cross_entropy(x, INTEGERS, reduction="none")))(X))


@pytest.mark.parametrize("name", [3, ["vocab"], (0,)])
def test_an_axis_that_is_no_name_is_refused(name):
    with pytest.raises(TypeError, match="axis_name: expected None, the name of a mesh axis"):
        cross_entropy(X, INTEGERS, axis_name=name)


def test_weights_of_exponentials_are_refused_across_shards():
    with pytest.raises(ValueError, match="b: expected None with axis_name='vocab', got weights"):
        spread(lambda a: logsumexp(a, axis=-1, b=jnp.ones_like(a), axis_name="vocab"), LOGITS, out=TOKENS)(X)
