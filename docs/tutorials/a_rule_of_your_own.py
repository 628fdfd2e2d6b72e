r"""# A rule of your own, judged

You write a loss with a gradient of your own. It trains, so it must be right? Here is one with a mistake that training
hides, one that is right on paper, one that is right but for ties, and one that is right; the certificate tells them
apart.
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
# large by the number of tokens, which a learning rate or Adam makes up for. M14 is about the mean.
# (Of one token's loss M11 would name the mistake more directly.)

NUMBERS = ["M14", "M15", "M19", "M20"]


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
# M14 and M15 hold: the formulas are right. M19 and M20 don't. On a confident row $\mathrm{LSE}(x) - x_y$ subtracts two
# numbers that are equal to all their digits, and so does $s_y - 1$.
#
# ## Third try
#
# With the maximum m taken out, and r the sum of the others' exponentials, nothing is subtracted that is nearly equal:
# $-\log s_y = (m - x_y) + \mathrm{log1p}(r)$, and $s_y - 1 = -r / (1 + r)$ where the label leads, with more
# than half of the sum.


def with_r(m_is_constant):
    """Returns the loss with M19 and M20; differentiated once more, m is a function of the logits, or a constant."""

    def parts(logits, labels):
        m = jnp.max(logits, axis=-1, keepdims=True)
        e = jnp.exp(logits - (jax.lax.stop_gradient(m) if m_is_constant else m))
        first = jnp.argmax(logits, axis=-1)[..., None]
        left_out = jnp.take_along_axis(e, first, axis=-1) if m_is_constant else 1.0
        r = jnp.sum(jnp.where(jnp.arange(logits.shape[-1]) == first, 0, e), axis=-1, keepdims=True)
        gap = m - jnp.take_along_axis(logits, labels[..., None], axis=-1)
        return gap, e, r, left_out, (labels[..., None] == first) & (r < 1)

    def value(logits, labels):
        gap, _, r, _, _ = parts(logits, labels)
        return (gap + jnp.log1p(r))[..., 0]

    def backward(logits, labels, loss_bar):
        _, e, r, left_out, leads = parts(logits, labels)
        s = e / (left_out + r)
        at_label = jnp.where(leads, -r / (left_out + r), s - 1)
        return loss_bar[..., None] * jnp.where(one_hot(logits, labels) == 1, at_label, s)

    return with_rule(value, backward)


reports["with m and r"] = judged(with_r(m_is_constant=False))
summary(reports["with m and r"])

# %%
# The tails are there. But now the Hessian is wrong, and only where logits are tied. For it JAX differentiates the
# backward rule, in which m is a maximum, whose derivative is shared among equals, while r leaves out one of them.
#
# ## Fourth try
#
# Softmax doesn't depend on m (M7), so m may be a constant. But then the 1 in $1 + r$ is not: it is the exponential left
# out, $\exp(x_k - m)$, whose value is 1 and whose derivative is 1 too.

reports["with a constant m"] = judged(with_r(m_is_constant=True))
summary(reports["with a constant m"])

# %%
# ## The four beside each other
#
# The worst row of each theorem, in ulps; a row over its bound is hatched.

figure, axes = plt.subplots(figsize=(7.0, 3.6), layout="constrained")
for shift, (name, report) in zip((-0.3, -0.1, 0.1, 0.3), reports.items(), strict=True):
    worst = [max((r for r in report.rows if r.theorem == n), key=lambda r: r.bound_fraction) for n in NUMBERS]
    heights = np.clip([row.error for row in worst], 0.1, 1e8)
    bars = axes.bar(np.arange(len(NUMBERS)) + shift, heights, width=0.18, label=name)
    for bar, row in zip(bars, worst, strict=True):
        bar.set_hatch("" if row.passed else "xx")
axes.set(yscale="log", ylabel="worst error, ulps of float32", xticks=range(len(NUMBERS)), xticklabels=NUMBERS)
figure.legend(loc="outside upper center", ncols=len(reports))
