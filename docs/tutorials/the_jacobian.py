r"""# The softmax Jacobian, three times

On paper, by autodiff, and by certificate: $\partial s_i / \partial x_j = s_i (\delta_{ij} - s_j)$, which as a matrix is
$J = \mathrm{diag}(s) - s s^\top$.
"""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

import jaxsoftmax
from jaxsoftmax.verify import certify

# %%
# ## On paper
#
# With $e = \exp(x)$ and $n = \mathbf 1^\top e$, softmax is $s = e / n$. By the product rule, and as
# $\mathrm d e = \mathrm{diag}(e)\,\mathrm d x$ and $\mathrm d n = e^\top \mathrm d x$,
#
# $$ \mathrm d s = \frac{\mathrm{diag}(e)\,\mathrm d x}{n} - \frac{e\, e^\top \mathrm d x}{n^2}
# = \bigl(\mathrm{diag}(s) - s s^\top\bigr)\,\mathrm d x. $$
#
# The library has it as a formula, in `jaxsoftmax.analytic`:

x = jnp.array([2.0, 1.0, 0.0, -1.0])
s = jaxsoftmax.softmax(x)
J = jaxsoftmax.analytic.softmax_jacobian(x)
print(jnp.abs(J - (jnp.diag(s) - jnp.outer(s, s))).max())

# %%
# ## By autodiff
#
# In forward and in reverse mode, and as the Hessian of log-sum-exp, whose gradient is softmax:

for name, matrix in {
    "jacfwd(softmax)": jax.jit(jax.jacfwd(jaxsoftmax.softmax))(x),
    "jacrev(softmax)": jax.jit(jax.jacrev(jaxsoftmax.softmax))(x),
    "hessian(logsumexp)": jax.jit(jax.hessian(jaxsoftmax.logsumexp))(x),
}.items():
    print(f"{name:>18}: largest difference {jnp.abs(matrix - J).max():.1e}")

# %%
# ## What kind of matrix
#
# It is symmetric. $J \mathbf 1 = 0$: moving all logits alike changes nothing. It is positive semidefinite, with that
# one eigenvalue 0.

print("rows sum to", jnp.abs(J.sum(axis=1)).max())
print("eigenvalues", jnp.linalg.eigvalsh(J))

# %%
# ## By certificate
#
# 50-digit arithmetic is the judge: M5 is the matrix, M6 its products and structure, M21 the confident rows. Of each
# theorem the row nearest its bound:

only_softmax = SimpleNamespace(softmax=jaxsoftmax.softmax)
report = certify(only_softmax, theorems=["M5", "M6", "M21"], dtypes=["float32"], quick=True)
for number in ("M5", "M6", "M21"):
    rows = [row for row in report.rows if row.theorem == number]
    worst = max(rows, key=lambda row: row.bound_fraction)
    print(f"{number:>3}: {len(rows)} rows; {worst.error:.2f} of {worst.bound} ulps, {worst.quantity}, {worst.regime}")
print("passed" if report.passed else "FAILED")

# %%
# ## Where autodiff of the formula isn't enough
#
# $s_1 (1 - s_1)$ is of the size of $1 - s_1$. Of a confident entry, $s_1$ rounds to 1 and that difference to 0, so the
# formula on paper is right and its evaluation isn't. The rule of `jaxsoftmax.softmax` never forms it: it centres at the
# confident entry, and sums the others.

gap = np.linspace(0.0, 40.0, 161)
pairs = jnp.asarray(np.stack([gap, np.zeros_like(gap)], axis=1), jnp.float32)
exact = np.exp(-gap) / (1 + np.exp(-gap)) ** 2  # of s = 1 / (1 + exp(-gap)), in float64


def first_entry(softmax):
    """Returns the first entry of each pair's Jacobian."""
    return np.asarray(jax.jit(jax.vmap(jax.jacrev(softmax)))(pairs)[:, 0, 0], np.float64)


figure, (left, right) = plt.subplots(1, 2, figsize=(9.0, 3.4), layout="constrained")
image = left.imshow(J, cmap="RdBu_r", vmin=-0.25, vmax=0.25)
left.set(title="J at [2, 1, 0, -1]", xlabel="j", ylabel="i", xticks=range(4), yticks=range(4))
figure.colorbar(image, ax=left)
for name, softmax in {"jax.nn.softmax": jax.nn.softmax, "jaxsoftmax.softmax": jaxsoftmax.softmax}.items():
    right.semilogy(gap, np.maximum(np.abs(first_entry(softmax) / exact - 1), 1e-9), label=name)
right.set(xlabel="gap, nats", ylabel="relative error of J[0, 0], float32")
right.legend()
