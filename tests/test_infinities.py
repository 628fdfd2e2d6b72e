"""NaN, infinite logits and extreme weights: what the docs' table says of each loss, and of optax's and PyTorch's."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxsoftmax
from docs.generate.infinities import LOSSES, cases
from tests.tiers import in_tiers

LABELS = {"integer": np.int32(0), "float": np.float32([1, 0, 0])}
OPTIONS = list(dict.fromkeys(case["option"] for case in cases()))
OPTAX = {"integer": optax.softmax_cross_entropy_with_integer_labels, "float": optax.softmax_cross_entropy}


def outcomes(option, column):
    """The rows of logits of an option, and the losses and gradients that the table has for them."""
    found = [case for case in cases() if case["option"] == option and column in case]
    rows = np.float32([case["row"] for case in found])
    return rows, [np.float32([case[column][part] for case in found]) for part in (0, 1)]


def keywords(option):
    return next(case["keywords"] for case in cases() if case["option"] == option)


def assert_table(got, option, column):
    rows, expected = outcomes(option, column)
    for of_rows, right in zip(got, expected, strict=True):
        np.testing.assert_allclose(of_rows, right, rtol=5e-4, err_msg=str(rows))


def of_rows(functions, option, column="integer"):
    """Values and gradients of functions of a row, in one program."""
    rows, _ = outcomes(option, column)
    return jax.jit(jax.vmap(lambda row: {name: jax.value_and_grad(f)(row) for name, f in functions.items()}))(rows)


FIRST = ("", "class weight 0 of the label", "token weight 0", "token weight ∞", "soft cap 10")


@in_tiers("option", OPTIONS, FIRST)
def test_losses_of_logits_and_the_head_whose_bias_they_are(option):
    given = keywords(option)
    of_tokens = {name: [value] if name == "token_weights" else value for name, value in given.items()}

    def head(row):
        arguments = jnp.zeros((1, 2)), jnp.zeros((2, 3)), np.zeros(1, np.int32)
        return jaxsoftmax.linear_cross_entropy(*arguments, bias=row, reduction="none", **of_tokens)[0]

    def loss_with(labels):
        return lambda row: jaxsoftmax.cross_entropy(row, labels, reduction="none", **given)

    got = of_rows({name: loss_with(labels) for name, labels in LABELS.items()} | {"head": head}, option)
    for name in LOSSES:
        assert_table(got[name], option, name)
    assert_table(got["head"], option, "integer")


def test_drop_ins_are_the_losses_without_options():
    integer, floating = jaxsoftmax.softmax_cross_entropy_with_integer_labels, jaxsoftmax.softmax_cross_entropy
    functions = {
        "integer": lambda row: integer(row, LABELS["integer"]),
        "float": lambda row: floating(row, LABELS["float"]),
    }
    for name, got in of_rows(functions, "").items():
        assert_table(got, "", name)


@pytest.mark.parametrize("option", ["", "token weight 0", "token weight ∞"])
def test_optax_does_what_the_table_says(option):
    weight = keywords(option).get("token_weights", 1.0)

    def weighted(loss):
        return lambda row: weight * OPTAX[loss](row, LABELS[loss])

    for name, got in of_rows({name: weighted(name) for name in LOSSES}, option).items():
        assert_table(got, option, f"optax_{name}")


@pytest.mark.slow
@pytest.mark.parametrize("loss", LOSSES)
def test_pytorch_does_what_the_table_says(loss):
    torch = pytest.importorskip("torch", reason="PyTorch is a peer, which the extra `peers` installs")
    for option in OPTIONS:
        rows, (losses, gradients) = outcomes(option, f"torch_{loss}")
        given = keywords(option)
        weights = torch.tensor(given["class_weights"]) if "class_weights" in given else None
        for row, right, gradient in zip(rows, losses, gradients, strict=True):
            logits = torch.tensor(row, requires_grad=True)
            labels = torch.tensor(LABELS[loss]) if loss == "float" else torch.tensor(0)
            smoothing = given.get("label_smoothing", 0.0)
            value = torch.nn.functional.cross_entropy(
                logits, labels, weights, reduction="sum", label_smoothing=smoothing
            )
            value = given.get("token_weights", 1.0) * value
            value.backward()
            np.testing.assert_allclose(value.detach(), right, rtol=5e-4, err_msg=f"{option} {row}")
            np.testing.assert_allclose(logits.grad, gradient, rtol=5e-4, err_msg=f"{option} {row}")
