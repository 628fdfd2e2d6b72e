r"""# A rule of your own, judged.

You write a loss with a gradient of your own. It trains, so it must be right? Here is one with a mistake that training
hides, one that is right on paper, and one that is right; the certificate tells them apart.
"""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

from jaxsoftmax.verify import THEOREMS, certify

# %%
# ## The shape of a rule
#
# A `jax.custom_vjp` has three parts: the value; a forward rule, which gives the value and what to save; and a backward
# rule, which turns the cotangent of the loss into that of the logits. The name is that of the function that it is to be
# judged as.


def with_rule(value, backward):
    """Returns an object with one loss, of which the value and the backward rule are given."""
    loss = jax.custom_vjp(value)

    def forward(logits, labels):
        return value(logits, labels), (logits, labels)

    def pull_back(saved, loss_bar):
        return backward(*saved, loss_bar), None  # labels are integers

    loss.defvjp(forward, pull_back)
    return SimpleNamespace(softmax_cross_entropy_with_integer_labels=lambda logits, labels: loss(logits, labels))


def one_hot(logits, labels):
    """Returns the labels' one-hot rows."""
    return jax.nn.one_hot(labels, logits.shape[-1], dtype=logits.dtype)


# %%
# ## First try
#
# $-\log s_y = \mathrm{LSE}(x) - x_y$, and its gradient is $s - e_y$.


def textbook_value(logits, labels):
    """Returns LSE(x) - x_y."""
    at_label = jnp.take_along_axis(logits, labels[..., None], axis=-1)[..., 0]
    return jax.nn.logsumexp(logits, axis=-1) - at_label


def cotangent_forgotten(logits, labels, loss_bar):
    """Returns s - e_y."""
    return jax.nn.softmax(logits) - one_hot(logits, labels)


first = with_rule(textbook_value, cotangent_forgotten)

# %%
# The gradient of a sum agrees with autodiff's, since each loss's cotangent is 1 there. Under a mean it would be too
# large by the number of tokens, which a learning rate or Adam makes up for. The certificate uses unequal cotangents:

NUMBERS = ["M11", "M15", "M19", "M20"]


def judged(implementation):
    """Returns the report on the theorems about this loss, in float32."""
    return certify(implementation, theorems=NUMBERS, dtypes=["float32"], quick=True)


def summary(report):
    """Prints each theorem's verdict, and the first row that fails."""
    for number in NUMBERS:
        rows = [row for row in report.rows if row.theorem == number]
        failed = [row for row in rows if not row.passed]
        print(f"{number}: {len(rows) - len(failed)} of {len(rows)} rows hold.  {THEOREMS[number].statement}")
        if failed:
            row = failed[0]
            print(f"     {row.quantity} under {row.transformation}, {row.regime}: {row.detail}")


reports = {"cotangent forgotten": judged(first)}
summary(reports["cotangent forgotten"])

# %%
# ## Second try
#
# The chain rule: the cotangent times the gradient.


def textbook_backward(logits, labels, loss_bar):
    """Returns the cotangent times s - e_y (M11)."""
    return loss_bar[..., None] * (jax.nn.softmax(logits) - one_hot(logits, labels))


reports["textbook"] = judged(with_rule(textbook_value, textbook_backward))
summary(reports["textbook"])

# %%
# M11 and M15 hold: the formulas are right. M19 and M20 don't. On a confident row $\mathrm{LSE}(x) - x_y$ subtracts two
# numbers that are equal to all their digits, and so does $s_y - 1$.
#
# ## Third try
#
# With the maximum m taken out, and r the sum of the others' exponentials, nothing is subtracted that is nearly equal:
# $-\log s_y = (m - x_y) + \log(1 + r)$, and $s_y - 1 = \mathrm{expm1}(\log s_y)$.


def parts(logits):
    """Returns the maximum, the exponentials relative to it, and the sum of all of them but one maximum's."""
    m = jnp.max(logits, axis=-1, keepdims=True)
    e = jnp.exp(logits - m)
    is_largest = jnp.arange(logits.shape[-1]) == jnp.argmax(logits, axis=-1, keepdims=True)
    return m, e, jnp.sum(jnp.where(is_largest, 0, e), axis=-1, keepdims=True)


def stable_value(logits, labels):
    """Returns (m - x_y) + log1p(r) (M19)."""
    m, _, r = parts(logits)
    at_label = jnp.take_along_axis(logits, labels[..., None], axis=-1)
    return ((m - at_label) + jnp.log1p(r))[..., 0]


def stable_backward(logits, labels, loss_bar):
    """Returns the cotangent times s, with expm1(-loss) at the label (M20)."""
    _, e, r = parts(logits)
    at_label = jnp.expm1(-stable_value(logits, labels))[..., None]
    return loss_bar[..., None] * jnp.where(one_hot(logits, labels) == 1, at_label, e / (1 + r))


reports["m, r and expm1"] = judged(with_rule(stable_value, stable_backward))
summary(reports["m, r and expm1"])

# %%
# ## The three beside each other
#
# The worst row of each theorem, in ulps; a row over its bound is crossed out.

figure, axes = plt.subplots(figsize=(7.0, 3.6), layout="constrained")
for shift, (name, report) in zip((-0.2, 0.0, 0.2), reports.items(), strict=True):
    worst = [max((r for r in report.rows if r.theorem == n), key=lambda r: r.error / r.bound) for n in NUMBERS]
    heights = np.clip([row.error for row in worst], 0.1, 1e9)
    bars = axes.bar(np.arange(len(NUMBERS)) + shift, heights, width=0.18, label=name)
    for bar, row in zip(bars, worst, strict=True):
        bar.set_hatch("" if row.passed else "xx")
axes.set(yscale="log", ylabel="worst error, ulps of float32", xticks=range(len(NUMBERS)), xticklabels=NUMBERS)
axes.legend()
