r"""# Confident tokens keep learning

In float32 the loss $\mathrm{LSE}(x) - x_y$ of a token is exactly 0 once all other classes have a probability together
below 6e-8, as one class has that is 17 nats behind, and so is the label's entry of the gradient, $s_y - 1$. Here a
head is trained to that point and past it, with optax's loss and with this library's.
"""

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax

from jaxsoftmax import linear_cross_entropy

# %%
# ## A task that can be learned completely
#
# 64 hidden states of 96 numbers, drawn at random, and a label for each: with more numbers than tokens a kernel exists
# that tells all of them apart, by any gap.

TOKENS, EMBED, VOCAB, STEPS = 64, 96, 8, 400
random = np.random.default_rng(0)
hidden = jnp.asarray(random.normal(size=(TOKENS, EMBED)) / np.sqrt(EMBED), jnp.float32)
labels = jnp.asarray(random.integers(VOCAB, size=TOKENS))

# %%
# ## Two losses
#
# The same mean, once over materialised logits, once by the fused head.


def with_optax(kernel):
    """Returns optax's loss, as a mean."""
    return optax.softmax_cross_entropy_with_integer_labels(hidden @ kernel, labels).mean()


def with_jaxsoftmax(kernel):
    """Returns the fused head's loss."""
    return linear_cross_entropy(hidden, kernel, labels)


# %%
# ## Training
#
# A step goes along the gradient divided by its largest entry, and is 0 where the gradient is. So it doesn't matter how
# small a gradient is, only whether it is right. After each step the loss is written down, and the smallest gap between
# a token's label and its next class.


def gaps(kernel):
    """Returns by how many nats each token's label is ahead."""
    logits = hidden @ kernel
    others = jnp.where(jnp.arange(VOCAB) == labels[:, None], -jnp.inf, logits)
    return jnp.take_along_axis(logits, labels[:, None], axis=-1)[:, 0] - jnp.max(others, axis=-1)


def trained(loss):
    """Returns the kernel after training, and the loss and the smallest gap at each step."""

    def step(kernel, _):
        value, gradient = jax.value_and_grad(loss)(kernel)
        largest = jnp.max(jnp.abs(gradient))
        kernel -= 0.1 * jnp.where(largest > 0, gradient / jnp.where(largest > 0, largest, 1), 0)
        return kernel, (value, jnp.min(gaps(kernel)))

    return jax.jit(lambda kernel: jax.lax.scan(step, kernel, length=STEPS))(jnp.zeros((EMBED, VOCAB)))


runs = {"optax": trained(with_optax), "jaxsoftmax": trained(with_jaxsoftmax)}
for name, (kernel, (losses, _)) in runs.items():
    print(f"{name:>10}: loss {losses[-1]:.3g}, smallest gap {gaps(kernel).min():.1f} nats")

# %%
# ## What is lost
#
# At the kernel that optax's training ends with, look at the gradient in the logits, one token a row. The entries of a
# row sum to 0: what lifts the label is what lowers the others. optax's rows don't, as the label's entry is gone. Each
# token still lowers the other classes, and so the labels of other tokens, but none is lifted: the gap stays at 17.

logits = hidden @ runs["optax"][0]


def label_entries(loss):
    """Returns each token's gradient in its label's logit, and the sum of its row."""
    gradient = jax.grad(loss)(logits)
    return jnp.take_along_axis(gradient, labels[:, None], axis=-1)[:, 0], jnp.sum(gradient, axis=-1)


def optax_logits(x):
    """Returns optax's summed loss of logits."""
    return optax.softmax_cross_entropy_with_integer_labels(x, labels).sum()


def jaxsoftmax_logits(x):
    """Returns the head's summed loss of logits: those times the identity."""
    return linear_cross_entropy(x, jnp.eye(VOCAB), labels, reduction="sum")


for name, loss in {"optax": optax_logits, "jaxsoftmax": jaxsoftmax_logits}.items():
    at_label, total = label_entries(loss)
    zeros, first = jnp.sum(at_label == 0), f"{at_label[0]:.3g}, its row's sum {total[0]:.1g}"
    print(f"{name:>10}: {zeros} of {TOKENS} label entries are 0; that of token 0 is {first}")

# %%
# ## The curves

figure, (left, right) = plt.subplots(1, 2, figsize=(9.0, 3.4), layout="constrained")
for name, (_, (losses, smallest)) in runs.items():
    left.semilogy(np.where(losses > 0, losses, np.nan), label=name)
    right.plot(smallest, label=name)
left.set(xlabel="step", ylabel="loss (a curve ends where it is 0)")
right.set(xlabel="step", ylabel="smallest gap, nats")
left.legend()
