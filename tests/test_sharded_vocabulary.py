"""Rows whose classes are sharded over devices: exact tails across shards, every keyword, and what is refused."""

from functools import cache, partial
from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from jaxsoftmax import cross_entropy, forward_mode, linear_cross_entropy, logsumexp
from tests import textbook
from tests.meshes import assert_near
from tests.textbook import derivatives, gradient
from tests.tiers import in_tiers
from tests.tolerances import ULPS, array, assert_close, exact, exact_softmax, exp, log, precision

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
WEIGHTS_OF_LABELS = {"integer": np.eye(VOCAB)[INTEGERS], "float": np.float64(TARGETS)}
DIFFERENTIATED = {"integer": (0, 2), "float": (0, 1, 2)}  # of logits, labels and token weights


def sharded(function, *specs, out=ALONE):
    return jax.jit(jax.shard_map(function, mesh=MESH, in_specs=specs, out_specs=out))


def with_gradient(losses_of, x, *others):
    """The losses, and the gradient of their sum in x."""
    losses, transpose = jax.vjp(lambda x: losses_of(x, *others), x)
    return losses, transpose(jnp.ones_like(losses))[0]


def by_rows(loss):
    """Losses of sharded logits and of labels."""
    return sharded(partial(loss, reduction="none", axis_name="vocab"), LOGITS, TOKENS, out=TOKENS)


TAILS = {
    "loss": by_rows(cross_entropy),
    "forward-mode loss": by_rows(forward_mode.cross_entropy),
    "log-sum-exp": sharded(lambda x, _: logsumexp(x, -1, axis_name="vocab"), LOGITS, TOKENS, out=TOKENS),
}


@cache
def tails(dtype):
    """What every function gives, compiled together."""

    @jax.jit
    def of_each(x, labels):
        return {name: with_gradient(head, x, labels) for name, head in TAILS.items()}

    return of_each(array(ROWS, dtype), LABELS)


@pytest.mark.parametrize("name", ["loss", "forward-mode loss"])
@pytest.mark.parametrize("dtype", ["float32", pytest.param("float64", marks=pytest.mark.slow)])
def test_losses_and_gradients_are_exact_whatever_shard_the_maximum_is_on(dtype, name):  # (M18, M19, M20, M21, M22)
    with precision(dtype):
        losses, by_logits = tails(dtype)[name]
        x = exact(ROWS)
        picked = np.take_along_axis(x, LABELS[:, None], 1)
        one_hot = np.eye(ROWS.shape[1])[LABELS]
        assert_close(losses, log(exp(x - picked).sum(1)), dtype)
        assert_close(by_logits, exact_softmax(ROWS) - exact(one_hot), dtype, 2 * ULPS[dtype])


@pytest.mark.parametrize("dtype", ["float32", pytest.param("float64", marks=pytest.mark.slow), "bfloat16"])
def test_log_sum_exp_and_its_gradient_are_exact_across_shards(dtype):  # (M8, M18, M22)
    with precision(dtype):
        values, by_logits = tails(dtype)["log-sum-exp"]
        rows = array(ROWS, dtype)
        assert_close(values, log(exp(exact(rows)).sum(1)), dtype)
        assert_close(by_logits, exact_softmax(rows), dtype)


@pytest.mark.parametrize("function", [logsumexp, forward_mode.logsumexp])
def test_log_sum_exp_over_local_axes_and_shards_takes_any_axis_mask_and_both_ranks(function):
    where = X > -0.5

    def local(a, mask):
        return function(a, axis=0, keepdims=True, where=mask, axis_name="vocab")

    got = jax.jit(jax.value_and_grad(lambda a: jnp.sum(sharded(local, CLASSES, CLASSES)(a, where.T) ** 2)))(X.T)
    e = where * np.exp(np.float64(X))
    lse = np.log(e.sum(1, keepdims=True))
    assert_near(got, (np.sum(lse**2), (2 * lse * e / np.exp(lse)).T), 1e-6)


PLACES = {"first shard": [0], "second shard": [5], "every shard": [1, 4, 9, 13], "all": range(VOCAB)}
# Every other row has an infinity or NaN in some place; then come a row of -inf alone, and one as it was.
BROKEN = np.concatenate([X, X, X[:2]])
for row, (value, places) in enumerate(product([INF, np.nan], PLACES.values())):
    BROKEN[2 * row, list(places)] = value
IS_BROKEN = np.arange(len(BROKEN)) % 2 == 0
BROKEN[16], IS_BROKEN[16] = -INF, False
ROW_LOSSES = {  # of rows, and the labels' kind
    "integer": (partial(cross_entropy, reduction="none"), "integer"),
    "float": (partial(cross_entropy, reduction="none"), "float"),
    "forward-mode": (partial(forward_mode.cross_entropy, reduction="none"), "integer"),
    "log-sum-exp": (lambda x, _, **axis: logsumexp(x, -1, **axis), "integer"),
    "forward-mode log-sum-exp": (lambda x, _, **axis: forward_mode.logsumexp(x, -1, **axis), "integer"),
}


def whole(loss, _kind):
    return loss


def across_shards(loss, kind):
    return sharded(partial(loss, axis_name="vocab"), LOGITS, LABEL_KINDS[kind][1], out=TOKENS)


@cache
def of_broken_rows(placed, in_both_modes):
    """What every function of a module gives, compiled together."""
    of_module = {name: case for name, case in ROW_LOSSES.items() if name.startswith("forward") == in_both_modes}

    @jax.jit
    def evaluate(x, labels):
        return {name: with_gradient(placed(loss, kind), x, labels[kind]) for name, (loss, kind) in of_module.items()}

    return evaluate(BROKEN, {kind: np.concatenate([y, y, y[:2]]) for kind, (y, _) in LABEL_KINDS.items()})


@in_tiers("name", ROW_LOSSES, first=[name for name in ROW_LOSSES if not name.startswith("forward")])
def test_infinite_or_nan_logits_on_any_shard_show_in_all_of_their_row_alone(name):
    got = (of_broken_rows(placed, name.startswith("forward"))[name] for placed in (across_shards, whole))
    (losses, by_logits), (expected, _) = got
    np.testing.assert_array_equal(np.isnan(losses), np.isnan(expected))
    np.testing.assert_array_equal(np.isnan(by_logits), np.repeat(IS_BROKEN[:, None], VOCAB, 1))


def test_a_row_of_minus_infinity_on_all_shards_is_infinite_with_gradient_zero():
    losses, by_logits = of_broken_rows(across_shards, False)["integer"]
    assert losses[16] == INF
    assert not np.any(by_logits[16])


@cache
def of_cases(weighted):
    """Sums of squared losses and their gradients, with class weights or without, compiled together."""

    def loss(name, kind):
        def local(x, labels, u, w):
            given = KEYWORDS[name] | ({"class_weights": w} if weighted else {})
            return cross_entropy(x, labels, token_weights=u, reduction="none", axis_name="vocab", **given)

        head = sharded(local, LOGITS, LABEL_KINDS[kind][1], TOKENS, CLASSES, out=TOKENS)
        return lambda x, labels, u: jnp.sum(head(x, labels, u, CLASS_WEIGHTS) ** 2)

    @jax.jit
    def evaluate(x, labels, u):
        return {
            (name, kind): jax.value_and_grad(loss(name, kind), DIFFERENTIATED[kind])(x, labels[kind], u)
            for name, kind in product(KEYWORDS, LABEL_KINDS)
        }

    return evaluate(X, {kind: labels for kind, (labels, _) in LABEL_KINDS.items()}, TOKEN_WEIGHTS)


def sum_of_squares(x, labels, u, *, w, kind, **keywords):
    """The textbook's; labels weigh every class."""
    penalty_weights = {"integer": labels @ w, "float": np.ones(BATCH)}[kind]
    return np.sum((u * textbook.of_logits(x, labels, w, penalty_weights, **keywords)[0]) ** 2)


@pytest.mark.parametrize("kind", LABEL_KINDS)
@pytest.mark.parametrize("name", KEYWORDS)
@pytest.mark.parametrize("weighted", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_cross_entropy_of_sharded_logits_is_that_of_the_textbook(weighted, name, kind):  # (M24, M25, M26)
    w = CLASS_WEIGHTS if weighted else np.ones(VOCAB)
    expected = partial(sum_of_squares, w=w, kind=kind, **KEYWORDS[name])
    arrays = [np.float64(X), WEIGHTS_OF_LABELS[kind], np.float64(TOKEN_WEIGHTS)]
    gradients = [gradient(expected, arrays, argument) for argument in DIFFERENTIATED[kind]]
    assert_near(of_cases(weighted)[name, kind], (expected(*arrays), gradients), 1e-6)


LIBRARIES = {"reverse": cross_entropy, "forward-mode": forward_mode.cross_entropy}
SMOOTHED = KEYWORDS["smoothing and penalty"]


@cache
def hessian_vector_products(name):
    """Of sums of squared losses along the cosines of the logits, compiled together."""

    def product_of(kind, x, labels):
        head = across_shards(partial(LIBRARIES[name], reduction="none", **SMOOTHED), kind)
        return jax.jvp(jax.grad(lambda x: jnp.sum(head(x, labels) ** 2)), (x,), (jnp.cos(x),))[1]

    @jax.jit
    def evaluate(x, labels):
        return {kind: product_of(kind, x, labels[kind]) for kind in LABEL_KINDS}

    return evaluate(np.float64(X), {"integer": INTEGERS, "float": np.float64(TARGETS)})


@pytest.mark.parametrize("kind", LABEL_KINDS)
@pytest.mark.parametrize("name", ["reverse", pytest.param("forward-mode", marks=pytest.mark.slow)])
def test_products_with_the_hessian_are_those_of_the_textbook(name, kind):
    labels = WEIGHTS_OF_LABELS[kind]

    def by_logits(rows):
        losses, each = textbook.of_logits(*rows, labels, np.ones(VOCAB), np.ones(BATCH), **SMOOTHED)
        return 2 * losses[:, None] * each

    with precision("float64"):
        got = hessian_vector_products(name)[kind]
        assert got.dtype == np.float64
        x = np.float64(X)
        assert_near(got, derivatives(by_logits, [x], [np.cos(x)]), 1e-13)


HIDDEN, KERNEL = rng.normal(size=(BATCH, 4)).astype(np.float32), rng.normal(size=(4, VOCAB)).astype(np.float32)


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
    head = sharded(partial(cross_entropy, axis_name="vocab"), P(None, "vocab"), P("vocab"))
    with pytest.raises(ValueError, match="labels and token_weights: expected the same on all devices"):
        head(X[:2], INTEGERS)


def test_logits_that_are_not_sharded_over_the_axis_are_refused():  # every class would count four times
    with pytest.raises(ValueError, match="logits: expected this device's shard along axis_name"):
        sharded(partial(cross_entropy, axis_name="vocab"), TOKENS, TOKENS, out=TOKENS)(X, INTEGERS)
    with pytest.raises(ValueError, match="kernel: expected this device's shard along axis_name"):
        sharded(partial(linear_cross_entropy, axis_name="vocab"), TOKENS, ALONE, TOKENS)(HIDDEN, KERNEL, INTEGERS)
    with pytest.raises(ValueError, match="a: expected this device's shard along axis_name"):
        sharded(partial(logsumexp, axis=-1, axis_name="vocab"), TOKENS, out=TOKENS)(X)


def test_an_axis_named_twice_is_refused():
    with pytest.raises(ValueError, match="axis_name: expected distinct axes"):
        sharded(partial(cross_entropy, axis_name=("vocab", "vocab")), LOGITS, TOKENS)(X, INTEGERS)


@pytest.mark.parametrize("loss", [cross_entropy, forward_mode.cross_entropy])
def test_wide_labels_work_where_jax_refuses_to_promote_them(loss):
    with precision("float64"), jax.numpy_dtype_promotion("strict"):
        _, by_logits = jax.jit(partial(with_gradient, by_rows(loss)))(X, INTEGERS.astype(np.int64))
    probs = np.exp(np.float64(X)) / np.exp(np.float64(X)).sum(1, keepdims=True)
    assert_near(by_logits, probs - WEIGHTS_OF_LABELS["integer"], 1e-6)


@pytest.mark.parametrize("name", [3, ["vocab"], (0,)])
def test_an_axis_that_is_no_name_is_refused(name):
    with pytest.raises(TypeError, match="axis_name: expected None, the name of a mesh axis"):
        cross_entropy(X, INTEGERS, axis_name=name)


def test_weights_of_exponentials_are_refused_across_shards():
    with pytest.raises(ValueError, match="b: expected None with axis_name='vocab', got weights"):
        sharded(lambda a: logsumexp(a, axis=-1, b=jnp.ones_like(a), axis_name="vocab"), LOGITS, out=TOKENS)(X)
